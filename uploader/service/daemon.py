"""The daemon's worker: leases jobs, runs their pushes side by side, and tells the store what became of them.

A job is only worked on while its lease holds. Heartbeats come from a task that does nothing else; a lease that could
not be renewed in time is taken for lost here before anybody else may take it (`Running.held_until`), and nothing more
is written for its job then, neither to the registry nor to the store.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypedDict, TypeVar

import anyio
import structlog

from uploader.errors import JobStoreError, StoppedError, UnusableError, UploaderError
from uploader.jobs import Heartbeat
from uploader.model.reference import Repository, parse_destination
from uploader.service.job_format import read_payload
from uploader.service.metrics import Metrics
from uploader.service.running import Running
from uploader.service.verdict import (
    Again,
    ForGood,
    Stopped,
    Succeeded,
    Verdict,
    backoff_seconds,
    judge,
    judge_error,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from uploader.jobs import JobStore, Lease
    from uploader.model.events import Emit
    from uploader.service.job_format import PushJob
    from uploader.service.report import Report

_T = TypeVar("_T")

_TICK_SECONDS: Final = 0.5
_SWEEP_SECONDS: Final = 3.0
_PAUSE_SECONDS: Final = 1.0
_LONGEST_BEAT_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 15.0  # a push that was told to stop ends within a few seconds by itself

_log = structlog.get_logger("uploader.daemon")


class Push(Protocol):
    """Carries out one job; raises InputError, UnusableError. It knows what jobs may do, and what pushes share.

    It calls `before_write` before each request that writes to a registry, which raises once that must not be. `resumed`
    says that the job was worked on before.
    """

    async def __call__(
        self, job: PushJob, *, emit: Emit, stop: anyio.Event, before_write: Callable[[], None], resumed: bool
    ) -> Report: ...


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """`at_once`: jobs side by side. `margin_seconds`: so long before a lease may end the work on it does.

    `lease_wait_seconds`: how long one call to the store waits for a job; so long may it take until draining begins.
    """

    at_once: int = 8
    ttl_seconds: float = 60.0
    margin_seconds: float = 5.0
    drain_seconds: float = 30.0
    lease_wait_seconds: float = 1.0


class _Left(TypedDict):
    """What a try leaves beside its outcome; the progress only where it was not told yet."""

    settled: bool
    report: bytes | None
    progress: str | None


class Daemon:
    """Mutable: the jobs that run, whether it drains or is paused, and when the heart beat last."""

    def __init__(
        self,
        store: JobStore,
        push: Push,
        settings: DaemonSettings,
        *,
        metrics: Metrics | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.draining = False
        self.paused = False
        self.metrics = metrics or Metrics()
        self._store = store
        self._push = push
        self._settings = settings
        self._chance = chance
        self._running: dict[str, Running] = {}
        self._news = anyio.Event()
        self._ended = anyio.Event()
        self._taken = anyio.Event()
        self._drain_asked = anyio.Event()
        self._beat_at = anyio.current_time()
        self._store_answers = True

    @property
    def running(self) -> int:
        """How many jobs it works on."""
        return len(self._running)

    @property
    def alive(self) -> bool:
        """Whether the loop runs and the heart beats; says nothing of the store or of registries."""
        return anyio.current_time() - self._beat_at < self._settings.ttl_seconds

    def pause(self) -> None:
        """Begin no more jobs, until `resume`; those that run go on, and others may still be handed in."""
        self.paused = True

    def resume(self) -> None:
        """Begin jobs again."""
        self.paused = False
        self._tell_ended()

    def drain(self) -> None:
        """End as after a signal: running jobs get their time."""
        self._drain_asked.set()

    async def run(self, drain: anyio.Event) -> None:
        """Work until `drain` is set, by the caller or by `self.drain`.

        Then running jobs get their time to end, and what is left is given back.
        """
        if self._drain_asked.is_set():
            drain.set()
        self._drain_asked = drain
        async with anyio.create_task_group() as background:
            background.start_soon(self._beat)
            background.start_soon(self._sweep)
            async with anyio.create_task_group() as jobs:
                jobs.start_soon(self._take, jobs)
                await drain.wait()
                self.draining = True
                self._tell_ended()
                _log.info("draining", running=self.running, seconds=self._settings.drain_seconds)
                await self._drain()
                jobs.cancel_scope.deadline = anyio.current_time() + 3 * self._settings.lease_wait_seconds
            background.cancel_scope.cancel()
        _log.info("drained")

    async def _drain(self) -> None:
        with anyio.move_on_after(self._settings.drain_seconds):
            await self._wait_idle()
        with anyio.move_on_after(3 * self._settings.lease_wait_seconds):
            await self._taken.wait()  # else we take again what we give back
        for running in self._running.values():
            running.end("drained")
        with anyio.move_on_after(_STOP_SECONDS + self._settings.margin_seconds):
            await self._wait_idle()

    def _tell_ended(self) -> None:
        self._ended.set()
        self._ended = anyio.Event()

    async def _wait_idle(self) -> None:
        while self._running:
            await self._ended.wait()

    # -- leasing

    async def _take(self, jobs: TaskGroup) -> None:
        """Never cancelled within a call to the store: a lease that was made and not heard of costs an attempt."""
        while not self.draining:
            free = self._free()
            if free < 1:
                await self._ended.wait()
                continue
            asked_at = anyio.current_time()
            try:
                leases = await self._store.lease(
                    limit=free,
                    ttl=self._settings.ttl_seconds,
                    wait=self._settings.lease_wait_seconds,
                    suspects=all(running.told_settled for running in self._running.values()),
                )
                self._store_works()
                for lease in leases:
                    await self._begin(lease, asked_at, jobs)
            except JobStoreError as error:
                await self._store_failed("lease", error)
        self._taken.set()

    def _free(self) -> int:
        """How many jobs may begin. A job that may be what kills daemons is left alone until it gets something done.

        It only begins beside jobs that got something done: so of those that die with it, it alone is counted against.
        """
        on_trial = any(running.lease.job.suspect and not running.told_settled for running in self._running.values())
        return 0 if self.paused or on_trial else self._settings.at_once - len(self._running)

    async def _begin(self, lease: Lease, leased_at: float, jobs: TaskGroup) -> None:
        if self.draining or self.paused:
            await self._store.release(lease)
            return
        running = Running(lease, leased_at, self.metrics, self._wake_heart)
        self._running[lease.token] = running
        jobs.start_soon(self._work, running)

    async def _sweep(self) -> None:
        while True:
            try:
                swept = await self._store.sweep()
                self.metrics.attempts.add(swept.taken_back, reason="lost")
            except JobStoreError as error:
                await self._store_failed("sweep", error)
            await anyio.sleep(_SWEEP_SECONDS)

    # -- heartbeats

    def _wake_heart(self) -> None:
        self._news.set()

    async def _beat(self) -> None:
        every = min(self._settings.ttl_seconds / 3, _LONGEST_BEAT_SECONDS)
        while True:
            now = self._beat_at = anyio.current_time()
            due = [running for running in self._running.values() if running.is_due(now, every)]
            if due and not await self._renew(due):
                await anyio.sleep(min(_PAUSE_SECONDS, every / 4))
                continue
            with anyio.move_on_after(min(_TICK_SECONDS, every / 4)):
                await self._news.wait()
            self._news = anyio.Event()

    async def _renew(self, due: list[Running]) -> bool:
        """One write for all of them; False if the store did not answer."""
        beats = [Heartbeat(running.lease, running.progress, running.settled) for running in due]
        asked_at = anyio.current_time()
        try:
            answers = await self._store.renew(beats)
        except JobStoreError as error:
            self._say_store_fails("renew", error)
            return False
        self._store_works()
        self.metrics.renewals.observe(anyio.current_time() - asked_at)
        for running, beat, answer in zip(due, beats, answers, strict=True):
            if answer == "lost":
                running.lose("somebody else has it")
                continue
            running.renewed(asked_at, beat.progress or "", settled=beat.settled)
            if beat.settled:
                self._tell_ended()  # others may begin beside it now
            if answer == "cancel-requested":
                running.end("cancelled")
        return True

    async def _fence(self, running: Running) -> None:
        """Ends the work before the lease does, and that of a push which does not stop when it is told to."""
        while not running.settling:
            now = anyio.current_time()
            if self._lose_if_late(running):
                return
            if running.reason is not None and now >= running.stopped_at + _STOP_SECONDS:
                running.log.warning("stopped hard", after_seconds=_STOP_SECONDS)
                running.scope.cancel()
                return
            await anyio.sleep(min(_TICK_SECONDS, running.held_until - self._settings.margin_seconds - now))

    def _lose_if_late(self, running: Running) -> bool:
        late = anyio.current_time() - running.held_until
        if late >= -self._settings.margin_seconds:
            running.lose(f"not renewed for {late + running.lease.ttl:.0f} s")
        return running.reason == "lost"

    def _refuse_late_write(self, running: Running) -> None:
        """A process that was stopped, or whose loop was blocked, wakes up with answers that lead to the next write.

        The fence would end the work a moment later; by then that write would be on its way.
        """
        if self._lose_if_late(running):
            raise UnusableError(f"the lease on job {running.lease.job.id} was lost: nothing more is written for it")

    # -- one job

    async def _work(self, running: Running) -> None:
        job = running.lease.job
        running.log.info("leased", key=job.key, attempts=job.attempts)
        if job.started is not None:
            self.metrics.wait.observe(max(0.0, job.started - job.run_at))
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._fence, running)
                verdict, report = await self._carry_out(running)
                running.settling = running.reason != "lost"
                if running.settling:
                    await self._settle(running, verdict, report)
                group.cancel_scope.cancel()
        finally:
            del self._running[running.lease.token]
            self._tell_ended()
            self.metrics.duration.observe(anyio.current_time() - running.began)

    async def _carry_out(self, running: Running) -> tuple[Verdict, Report | None]:
        verdict: Verdict = Stopped()
        report: Report | None = None
        with running.scope:
            try:
                job = read_payload(running.lease.job.payload)
                running.registry = _registry_of(job)
                running.begins_anew = job.options.get("force") is True
                report = await self._push(
                    job,
                    emit=running.emit,
                    stop=running.stop,
                    before_write=partial(self._refuse_late_write, running),
                    resumed=running.lease.job.leases > 1,
                )
                strict = job.options.get("strict") is True
                verdict = judge(report, strict=strict, stopped=running.reason is not None)
            except StoppedError:
                verdict = Stopped()  # while the sources were still read
            except UploaderError as error:
                verdict = judge_error(error)
            except Exception as error:  # the edge of one job: its bug must not end the others, nor come back for ever
                running.log.exception("a bug ended this push")
                verdict = Again(f"a bug in uploader ended this push: {type(error).__name__}: {error}")
        return verdict, report

    async def _settle(self, running: Running, verdict: Verdict, report: Report | None) -> None:
        """Tell the store, until it answers: asked twice, it gives the same answer."""
        lease, store = running.lease, self._store
        content = report.to_json().encode() if report is not None else None
        left: _Left = {"settled": running.settled, "report": content, "progress": running.untold_progress}

        async def tell() -> str:
            match verdict:
                case Succeeded():
                    done = await store.complete(lease, content or b"{}", progress=left["progress"])
                    return "succeeded" if done else "lost"
                case _ if running.reason == "cancelled":
                    return await store.fail(lease, "cancelled", retry_in=None, **left)
                case Stopped():
                    return "released" if await store.release(lease) else "lost"
                case ForGood(why):
                    return await store.fail(lease, why, retry_in=None, **left)
                case Again(why):
                    return await store.fail(lease, why, retry_in=retry_in, **left)

        retry_in = backoff_seconds(lease.job.attempts, self._chance())
        outcome = await self._insist(tell, running)
        running.log.info(outcome, **_said_of(verdict, retry_in if outcome == "again" else None))
        self._count(running, outcome, report)

    async def _insist(self, call: Callable[[], Awaitable[_T]], running: Running) -> _T:
        while True:
            try:
                answer = await call()
            except JobStoreError as error:
                running.untold_end = True
                await self._store_failed("end a job", error)
            else:
                running.untold_end = False
                self._store_works()
                return answer

    def _count(self, running: Running, outcome: str, report: Report | None) -> None:
        if outcome in {"succeeded", "failed", "dead", "cancelled"}:
            self.metrics.finished.add(outcome=outcome)
        else:
            self.metrics.attempts.add(reason=outcome)
        if outcome == "lost":
            self.metrics.leases_lost.add()
        if report is not None:
            self.metrics.requests.add(report.totals.requests, registry=running.registry)
            self.metrics.retries.add(report.totals.retries, registry=running.registry)

    # -- the store

    def _say_store_fails(self, what: str, error: JobStoreError) -> None:
        self.metrics.store_errors.add()
        if self._store_answers:  # once, not every second
            self._store_answers = False
            _log.error("the job store does not answer", asked_to=what, problem=error.problem, error=str(error))

    async def _store_failed(self, what: str, error: JobStoreError) -> None:
        self._say_store_fails(what, error)
        await anyio.sleep(_PAUSE_SECONDS)

    def _store_works(self) -> None:
        """One call was answered. On a full disk a store may lease a job every second and end none."""
        if not self._store_answers and not any(running.untold_end for running in self._running.values()):
            self._store_answers = True
            _log.info("the job store answers again")


def _registry_of(job: PushJob) -> str:
    """What metrics call the destination."""
    match parse_destination(job.to):
        case Repository(registry):
            return registry.host
        case _:
            return "layout"


def _said_of(verdict: Verdict, retry_in: float | None) -> dict[str, object]:
    match verdict:
        case Again(why) | ForGood(why):
            return {"error": why} | ({} if retry_in is None else {"retry_in": round(retry_in, 1)})
        case _:
            return {}
