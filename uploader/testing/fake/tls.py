"""A throw-away certificate authority and a certificate for loopback, made by the `openssl` program."""

from __future__ import annotations

import shutil
import ssl
from typing import TYPE_CHECKING

import anyio

from uploader.testing.parts import PartMissing

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
_AUTHORITY = (
    "-addext", "basicConstraints=critical,CA:TRUE",
    "-addext", "keyUsage=critical,keyCertSign,cRLSign",
)  # fmt: skip
NAMES = ("localhost", "registry.test", "*.docker.io", "gitlab.com", "*.gitlab.com")
"""What the certificate is for: names that tests let lead to loopback."""

_SERVER = (
    "-addext", "basicConstraints=critical,CA:FALSE",
    "-addext", f"subjectAltName=IP:127.0.0.1,{','.join(f'DNS:{name}' for name in NAMES)}",
)  # fmt: skip


async def make_certificates(folder: Path, *, mutual: bool = False) -> tuple[Path, ssl.SSLContext]:
    """Write the authority's certificate (its path comes back), and the context of a server it vouches for.

    With `mutual` that server wants the client's certificate too: `client.cert` with `client.key`, beside it.
    """
    program = shutil.which("openssl")
    if program is None:
        raise PartMissing("openssl is not installed: a fake registry with TLS needs it to make certificates")
    authority, key = folder / "ca.pem", folder / "ca.key"
    own, own_key = folder / "server.pem", folder / "server.key"
    make = (program, "req", "-x509", *_KEY)
    await anyio.run_process(
        [
            *make,
            "-subj",
            "/CN=fake registry authority",
            *_AUTHORITY,
            "-keyout",
            str(key),
            "-out",
            str(authority),
        ]
    )
    signed = ("-CA", str(authority), "-CAkey", str(key))
    await anyio.run_process(
        [*make, "-subj", "/CN=fake registry", *_SERVER, *signed, "-keyout", str(own_key), "-out", str(own)]
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, own_key)
    if mutual:
        own, own_key = folder / "client.cert", folder / "client.key"
        await anyio.run_process([*make, "-subj", "/CN=a client", *signed, "-keyout", str(own_key), "-out", str(own)])
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority)
    return authority, context
