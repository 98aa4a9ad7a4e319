"""The record of what was asked of the fake registry, in order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from uploader.testing.fake.exchange import Call, Kind


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request: `started` and `ended` are places in one common order of beginnings and ends.

    `ended` is None while it runs; `status` is None as long as no answer went out (or ever, if none did).
    `forbidden`: why a client that knows the registry's profile would not have sent it; empty for most.
    """

    kind: Kind
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    repository: str
    reference: str
    started: int
    ended: int | None = None
    status: int | None = None
    body_bytes: int = 0
    forbidden: str = ""


class RequestLog:
    """Requests in the order in which they began."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self._order = 0
        self._changed = anyio.Event()

    def begin(self, call: Call) -> int:
        """Note a request; gives its place for `end`."""
        recorded = Recorded(
            call.kind,
            call.method,
            call.path,
            call.query,
            call.headers,
            call.repository,
            call.reference,
            started=self._next(),
        )
        self.requests.append(recorded)
        return len(self.requests) - 1

    def end(self, place: int, status: int | None, body_bytes: int, forbidden: str = "") -> None:
        """Note its end."""
        request = self.requests[place]
        ended = replace(request, ended=self._next(), status=status, body_bytes=body_bytes, forbidden=forbidden)
        self.requests[place] = ended

    def notice(self) -> None:
        """Something has changed that a waiter may want to look at."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, looked at whenever something has changed."""
        while not condition():
            await self._changed.wait()

    def _next(self) -> int:
        self._order += 1
        self.notice()
        return self._order


def most_at_once(requests: list[Recorded]) -> int:
    """How many of the requests ran at the same time, at the most."""
    steps = [(one.started, 1) for one in requests]
    steps += [(one.ended, -1) for one in requests if one.ended is not None]
    running = most = 0
    for _, step in sorted(steps):
        running += step
        most = max(most, running)
    return most
