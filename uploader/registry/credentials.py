"""Who we are to a registry: the environment, then Docker's `config.json` and its credential helpers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from uploader.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_HELPER_SECONDS = 30.0
_LARGEST_CONFIG_BYTES = 1024 * 1024
_LARGEST_SECRET_BYTES = 64 * 1024
_DOCKER_HUB = ("https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io")
_OURS = ("UPLOADER_USERNAME", "UPLOADER_PASSWORD")  # and these with _FILE
_IDENTITY_USER = "<token>"  # how a credential helper says that the secret is an identity token


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password, or an identity (refresh) token. Never shown by repr."""

    user: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        try:
            _ = self.basic, self.identity_token.encode()
        except UnicodeEncodeError:
            raise InputError("a registry login holds characters that are not Unicode: log in again") from None

    @property
    def basic(self) -> str:
        """The value of a Basic Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode(errors="surrogateescape")).decode()


def without_login(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a host that is not the one that UPLOADER_USERNAME and UPLOADER_PASSWORD are meant for."""
    return {name: value for name, value in environment.items() if not name.startswith(_OURS)}


async def find_credentials(host: str, environment: Mapping[str, str]) -> Credentials | None:
    """The credentials for `host[:port]`: UPLOADER_USERNAME and UPLOADER_PASSWORD, else those Docker would use.

    Raises InputError when what is configured cannot be read.
    """
    user = _setting(environment, "UPLOADER_USERNAME")
    password = _setting(environment, "UPLOADER_PASSWORD")
    if user is not None and password is not None:
        return Credentials(user, password)
    if user is not None or password is not None:
        raise InputError("UPLOADER_USERNAME and UPLOADER_PASSWORD go together: only one of them is set")
    return await _from_docker(host, environment)


def _setting(environment: Mapping[str, str], name: str) -> str | None:
    """The variable, or the content of the file that NAME_FILE names."""
    if (value := environment.get(name)) is not None:
        return value
    if (path := environment.get(f"{name}_FILE")) is None:
        return None
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_SECRET_BYTES + 1)
        if len(content) > _LARGEST_SECRET_BYTES:
            raise InputError(f"{name}_FILE: {path} is longer than {_LARGEST_SECRET_BYTES} bytes: is it the right file?")
        return content.decode().rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{name}_FILE: cannot read {path}: {_reason(error)}") from error


async def _from_docker(host: str, environment: Mapping[str, str]) -> Credentials | None:
    folder = environment.get("DOCKER_CONFIG") or str(Path(environment.get("HOME", "/")) / ".docker")
    path = Path(folder) / "config.json"
    config = _read_config(path)
    names = _DOCKER_HUB if host in _DOCKER_HUB else (host, f"https://{host}", f"http://{host}", f"https://{host}/v2/")
    helpers = _mapping(config.get("credHelpers"))
    if helper := next((helpers[name] for name in names if name in helpers), config.get("credsStore")):
        for name in names[:2]:
            if (found := await _ask_helper(str(helper), name, environment)) is not None:
                return found
    entries = _mapping(config.get("auths"))
    for name in names:
        if (entry := entries.get(name)) is not None and (found := _from_entry(path, name, _mapping(entry))):
            return found
    return None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot read the registry logins in {path}: {_reason(error)}") from error
    try:
        config = json.loads(text if len(text) <= _LARGEST_CONFIG_BYTES else b"")
    except (ValueError, RecursionError):  # the first would bring the file's text along
        raise InputError(f"the registry logins in {path} are not JSON: mend or move the file") from None
    return _mapping(config)


def _from_entry(path: Path, name: str, entry: dict[str, Any]) -> Credentials | None:
    token = entry.get("identitytoken")
    try:
        decoded = base64.b64decode(str(entry.get("auth") or ""), validate=True).decode().rstrip("\0")
    except ValueError:  # its text would show the login
        raise InputError(f"the login for {name} in {path} is not base64: log in again") from None
    user, colon, password = decoded.partition(":")
    if decoded and not colon:  # Docker takes it for broken, too; as a user's name it would be shown
        raise InputError(f"the login for {name} in {path} has no colon between user and password: log in again")
    user = user or str(entry.get("username") or "")
    password = password or str(entry.get("password") or "")
    if isinstance(token, str) and token:
        return Credentials(user, "", token)
    return Credentials(user, password) if user else None


async def _ask_helper(helper: str, name: str, environment: Mapping[str, str]) -> Credentials | None:
    """The docker credential helper protocol: the server's name on standard input, JSON on standard output."""
    if os.sep in helper or not helper.isprintable():
        raise InputError(f"the credential helper {helper[:50]!r} in Docker's config.json is not a plain name")
    program = f"docker-credential-{helper}"
    run = partial(_run_helper, program, name, dict(environment))
    try:
        done = await anyio.to_thread.run_sync(run, abandon_on_cancel=True)
    except OSError as error:
        raise InputError(f"the credential helper {program} cannot be run: {_reason(error)}") from error
    except subprocess.TimeoutExpired:  # holds what the helper has said so far
        raise InputError(f"the credential helper {program} gave no answer within {_HELPER_SECONDS:.0f} s") from None
    if done.returncode != 0:
        if b"credentials not found" in done.stdout + done.stderr:
            return None
        raise InputError(f"the credential helper {program} failed for {name} with exit status {done.returncode}")
    try:
        answer = _mapping(json.loads(done.stdout))
    except (ValueError, RecursionError):  # the first would bring the secret along
        raise InputError(f"the credential helper {program} did not answer with JSON") from None
    user, secret = str(answer.get("Username") or ""), str(answer.get("Secret") or "")
    if user == _IDENTITY_USER:
        return Credentials("", "", secret)
    return Credentials(user, secret) if user else None


def _run_helper(program: str, name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """In a thread, since anyio's own minds a helper that does not read what it is given."""
    return subprocess.run(  # noqa: S603
        [program, "get"],
        input=name.encode(),
        env=environment,
        capture_output=True,
        check=False,
        timeout=_HELPER_SECONDS,
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else type(error).__name__
