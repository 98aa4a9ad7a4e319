"""The job store, over either engine."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import anyio.to_thread
import structlog

from uploader.errors import InputError
from uploader.jobs import transitions, upkeep, views
from uploader.jobs.base import MAX_PAGE, Swept, Token
from uploader.jobs.database import Clock
from uploader.jobs.ids import Ids
from uploader.jobs.machine import Completed, Failed, Released, Watch
from uploader.jobs.processes import forget, provably_gone

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from uploader.jobs.base import (
        Attempt,
        Cancelled,
        Ended,
        Heartbeat,
        Job,
        JobEvent,
        JobId,
        JobSpec,
        Lease,
        Page,
        Renewed,
        State,
        Stats,
        Submitted,
        Worker,
    )
    from uploader.jobs.database import Database
    from uploader.jobs.machine import Ending

POLL_SECONDS: Final = 1.0
KEEP_SECONDS: Final = 7 * 24 * 3600.0
MESSAGE_SECONDS: Final = 30 * 24 * 3600.0
"""A message that came is known for so long: brokers give it again for as long as they were not told that it is taken,
and, after a crash of theirs, when they were."""
_MESSAGES_COME_SECONDS: Final = 3600.0  # by then has come what a broker kept while nobody was here for a month
_WORKER_SECONDS: Final = 60.0  # a process that does not sweep for so long is struck off the list
_KEEP_UP_SECONDS: Final = 20.0
_PRUNE_AT_ONCE: Final = 500
_RETRY_AT_ONCE: Final = 500

_log = structlog.get_logger(__name__)


class SqlJobStore:
    """Fits `JobStore`. `locks` is the folder with the lock files of processes."""

    def __init__(
        self,
        database: Database,
        me: upkeep.Me,
        locks: Path,
        *,
        clock: Clock | None = None,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        self._database = database
        self._me = me
        self._locks = locks
        self._clock = clock or Clock()
        self._keep_seconds = keep_seconds
        self._ids = Ids()
        self._watch = Watch()
        self._opened_at = self._clock.monotonic()
        self._swept_at: float | None = None
        self._kept_at: float | None = None

    async def submit(self, specs: Sequence[JobSpec], *, message: str | None = None) -> list[Submitted]:
        """Take in all these jobs, or none; those of a message once."""
        if not specs:
            return []
        new = {self._ids.next(): spec for spec in specs}
        if message is None:
            return await self._database.write(partial(transitions.submit, specs=new))
        return await self._database.write(partial(transitions.take_in, message=message, specs=new))

    async def lease(self, *, limit: int, ttl: float, wait: float = 0.0, suspects: bool = True) -> list[Lease]:
        """Up to `limit` jobs; what dead processes held is taken back before waiting for others."""
        if limit < 1:
            return []
        until = self._clock.monotonic() + wait
        while True:
            seen = await self._look_out(wait)
            leases = await self._lease(limit, ttl, suspects=suspects)
            if not leases and await self._sweep_now_and_then():
                leases = await self._lease(limit, ttl, suspects=suspects)
            rest = until - self._clock.monotonic()
            if leases or rest <= 0:
                return leases
            await self._wait_beyond(seen, rest)

    async def _lease(self, limit: int, ttl: float, *, suspects: bool) -> list[Lease]:
        tokens = [Token(uuid.uuid4().hex) for _ in range(limit)]
        worker = (self._me.id, self._me.name)
        work = partial(transitions.lease, worker=worker, tokens=tokens, ttl=ttl, suspects=suspects)
        return await self._database.write(work)

    async def _sweep_now_and_then(self) -> bool:
        """Whether it was time to, and gave something back."""
        if self._swept_at is not None and self._clock.monotonic() - self._swept_at < POLL_SECONDS:
            return False
        return (await self.sweep()).taken_back > 0

    async def _look_out(self, wait: float) -> int:
        """Hear of changes from here on, if there is to be any waiting: how many there were so far."""
        if wait > 0:
            await self._database.listen()
        return self._database.changes.count

    async def _wait_beyond(self, seen: int, seconds: float) -> None:
        await self._database.changes.wait_beyond(seen, min(seconds, POLL_SECONDS))

    async def renew(self, heartbeats: Sequence[Heartbeat]) -> list[Renewed]:
        """Hold these leases for another ttl."""
        if not heartbeats:
            return []
        return await self._database.write(partial(transitions.renew, heartbeats=heartbeats))

    async def complete(self, lease: Lease, report: bytes, *, progress: str | None = None) -> bool:
        """The job succeeded."""
        return await self._end(lease, Completed(), report=report, progress=progress) == "succeeded"

    async def fail(
        self,
        lease: Lease,
        error: str,
        *,
        retry_in: float | None,
        report: bytes | None = None,
        settled: bool = False,
        progress: str | None = None,
    ) -> Ended | Literal["lost"]:
        """The job failed."""
        ending = Failed(retry_in)
        return await self._end(lease, ending, error=error, report=report, settled=settled, progress=progress)

    async def release(self, lease: Lease, *, delay: float = 0.0) -> bool:
        """Give the job back."""
        return await self._end(lease, Released(delay)) != "lost"

    async def _end(
        self,
        lease: Lease,
        ending: Ending,
        *,
        error: str | None = None,
        report: bytes | None = None,
        settled: bool = False,
        progress: str | None = None,
    ) -> Ended | Literal["lost"]:
        content = None if report is None else await anyio.to_thread.run_sync(transitions.compressed, report)
        work = partial(
            transitions.end,
            lease=(lease.job.id, lease.token),
            ending=ending,
            error=error,
            report=content,
            settled=settled,
            progress=progress,
        )
        return await self._database.write(work)

    async def cancel(self, job: JobId, reason: str = "") -> Cancelled:
        """End the job, or ask its holder to."""
        return await self._database.write(partial(transitions.cancel, job=job, reason=reason))

    async def retry(self, job: JobId) -> bool:
        """Make a failed, dead or cancelled job ready again."""
        return await self._database.write(partial(transitions.retry, job=job))

    async def retry_dead(self) -> int:
        """The same for all dead ones, some in each transaction."""
        retried, last = 0, ""
        while True:
            work = partial(transitions.retry_dead, beyond=last, limit=_RETRY_AT_ONCE)
            count, end = await self._database.write(work)
            if end is None:
                return retried
            retried, last = retried + count, end

    async def get(self, job: JobId) -> Job | None:
        """The job as it stands."""
        return await self._database.read(partial(views.get, job=job))

    async def history(self, job: JobId) -> tuple[Attempt, ...]:
        """Every lease that the job had."""
        return await self._database.read(partial(views.history, job=job))

    async def report(self, job: JobId) -> bytes | None:
        """The report that its latest lease left."""
        content = await self._database.read(partial(views.report, job=job))
        return await anyio.to_thread.run_sync(views.decompressed, content)

    async def jobs(self, *, state: State | None = None, limit: int = 100, cursor: str | None = None) -> Page:
        """Jobs, newest first."""
        _check_page(limit)
        return await self._database.read(partial(views.page, state=state, limit=limit, cursor=cursor))

    async def stats(self) -> Stats:
        """Counts of jobs and workers."""
        return await self._database.read(views.stats)

    async def workers(self) -> tuple[Worker, ...]:
        """The processes that have the store open."""
        return await self._database.read(views.all_workers)

    async def events(
        self, job: JobId | None = None, *, after: int = 0, limit: int = 500, wait: float = 0.0
    ) -> tuple[JobEvent, ...]:
        """What happened after event `after`."""
        _check_page(limit)
        until = self._clock.monotonic() + wait
        while True:
            seen = await self._look_out(wait)
            found = await self._database.read(partial(views.events_after, job=job, after=after, limit=limit))
            rest = until - self._clock.monotonic()
            if found or rest <= 0:
                return found
            await self._wait_beyond(seen, rest)

    async def sweep(self) -> Swept:
        """Take back what dead processes held, drop what is old."""
        await self._database.free()
        held, others = await self._database.read(partial(upkeep.held_and_others, me=self._me))
        now = self._swept_at = self._clock.monotonic()  # after reading: a sign of life counts from when we saw it
        gone = await anyio.to_thread.run_sync(self._gone, others)
        signs: dict[str, tuple[float, float]] = {one.token: (one.beat, one.ttl) for one in held}
        silent = self._watch.observe(signs | {other.id: (other.seen, _WORKER_SECONDS) for other in others}, now)
        work = partial(
            upkeep.take_back,
            expired=[one for one in held if one.token in silent],
            gone=gone,
            silent=[other.id for other in others if other.id in silent],
        )
        taken_back = await self._database.write(work) if gone or silent else 0
        for process in gone:
            forget(self._locks, process)
        if taken_back or gone:
            _log.warning("leases taken back", leases=taken_back, processes_gone=len(gone))
        return Swept(taken_back, len(gone), await self._now_and_then(now))

    def _gone(self, others: Iterable[upkeep.Other]) -> list[str]:
        return [
            other.id for other in others if other.machine == self._me.machine and provably_gone(self._locks, other.id)
        ]

    async def _now_and_then(self, now: float) -> int:
        """Say that this process is there, and drop what is old: how many jobs that was."""
        if self._kept_at is not None and now - self._kept_at < _KEEP_UP_SECONDS:
            return 0
        self._kept_at = now
        await self._database.write(partial(upkeep.seen, me=self._me))
        pruned = 0
        while dropped := await self._database.write(
            partial(upkeep.prune, keep_seconds=self._keep_seconds, limit=_PRUNE_AT_ONCE)
        ):
            pruned += dropped
        if now - self._opened_at >= _MESSAGES_COME_SECONDS:
            await self._database.write(partial(upkeep.forget_messages, keep_seconds=MESSAGE_SECONDS))
        return pruned

    async def check(self) -> None:
        """Write something: so much, after a write that found no room, that there has to be room again."""
        was_full = self._database.full
        await self._database.write(upkeep.check_room if was_full else upkeep.check)
        if was_full:
            self._database.full = False

    async def open(self) -> None:
        """Put this process on the list; called once, before anything else."""
        await self._database.write(partial(upkeep.seen, me=self._me))

    async def close(self) -> bool:
        """Take this process off the list; False if it holds leases, which others may then take at once."""
        return await self._database.write(partial(upkeep.leave, me=self._me))


def _check_page(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InputError(f"a page has 1 to {MAX_PAGE} entries, not {limit}")
