"""Who may ask the daemon for what: bearer tokens, named, and kept only as hashes."""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from uploader.errors import InputError
from uploader.service.allowed import DestinationPattern, destination_pattern, may_go_to

if TYPE_CHECKING:
    from pathlib import Path

    from uploader.model.reference import Destination

Scope = Literal["read", "full"]

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_KEYS: Final = frozenset({"name", "sha256", "scope", "destinations"})
_EXAMPLE: Final = (
    '[[token]] with name = "ci", sha256 = "…" (of the token: `printf %s TOKEN | sha256sum`), scope = "full"'
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who may do something: `read` looks, `full` also submits, cancels and retries."""

    name: str
    scope: Scope
    destinations: tuple[DestinationPattern, ...] | None = None

    def may_push_to(self, destination: Destination) -> bool:
        """Beside what the daemon allows; a layout folder is given as it really lies."""
        return may_go_to(self.destinations, destination)


ANYBODY: Final = Caller("anybody", "full")
"""Whoever can reach a daemon without tokens, which listens on loopback only."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The callers by the SHA-256 of their tokens."""

    callers: tuple[tuple[str, Caller], ...]

    def find(self, token: str) -> Caller | None:
        """Who has this token; takes the same time whoever it is."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        found: Caller | None = None
        for known, caller in self.callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def read_tokens(path: Path) -> Tokens:
    """Read the file of `--tokens`; raises InputError."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the tokens in {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"the tokens in {path} are not TOML: {error}") from error
    entries = document.get("token")
    if not isinstance(entries, list) or not entries or set(document) != {"token"}:
        raise InputError(f"{path} holds no tokens: write {_EXAMPLE}")
    return Tokens(tuple(_caller(path, number, entry) for number, entry in enumerate(entries, 1)))


def _caller(path: Path, number: int, entry: Any) -> tuple[str, Caller]:
    where = f"token {number} of {path}"
    if not isinstance(entry, dict) or (unknown := sorted(entry.keys() - _KEYS)):
        raise InputError(
            f"{where} has an unknown key {unknown[0]!r}" if isinstance(entry, dict) else f"{where}: {_EXAMPLE}"
        )
    name, digest, scope = entry.get("name"), entry.get("sha256"), entry.get("scope", "read")
    patterns = entry.get("destinations")
    if not isinstance(name, str) or not name:
        raise InputError(f"{where} has no name")
    if not isinstance(digest, str) or not _HASH.fullmatch(digest.lower()):
        raise InputError(f"{where}: sha256 is the hash of the token, 64 hexadecimal digits")
    if scope not in {"read", "full"}:
        raise InputError(f'{where}: scope is "read" or "full"')
    if patterns is not None and not (isinstance(patterns, list) and all(isinstance(one, str) for one in patterns)):
        raise InputError(f'{where}: destinations is a list such as ["ghcr.io/org/**"]')
    allowed = None if patterns is None else tuple(map(destination_pattern, patterns))
    return digest.lower(), Caller(name, scope, allowed)
