"""Requests and responses of the distribution protocol as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def _no_headers() -> Mapping[str, str]:
    return MappingProxyType({})


class Body(Protocol):
    """Content that can be read again from any place: what a retry needs."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; raises SourceError when the file no longer has them."""


class Sink(Protocol):
    """Where the body of a successful answer goes that is too large to be held."""

    def begin(self) -> None:
        """Another answer begins: what was written before counts no more."""

    def write(self, chunk: bytes, /) -> object:
        """The next bytes."""


@dataclass(frozen=True, slots=True)
class Slice:
    """`length` bytes of `body`, from `offset`."""

    body: Body
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `url` is absolute, or a path at the registry's origin; header names are lower case.

    `repeatable`: sending it twice does no harm, so the retry policy may do it when in doubt.
    `secret`: its body is for the host of `url` alone, and so is not taken along a redirect to another.
    `sink` takes the body of a 200, instead of the response.
    `subject` names the thing in messages, because the URL of an upload session may hold secrets.
    """

    method: Method
    url: str = field(repr=False)
    subject: str
    headers: Mapping[str, str] = field(default_factory=_no_headers)
    body: bytes | Slice = field(default=b"", repr=False)
    repeatable: bool = True
    secret: bool = False
    sink: Sink | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """The length of the body in bytes."""
        return self.body.length if isinstance(self.body, Slice) else len(self.body)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; header names are lower case; `body` is cut at a limit; `attempts` counts the requests it took.

    `elsewhere`: another host than the registry gave it, after a redirect or at a Location. Its headers and its body
    may hold secrets (a session's URL, a token), so repr leaves them out.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=_no_headers, repr=False)
    body: bytes = field(default=b"", repr=False)
    attempts: int = 1
    elsewhere: bool = False

    def header(self, name: str) -> str:
        """The header's value, or an empty string."""
        return self.headers.get(name, "")


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer: the connection broke or timed out. Whether the request took effect is not known.

    `connected` is False where no connection was made at all, so that the request cannot have taken effect.
    `complete`: all of the request had gone out, so that it may well have. `elsewhere`: it was another host than the
    registry.
    """

    reason: str
    attempts: int = 1
    connected: bool = True
    elsewhere: bool = False
    complete: bool = False


Answer = Response | Lost

BLOB_UNKNOWN: Final = frozenset({"BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"})
"""Error codes of a manifest that names a blob which is not there, or not yet (distribution-spec, "Error Codes")."""


def error_codes(body: bytes) -> tuple[tuple[str, str], ...]:
    """The (code, message) pairs of an error body (distribution-spec, "Error Codes"); () for others."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    errors = document.get("errors") if isinstance(document, dict) else None
    if not isinstance(errors, list):
        return ()
    return tuple(
        (_text(error.get("code"))[:64], _text(error.get("message"))[:300])
        for error in errors[:8]
        if isinstance(error, dict)
    )


def has_size(answer: Response, size: int) -> bool:
    """Whether the answer to a HEAD of a blob agrees that it has `size` bytes; one that tells no size does."""
    told = answer.header("content-length").strip()
    return not told or told == str(size)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
