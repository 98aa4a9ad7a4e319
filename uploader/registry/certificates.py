"""Certificates for one registry, where Docker, Podman and Skopeo look for them: `certs.d/HOST[:PORT]/`.

`*.crt` are authorities to trust, `NAME.cert` with `NAME.key` is who we are (containers-certs.d(5)).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from uploader.errors import InputError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

_FOLDERS: Final = ("/etc/containers/certs.d", "/etc/docker/certs.d")


@dataclass(frozen=True, slots=True)
class Certificates:
    """Authorities for one registry alone, and pairs of our certificate and its key, as PEM files."""

    authorities: tuple[Path, ...] = ()
    own: tuple[tuple[Path, Path], ...] = ()

    def load(self, context: ssl.SSLContext) -> None:
        """Let connections use them; raises InputError for files that cannot be used."""
        for authority in self.authorities:
            try:
                context.load_verify_locations(cafile=authority)
            except OSError as error:
                raise InputError(f"{authority}: {error.strerror or 'holds no certificate in PEM form'}") from error
        for certificate, key in self.own:
            try:
                context.load_cert_chain(certificate, key, password=_no_password)
            except OSError as error:
                reason = "no certificate and key in PEM form that belong together" if not error.errno else None
                raise InputError(f"client certificate {certificate} with {key}: {reason or error.strerror}") from None


def find_certificates(host: str, environment: Mapping[str, str]) -> Certificates:
    """What lies in the first `certs.d` that has a folder for `host[:port]`; raises InputError for half a pair."""
    home = environment.get("HOME")
    folders = [*([f"{home}/.config/containers/certs.d"] if home else []), *_FOLDERS]
    for folder in (Path(folder) / host for folder in folders):
        with suppress(FileNotFoundError, NotADirectoryError):
            return _in_folder(folder)
    return Certificates()


def _in_folder(folder: Path) -> Certificates:
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix in {".crt", ".cert", ".key"})
    except PermissionError as error:
        raise InputError(f"cannot read the certificates in {folder}: {error.strerror}") from error
    certificates = {path.stem: path for path in names if path.suffix == ".cert"}
    keys = {path.stem: path for path in names if path.suffix == ".key"}
    if lonely := sorted(certificates.keys() ^ keys.keys()):
        raise InputError(f"{folder}: {lonely[0]}.cert and {lonely[0]}.key go together, and one of them is missing")
    return Certificates(
        tuple(path for path in names if path.suffix == ".crt"),
        tuple((certificates[name], keys[name]) for name in sorted(certificates)),
    )


def _no_password() -> str:
    """A key with a passphrase is refused: without this, OpenSSL would ask for it on the terminal."""
    return ""
