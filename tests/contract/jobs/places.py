"""Where a job store may lie in tests, and a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uploader.jobs import JobSpec, open_store
from uploader.jobs.database import Clock

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from uploader.jobs import JobId, Lease
    from uploader.jobs.store import SqlJobStore

TTL = 60.0


class Hands:
    """The hands of a clock. `wall` may jump, `monotonic` only passes."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.monotonic = 1000.0

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: self.wall, monotonic=lambda: self.monotonic)


@dataclass(frozen=True, slots=True)
class Place:
    """One store. Each `open` is what one process would do: another worker, with a lock file of its own."""

    url: str
    locks: Path
    hands: Hands

    def open(self, **options: Any) -> AbstractAsyncContextManager[SqlJobStore]:
        return open_store(self.url, locks=self.locks, clock=self.hands.clock, **options)


async def submitted(store: SqlJobStore, payload: bytes = b"{}", **options: Any) -> JobId:
    (answer,) = await store.submit([JobSpec(payload, **options)])
    return answer.id


async def leased(store: SqlJobStore, ttl: float = TTL) -> Lease:
    (lease,) = await store.lease(limit=1, ttl=ttl)
    return lease


async def state_of(store: SqlJobStore, job: JobId) -> str:
    found = await store.get(job)
    assert found is not None
    return found.state


async def kinds(store: SqlJobStore, job: JobId | None = None, after: int = 0) -> list[str]:
    return [event.kind for event in await store.events(job, after=after)]
