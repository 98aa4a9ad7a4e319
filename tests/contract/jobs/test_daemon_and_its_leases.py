"""A daemon whose process is stopped, whose loop is blocked, or whose store goes away: the same over both engines."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import pytest

from tests.component.a_daemon import JOBS, StorePlace, a_job, working
from tests.torture.daemon_process import DIED, POISON, Orders, command_line, daemon_process
from tests.torture.outage import Killed, TakenAway
from uploader.jobs import JobSpec, open_store
from uploader.jobs.base import SUSPECT_LOSSES
from uploader.jobs.gate import Gate
from uploader.jobs.machine import most_losses
from uploader.service.daemon import DaemonSettings
from uploader.testing import FakeRegistry, Fault, Hold, Stall
from uploader.testing.packages import write_packages

if TYPE_CHECKING:
    from tests.contract.jobs.places import Place
    from tests.torture.outage import Outage
    from uploader.jobs import JobId, Lease
    from uploader.jobs.store import SqlJobStore
    from uploader.testing import Kind

pytestmark = pytest.mark.asyncio

TTL, MARGIN = 4.5, 1.5
EPOLL_CALLS = {"232", "281", "22"}  # epoll_wait and epoll_pwait on x86-64, epoll_pwait on others
WRITES: Final[tuple[Kind, ...]] = ("put-blob", "put-manifest")
AWAY_CALLS, MOST_CALLS_PER_SECOND = 6, 10


def orders(place: Place, tmp_path: Path) -> Orders:
    return Orders(place.url, str(place.locks), str(tmp_path), TTL, MARGIN)


async def submitted(store: SqlJobStore, graph: Path, to: str, *, priority: int = 0, max_attempts: int = 5) -> JobId:
    payload = a_job(graph, to).spec(max_attempts).payload
    (answer,) = await store.submit([JobSpec(payload, priority=priority, max_attempts=max_attempts)])
    return answer.id


async def wait_ended(store: SqlJobStore, job: JobId) -> str:
    after = 0
    while True:
        for event in await store.events(job, after=after, wait=5):
            after = event.seq
            if event.kind in {"succeeded", "failed", "dead", "cancelled"}:
                return event.kind


async def taken_over(store: SqlJobStore) -> Lease:
    """The lease that another lets lapse."""
    while True:
        for lease in await store.lease(limit=1, ttl=60, wait=1):
            return lease


@pytest.mark.parametrize("how", ["stopped", "blocked"])
async def test_a_daemon_that_slept_through_its_lease_writes_nothing_for_the_job(
    place: Place, tmp_path: Path, how: str
) -> None:
    """What it was about to send when it fell asleep is not sent when it wakes up."""
    graph = write_packages(tmp_path / "graph", {f"p{number}": [] for number in range(30)})
    other = write_packages(tmp_path / "other", {"a": []})
    release = anyio.Event()
    skip = 5 if how == "stopped" else 1
    held = Fault(on=frozenset(WRITES), match="first", skip=skip, then=Hold(release), times=None)
    async with FakeRegistry(faults=[held]) as registry, open_store(place.url, locks=place.locks) as store:
        told = orders(place, tmp_path)
        if how == "blocked":
            told = replace(told, block_seconds=60.0, block_until=str(tmp_path / "awake"), jobs=1)
        async with daemon_process(told) as daemon:
            first = await submitted(store, graph, registry.destination("first"))
            if how == "stopped":
                under_way = skip + told.jobs  # and nothing else
                await registry.wait_until(lambda: len(registry.requests_of(*WRITES)) >= under_way)
                await anyio.to_thread.run_sync(_stop_between_writes, daemon.process.pid, place.url)
            else:
                await daemon.wait_said("blocked")
            release.set()  # the answers wait for it
            lease = await taken_over(store)
            assert lease.job.id == first
            before = _begun(registry)
            if how == "stopped":
                daemon.process.send_signal(signal.SIGCONT)
            (tmp_path / "awake").touch()
            second = await submitted(store, other, registry.destination("second"))
            assert await wait_ended(store, second) == "succeeded"
            assert _begun(registry) == before
            assert await store.complete(lease, b"{}")
            assert [line["job"] for line in daemon.said("lease lost")] == [first]


def _stop_between_writes(process: int, url: str) -> None:
    """Stop it, but not while it writes to the store: nobody could take its lease over then, however long that takes.

    For SQLite, who passes the gate is the only one that writes. PostgreSQL's locks are taken from it in time. Nor in
    the midst of a step of its loop: between the last look at the lease and the first byte there is nothing to be done.
    """
    with ExitStack() as stack:
        if url.startswith("sqlite:"):
            gate = Gate(Path(f"{url.removeprefix('sqlite:///')}.lock"))
            stack.callback(gate.close)
            stack.enter_context(gate.passed())
        while True:
            os.kill(process, signal.SIGSTOP)
            os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOWAIT)
            if Path(f"/proc/{process}/syscall").read_text().split()[0] in EPOLL_CALLS:
                return
            os.kill(process, signal.SIGCONT)


def _begun(registry: FakeRegistry) -> list[int]:
    """All requests that write something for the first job."""
    writes = {"POST", "PUT", "PATCH"}
    return [one.started for one in registry.requests if one.repository == "first" and one.method in writes]


async def test_a_loop_that_is_blocked_for_half_a_lease_keeps_it(place: Place, tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {f"p{number}": [] for number in range(9)})
    ttl, margin = 9.0, 0.2
    async with FakeRegistry() as registry, open_store(place.url, locks=place.locks) as store:
        to_block = replace(orders(place, tmp_path), ttl=ttl, margin=margin, block_seconds=ttl / 2)
        async with daemon_process(to_block) as daemon:
            job = await submitted(store, graph, registry.destination("first"))
            assert await wait_ended(store, job) == "succeeded"
            assert daemon.said("blocked")
            assert len(await store.history(job)) == 1


async def test_a_job_that_kills_its_daemon_ends_among_the_dead_and_those_beside_it_do_not(
    place: Place, tmp_path: Path
) -> None:
    """They die with it until it is a suspect, and is left alone."""
    graph = write_packages(tmp_path / "graph", {"a": []})
    told = replace(orders(place, tmp_path), at_once=2)
    async with FakeRegistry() as registry, open_store(place.url, locks=place.locks) as store:
        poison = await submitted(store, graph, registry.destination(POISON), max_attempts=1, priority=1)
        other = await submitted(store, graph, registry.destination("other"), max_attempts=1)
        for _ in range(most_losses(1)):
            died = await anyio.run_process(command_line(told), check=False)
            assert died.returncode == DIED, died.stderr
        async with daemon_process(told):
            assert await wait_ended(store, poison) == "dead"
            assert await wait_ended(store, other) == "succeeded"
        assert [attempt.outcome for attempt in await store.history(poison)] == ["lost"] * most_losses(1)
        assert [one.outcome for one in await store.history(other)] == [*["lost"] * SUSPECT_LOSSES, "succeeded"]


async def test_a_daemon_whose_store_is_away_stops_its_work_and_goes_on_when_it_is_back(
    place: Place, tmp_path: Path, outage: Outage
) -> None:
    """And it does not ask without a pause meanwhile."""
    graph = write_packages(tmp_path / "graph", {f"p{number}": [] for number in range(9)})
    release = anyio.Event()
    held = Fault(on="put-blob", skip=2, then=Hold(release), times=None)
    settings = DaemonSettings(ttl_seconds=9.0, margin_seconds=4.5, at_once=1)  # room for a machine that stands still
    where = StorePlace(place.url, place.locks)
    async with FakeRegistry(faults=[held]) as registry, working(tmp_path, settings=settings, place=where) as works:
        (job,) = await works.submit(a_job(graph, registry.destination("first")))
        await registry.wait_started("put-blob", 2 + JOBS)  # so nothing else is under way
        (running,) = works.daemon._running.values()
        asked = _Counted(works.store)
        works.daemon._store = asked  # type: ignore[assignment]
        await anyio.to_thread.run_sync(outage.begin)
        await running.stop.wait()
        assert running.reason == "lost"
        assert anyio.current_time() < running.held_until
        before = _begun(registry)
        release.set()
        began, calls = anyio.current_time(), asked.calls
        while asked.calls < calls + AWAY_CALLS:
            await asked.more.wait()
        assert anyio.current_time() - began > AWAY_CALLS / MOST_CALLS_PER_SECOND
        assert _begun(registry) == before
        await anyio.to_thread.run_sync(outage.end)
        ended = await works.wait_end(job)
        assert (ended.state, ended.leases) == ("succeeded", 2)
        assert len(registry.repository("first").tags) == 9


async def test_draining_ends_gives_back_and_begins_nothing(place: Place, tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": []})
    release = anyio.Event()
    faults = [
        Fault(on="put-blob", match="ends", then=Hold(release)),
        Fault(on="put-blob", match="stalls", then=Stall(), times=None),
    ]
    settings = DaemonSettings(at_once=3, drain_seconds=2.0)
    where = StorePlace(place.url, place.locks)
    async with FakeRegistry(faults=faults) as registry, working(tmp_path, settings=settings, place=where) as works:
        names = ["ends", "stalls-1", "stalls-2", "waits"]
        jobs = await works.submit(*(a_job(graph, registry.destination(name)) for name in names))
        await registry.wait_started("put-blob", 3)
        works.drain.set()
        await anyio.wait_all_tasks_blocked()
        release.set()
        await works.ended.wait()
        found = [job for one in jobs if (job := await works.store.get(one)) is not None]
        assert [(job.state, job.attempts, job.leases) for job in found] == [
            ("succeeded", 1, 1),
            ("ready", 0, 1),
            ("ready", 0, 1),
            ("ready", 0, 0),
        ]


class _Counted:
    """A store that counts how often it is asked."""

    def __init__(self, store: SqlJobStore) -> None:
        self._store = store
        self.calls = 0
        self.more = anyio.Event()

    def __getattr__(self, name: str) -> object:
        if name in {"lease", "renew", "sweep", "complete", "fail", "release"}:
            self.calls += 1
            self.more.set()
            self.more = anyio.Event()
        return getattr(self._store, name)


@pytest.fixture
def outage(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Outage:
    if place.url.startswith("sqlite"):
        return TakenAway(tmp_path / "jobs.db")
    return Killed(request.getfixturevalue("postgres"))
