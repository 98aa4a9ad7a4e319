"""A request to the fake registry and its answer as plain values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Kind = Literal[
    "ping",
    "head-blob",
    "get-blob",
    "delete-blob",
    "open",
    "mount",
    "patch",
    "put-blob",
    "status",
    "cancel",
    "head-manifest",
    "get-manifest",
    "put-manifest",
    "delete-manifest",
    "tags",
    "token",
    "other",
]
"""What a request is for: `open` and `mount` are the POSTs, `put-blob` closes an upload."""

_NOTHING: Mapping[str, str] = MappingProxyType({})

_UPLOAD = r"/v2/(?P<repository>.+)/blobs/uploads/(?P<session>[^/]+)"
_BLOB = r"/v2/(?P<repository>.+)/blobs/(?P<reference>[^/]+)"
_MANIFEST = r"/v2/(?P<repository>.+)/manifests/(?P<reference>[^/]+)"

_ROUTES: tuple[tuple[str, str, Kind], ...] = (
    ("GET", r"/v2/?", "ping"),
    ("GET", r"/token", "token"),
    ("GET", r"/v2/(?P<repository>.+)/tags/list", "tags"),
    ("POST", r"/v2/(?P<repository>.+)/blobs/uploads/?", "open"),
    ("PATCH", _UPLOAD, "patch"),
    ("PUT", _UPLOAD, "put-blob"),
    ("GET", _UPLOAD, "status"),
    ("DELETE", _UPLOAD, "cancel"),
    ("HEAD", _BLOB, "head-blob"),
    ("GET", _BLOB, "get-blob"),
    ("DELETE", _BLOB, "delete-blob"),
    ("HEAD", _MANIFEST, "head-manifest"),
    ("GET", _MANIFEST, "get-manifest"),
    ("PUT", _MANIFEST, "put-manifest"),
    ("DELETE", _MANIFEST, "delete-manifest"),
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request without its body; header names are lower case, path and query are decoded.

    `reference` is the digest or tag it is about; for `patch`, `status` and `cancel` the upload's id.
    """

    kind: Kind
    method: str
    path: str
    origin: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    repository: str = ""
    reference: str = ""
    session: str = ""

    def first(self, name: str) -> str | None:
        """The first query value of that name."""
        return next((value for key, value in self.query if key == name), None)

    def every(self, name: str) -> tuple[str, ...]:
        """All query values of that name."""
        return tuple(value for key, value in self.query if key == name)

    @property
    def length(self) -> int | None:
        """The announced size of the body; None when none was announced."""
        text = self.headers.get("content-length", "")
        if text.isdecimal():
            return int(text)
        return None if "transfer-encoding" in self.headers else 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; header names are lower case. `cut`: the connection breaks in the middle of the body.

    `forbidden`: why a client that knows this registry would not have asked.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    body: bytes = b""
    cut: bool = False
    forbidden: str = ""

    def with_headers(self, **headers: str) -> Reply:
        """The same answer with more headers; `_` in a name stands for `-`."""
        added = {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(self, headers={**self.headers, **added})


@dataclass(frozen=True, slots=True)
class Intake:
    """Where a request's body goes: each piece to `receive`, then `finish`; or `broken` if it ended early."""

    receive: Callable[[bytes], None]
    finish: Callable[[], Reply]
    broken: Callable[[], None]


Decision = Reply | Intake
"""The answer at once, or after the body."""


def read_call(
    method: str,
    path: str,
    *,
    origin: str = "http://registry.test",
    query: tuple[tuple[str, str], ...] = (),
    headers: Mapping[str, str] = _NOTHING,
) -> Call:
    """Sort a request by what it is for."""
    bare = Call("other", method, path, origin, query, {name.lower(): value for name, value in headers.items()})
    for expected, pattern, kind in _ROUTES:
        if expected == method and (match := re.fullmatch(pattern, path)):
            return _named(replace(bare, kind=kind, **_parts(match)))
    return bare


def _parts(match: re.Match[str]) -> dict[str, Any]:
    """Of repository, reference and session those that the path has."""
    return match.groupdict()


def _named(call: Call) -> Call:
    match call.kind:
        case "open" if call.first("mount") is not None:
            return replace(call, kind="mount", reference=call.first("mount") or "")
        case "open" | "put-blob":
            return replace(call, reference=call.first("digest") or "")
        case "patch" | "status" | "cancel":
            return replace(call, reference=call.session.partition(".")[0])
        case _:
            return call


def error(status: int, code: str | tuple[str, ...], message: str, **headers: str) -> Reply:
    """A refusal with the body that the spec describes ("Error Codes")."""
    codes = (code,) if isinstance(code, str) else code
    body = json.dumps({"errors": [{"code": one, "message": message, "detail": None} for one in codes]}).encode()
    return Reply(status, {"content-type": "application/json"}, body).with_headers(**headers)
