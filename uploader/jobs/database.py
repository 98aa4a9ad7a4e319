"""What the store asks of a database: transactions, one at a time or side by side, and word of changes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from uploader.jobs.base import EventKind, JobId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clock:
    """`wall` is for what is shown and for back-off, `monotonic` for leases; no `wall` means the database's own."""

    wall: Callable[[], float] | None = None
    monotonic: Callable[[], float] = time.monotonic


@dataclass(slots=True)
class Transaction:
    """An open transaction, at the time `now`; `events` are written at its end, in the order of `note`."""

    connection: Connection
    now: float
    events: list[dict[str, object]] = field(default_factory=list)

    def note(self, job: JobId | str, kind: EventKind, detail: str = "") -> None:
        """Tell of a change, for as long as this transaction does not fail."""
        self.events.append({"job": job, "at": self.now, "kind": kind, "detail": detail})


class Changes:
    """Word of changes, for those who wait. It is a hint and may fail to come: look again now and then."""

    def __init__(self) -> None:
        self.count = 0
        self._next = anyio.Event()

    def tell(self) -> None:
        """Something changed."""
        self.count += 1
        self._next.set()
        self._next = anyio.Event()

    async def wait_beyond(self, count: int, seconds: float) -> None:
        """Wait until there was a change after that many, but no longer than so."""
        if self.count == count:
            with anyio.move_on_after(seconds):
                await self._next.wait()


class Database(Protocol):
    """One of the engines. The work is plain SQLAlchemy Core, and may be run again: it must change nothing else.

    A cancelled caller gets its answer all the same, so that nothing is done unknown to anybody. `full`: a write found
    no room, where that is no reason for a smaller one to find none; whoever made sure that there is some takes it back.
    """

    changes: Changes
    full: bool

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run the work in a transaction; when this returns, it is durable."""

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work that only reads."""

    async def listen(self) -> None:
        """See to it that changes made elsewhere are told, where that is possible."""

    async def free(self) -> None:
        """Take the locks of processes that were stopped in the midst of a transaction, where that is possible."""

    async def close(self) -> None:
        """Let go of the database."""
