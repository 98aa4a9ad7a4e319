"""Faults as values: on which requests of the fake registry, how often, and what goes wrong then."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    import anyio

    from uploader.testing.fake.exchange import Call, Kind

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer with this and do nothing. `retry_after`: seconds, or the header's text.

    The body lists the error codes, each with the message, unless `body` gives another. With
    `read_body=False` the answer comes before the request's body is read, and the connection ends.
    """

    status: int
    retry_after: str | int | None = None
    codes: tuple[str, ...] = ()
    message: str = "refused by a fault"
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    body: bytes | None = None
    read_body: bool = True


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection after so many bytes of the body; 0 = at once, nothing of it is seen."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stall:
    """Read so many bytes of the body, then nothing more, until the client gives up.

    When `release` is set, the connection breaks; to go on normally instead, use Hold.
    """

    release: anyio.Event | None = None
    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait for the event, then go on as if nothing had been: for tests of order."""

    event: anyio.Event


@dataclass(frozen=True, slots=True)
class AcceptThenReset:
    """Do all that was asked, then break the connection instead of answering.

    What was written can be found only after so many further requests (of any kind): a close that takes its time.
    """

    visible_after_requests: int = 0


@dataclass(frozen=True, slots=True)
class LyingDigest:
    """Do what was asked, but name another digest in Docker-Content-Digest."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """Break the connection in the middle of the answer's body."""


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """401, with a challenge that asks for this scope."""

    scope: str


@dataclass(frozen=True, slots=True)
class RefuseMount:
    """Refuse a mount with this status; 202 opens an upload instead."""

    status: int


@dataclass(frozen=True, slots=True)
class SessionLost:
    """Forget the upload that the request is about, and answer 404 BLOB_UPLOAD_UNKNOWN."""


@dataclass(frozen=True, slots=True)
class Late:
    """Accept, but let readers find it only after so many further requests (of any kind)."""

    visible_after_requests: int


Action = (
    Answer
    | Reset
    | Stall
    | Hold
    | AcceptThenReset
    | LyingDigest
    | Truncate
    | Unauthorized
    | RefuseMount
    | SessionLost
    | Late
)


@dataclass(frozen=True, slots=True)
class Fault:
    """`then` happens to requests of the kinds `on` whose repository and reference `match`.

    Of these the first `skip` pass; then `times` are hit (None = all), each with the given chance.
    `match` is searched for in `REPOSITORY REFERENCE`. A request that is not let in (401) meets no fault.

    Mind that HTTP libraries may send a request again by themselves when a connection breaks (aiohttp does,
    once, for GET, HEAD, PUT and DELETE): with `times=1` their users then never see the fault. The registry's
    record shows every one of them.
    """

    on: Kind | AbstractSet[Kind] | Literal["any"]
    then: Action
    times: int | None = None
    skip: int = 0
    chance: float = 1.0
    match: str | None = None

    def concerns(self, call: Call) -> bool:
        """Whether the request is one of those the fault is about."""
        kinds = {self.on} if isinstance(self.on, str) else self.on
        if call.kind not in kinds and self.on != "any":
            return False
        return self.match is None or bool(re.search(self.match, f"{call.repository} {call.reference}"))


class Faults:
    """The faults in force and how often each has struck; the first that hits takes the request."""

    def __init__(self, faults: Iterable[Fault], chance: random.Random) -> None:
        self._armed = [_Armed(fault) for fault in faults]
        self._random = chance

    def add(self, fault: Fault) -> None:
        """One more, behind the others."""
        self._armed.append(_Armed(fault))

    def clear(self) -> None:
        """From now on nothing goes wrong."""
        self._armed.clear()

    def take(self, call: Call) -> Action | None:
        """What is to happen to this request."""
        for armed in self._armed:
            if armed.fault.concerns(call) and armed.hits(self._random):
                return armed.fault.then
        return None


class _Armed:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._passed = 0
        self._used = 0

    def hits(self, chance: random.Random) -> bool:
        if self._passed < self.fault.skip:
            self._passed += 1
            return False
        if self.fault.times is not None and self._used >= self.fault.times:
            return False
        if self.fault.chance < 1 and chance.random() >= self.fault.chance:
            return False
        self._used += 1
        return True
