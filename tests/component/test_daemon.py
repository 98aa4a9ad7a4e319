"""The daemon's worker: what becomes of jobs, over a real store and a fake registry."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.component.a_daemon import JOBS, StorePlace, a_job, working
from uploader.jobs import Heartbeat, JobSpec, open_store
from uploader.jobs.base import SUSPECT_LOSSES
from uploader.service.allowed import Allowed
from uploader.service.daemon import Daemon, DaemonSettings
from uploader.testing import Answer, FakeRegistry, Fault, Hold, Stall
from uploader.testing.packages import write_packages

if TYPE_CHECKING:
    from pathlib import Path

    from uploader.service.job_format import PushJob
    from uploader.service.report import Report
    from uploader.service.running import Running

SHARED: dict[str, list[str]] = {f"shared-{number}": [] for number in range(18)}


def sent(registry: FakeRegistry) -> list[str]:
    """The digests of blobs whose bytes crossed the network, once for each time."""
    return [one.reference for one in registry.requests_of("put-blob") if one.status == 201]


@pytest.mark.asyncio
@pytest.mark.parametrize("state", [False, True])
async def test_a_blob_that_two_jobs_want_crosses_the_network_once(tmp_path: Path, state: bool) -> None:
    one = write_packages(tmp_path / "one", {**SHARED, "a": [], "b": []})
    two = write_packages(tmp_path / "two", {**SHARED, "c": [], "d": []})
    async with FakeRegistry() as registry, working(tmp_path, state=state) as works:
        to = registry.destination("cache")
        for job in await works.submit(a_job(one, to), a_job(two, to)):
            ended = await works.wait_end(job)
            assert ended.state == "succeeded"
            assert str(ended.progress).startswith("20/20 packages, ")
        assert len(sent(registry)) == len(set(sent(registry)))
        assert set(registry.repository("cache").tags) == {*SHARED, "a", "b", "c", "d"}


@pytest.mark.asyncio
async def test_jobs_share_one_bound_of_requests_in_flight(tmp_path: Path) -> None:
    """Eight may be in flight; two jobs that could each fill that stay within it."""
    graphs = [write_packages(tmp_path / name, {f"{name}-{n}": [] for n in range(10)}) for name in "xy"]
    release = anyio.Event()
    held = Fault(on="put-blob", then=Hold(release), times=None)
    async with FakeRegistry(faults=[held]) as registry, working(tmp_path) as works:
        places = [registry.destination(f"to/{graph.parent.name}") for graph in graphs]
        jobs = await works.submit(*(a_job(graph, to) for graph, to in zip(graphs, places, strict=True)))
        await registry.wait_started("put-blob", 6)
        await anyio.wait_all_tasks_blocked()
        assert sum(one.ended is None for one in registry.requests) <= 8
        release.set()
        assert {(await works.wait_end(job)).state for job in jobs} == {"succeeded"}


@pytest.mark.asyncio
async def test_failures_that_may_pass_bring_the_job_back_and_what_is_there_is_not_sent_again(tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": [], "b": [], "c": []})
    refused = Fault(on="put-manifest", match=" a$", times=1, then=Answer(400))
    async with FakeRegistry(faults=[refused]) as registry, working(tmp_path) as works:
        (job,) = await works.submit(a_job(graph, registry.destination("cache")))
        ended = await works.wait_end(job)
        assert (ended.state, ended.leases) == ("succeeded", 2)
        assert len(sent(registry)) == len(set(sent(registry)))
        again = await works.wait_event(job, "again")
        assert "1 of 3 packages failed" in again.detail


@pytest.mark.asyncio
async def test_blobs_that_another_machine_left_without_any_tag_are_not_sent_again(tmp_path: Path) -> None:
    """There is no local record here: only that the job was worked on before tells that they may be there."""
    graph = write_packages(tmp_path / "graph", {"a": [], "b": [], "c": []})
    refused = Fault(on="put-manifest", times=3, then=Answer(400))
    async with FakeRegistry(faults=[refused]) as registry, working(tmp_path, state=False) as works:
        (job,) = await works.submit(a_job(graph, registry.destination("cache")))
        ended = await works.wait_end(job)
        assert (ended.state, ended.leases) == ("succeeded", 2)
        assert len(sent(registry)) == len(set(sent(registry)))


@pytest.mark.asyncio
async def test_failures_that_stay_end_the_job_with_its_report(tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": [], "b": []})
    (graph.parent / "a.tar").unlink()
    async with FakeRegistry() as registry, working(tmp_path) as works:
        (job,) = await works.submit(a_job(graph, registry.destination("cache")))
        ended = await works.wait_end(job)
        assert (ended.state, ended.leases) == ("failed", 1)
        report = json.loads(await works.store.report(job) or b"")
        assert {entry["id"]: entry["outcome"] for entry in report["packages"]} == {"a": "failed", "b": "pushed"}


@pytest.mark.asyncio
@pytest.mark.parametrize("linked", ["graph.json", "a.tar"])
async def test_a_link_that_leads_out_by_the_time_the_job_runs_is_not_followed(tmp_path: Path, linked: str) -> None:
    """It was not one when the job came in."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    write_packages(outside, {"a": []})
    graph = write_packages(inside, {"a": []})
    (inside / linked).unlink()
    (inside / linked).symlink_to(outside / linked)
    async with FakeRegistry() as registry, working(tmp_path, allowed=Allowed((inside,))) as works:
        (job,) = await works.submit(a_job(graph, registry.destination("cache")))
        ended = await works.wait_end(job)
        assert (ended.state, ended.leases) == ("failed", 1)
        assert "--source-root" in str(ended.error)
        assert registry.requests == []


@pytest.mark.asyncio
async def test_a_job_that_never_gets_anything_done_ends_dead(tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": []})
    refused = Fault(on="put-manifest", then=Answer(400), times=None)
    async with FakeRegistry(faults=[refused]) as registry, working(tmp_path) as works:
        (job,) = await works.submit(a_job(graph, registry.destination("cache")), max_attempts=3)
        ended = await works.wait_end(job)
        assert (ended.state, ended.leases, ended.attempts) == ("dead", 3, 3)


@pytest.mark.asyncio
async def test_a_bug_in_one_push_hurts_no_other_and_does_not_come_back_for_ever(tmp_path: Path) -> None:
    async def buggy(job: PushJob, **_: object) -> Report:
        raise ZeroDivisionError(job.to)

    async with working(tmp_path, push=buggy) as works:
        (job,) = await works.submit(a_job(tmp_path / "graph.json", "oci://host/x"), max_attempts=2)
        ended = await works.wait_end(job)
        assert (ended.state, ended.leases) == ("dead", 2)
        assert "ZeroDivisionError" in str(ended.error)
        assert works.daemon.alive


@pytest.mark.asyncio
async def test_a_running_job_that_is_cancelled_stops(tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": [], "b": []})
    stalled = Fault(on="put-blob", then=Stall(), times=None)
    settings = DaemonSettings(ttl_seconds=1.5, margin_seconds=0.2)
    async with FakeRegistry(faults=[stalled]) as registry, working(tmp_path, settings=settings) as works:
        (job,) = await works.submit(a_job(graph, registry.destination("cache")))
        await registry.wait_started("put-blob", 2)
        assert await works.store.cancel(job) == "requested"
        ended = await works.wait_end(job)
        assert (ended.state, ended.leases) == ("cancelled", 1)
        assert registry.repository("cache").sessions == {}
        assert registry.repository("cache").tags == {}


@pytest.mark.asyncio
async def test_under_a_lost_lease_nothing_more_is_written(tmp_path: Path) -> None:
    """Somebody else has ended the lease: neither the registry nor the store hears of this push any more."""
    graph = write_packages(tmp_path / "graph", {f"p{number}": [] for number in range(30)})
    release = anyio.Event()
    held = Fault(on="put-blob", skip=4, then=Hold(release), times=None)
    settings = DaemonSettings(ttl_seconds=3.0, margin_seconds=0.5, at_once=1)
    async with FakeRegistry(faults=[held]) as registry, working(tmp_path, settings=settings) as works:
        (job,) = await works.submit(a_job(graph, registry.destination("cache")))
        await registry.wait_started("put-blob", 4 + JOBS)  # so nothing else is under way
        (running,) = works.daemon._running.values()
        assert await works.store.fail(running.lease, "somebody else ended it", retry_in=None) == "failed"
        await running.stop.wait()
        before = _begun(registry)
        release.set()
        works.drain.set()
        await works.ended.wait()
        assert _begun(registry) == before
        found = await works.store.get(job)
        assert found is not None
        assert (found.state, found.error) == ("failed", "somebody else ended it")


def _begun(registry: FakeRegistry) -> list[int]:
    """All requests but those that only end an upload session."""
    return [one.started for one in registry.requests if one.method != "DELETE"]


@pytest.mark.asyncio
async def test_a_lease_that_cannot_be_renewed_is_given_up_before_it_ends(tmp_path: Path) -> None:
    stopped = anyio.Event()
    begun: list[Running] = []

    async def endless(job: PushJob, *, stop: anyio.Event, **_: object) -> Report:
        del job
        begun.extend(works.daemon._running.values())
        try:
            await anyio.sleep_forever()
        finally:
            assert stop.is_set()
            stopped.set()
        raise AssertionError

    settings = DaemonSettings(ttl_seconds=12.0, margin_seconds=10.5)
    async with working(tmp_path, push=endless, settings=settings) as works:
        works.daemon._store = _Silent(works.store)  # type: ignore[assignment]
        await works.submit(a_job(tmp_path / "graph.json", "oci://host/x"))
        await stopped.wait()
        (running,) = begun
        assert anyio.current_time() <= running.held_until
        works.daemon._store = works.store
        assert await works.store.renew([Heartbeat(running.lease)]) != []


class _Silent:
    """A store that never answers a renewal."""

    def __init__(self, store: object) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def renew(self, heartbeats: object) -> None:
        del heartbeats
        await anyio.sleep_forever()


@pytest.mark.asyncio
async def test_draining_lets_running_jobs_end_and_takes_no_others(tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": []})
    release = anyio.Event()
    held = Fault(on="put-blob", then=Hold(release))
    settings = DaemonSettings(at_once=1, drain_seconds=20)
    async with FakeRegistry(faults=[held]) as registry, working(tmp_path, settings=settings) as works:
        first, second = await works.submit(*[a_job(graph, registry.destination(name)) for name in ("x", "y")])
        await registry.wait_started("put-blob")
        works.drain.set()
        await anyio.wait_all_tasks_blocked()
        assert works.daemon.draining
        release.set()
        await works.ended.wait()
        states = [job.state for one in (first, second) if (job := await works.store.get(one)) is not None]
        assert states == ["succeeded", "ready"]


@pytest.mark.asyncio
async def test_a_daemon_that_is_drained_before_it_runs_ends_at_once(tmp_path: Path) -> None:
    async def never(job: PushJob, **_: object) -> Report:
        raise AssertionError(job)

    async with open_store(f"sqlite:///{tmp_path}/jobs.db") as store:
        await store.submit([a_job(tmp_path / "graph.json", "oci://host/x").spec(max_attempts=5)])
        daemon = Daemon(store, never, DaemonSettings())
        daemon.drain()
        with anyio.fail_after(10):
            await daemon.run(anyio.Event())
        (job,) = (await store.jobs()).jobs
        assert (job.state, job.attempts) == ("ready", 0)


@pytest.mark.asyncio
async def test_draining_gives_back_what_does_not_end_and_costs_no_attempt(tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": []})
    async with FakeRegistry(faults=[Fault(on="put-blob", then=Stall())]) as registry, working(tmp_path) as works:
        (job,) = await works.submit(a_job(graph, registry.destination("x")))
        await registry.wait_started("put-blob")
        works.drain.set()
        await works.ended.wait()
        found = await works.store.get(job)
        assert found is not None
        assert (found.state, found.attempts, found.leases) == ("ready", 0, 1)


@pytest.mark.asyncio
async def test_job_that_may_kill_daemons_begins_only_where_no_other_would_be_blamed(tmp_path: Path) -> None:
    """Two jobs, x and y, died with two daemons: one of them may be why, and the other must not die of it once more.

    What begins before gets something done first, and what is behind waits until the suspect has.
    """
    place = StorePlace(f"sqlite:///{tmp_path}/jobs.db")
    release, last = {name: anyio.Event() for name in "wxy"}, anyio.Event()
    faults = [Fault(on="put-blob", match=f"^{name} ", then=Hold(event)) for name, event in release.items()]
    faults += [Fault(on="put-manifest", match=f"^{name} {name}-2$", then=Hold(last)) for name in release]
    async with FakeRegistry(faults=faults) as registry:

        def spec(name: str) -> JobSpec:
            graph = write_packages(tmp_path / name, {f"{name}-1": [], f"{name}-2": []})
            return a_job(graph, registry.destination(name)).spec(max_attempts=5)

        async with open_store(place.url) as store:
            await store.submit([spec("x"), spec("y")])
            for _ in range(SUSPECT_LOSSES):
                async with open_store(place.url) as killed:
                    assert len(await killed.lease(limit=2, ttl=60)) == 2
                await store.sweep()
            await store.submit([replace(spec("w"), priority=1), spec("z")])
        async with working(tmp_path, place=place) as works:
            for number, name in enumerate(release, 1):
                await wait_begun(registry, name)
                await anyio.wait_all_tasks_blocked()
                assert works.daemon.running == number
                release[name].set()
            await wait_begun(registry, "z")
            last.set()
            for job in (await works.store.jobs()).jobs:
                assert (await works.wait_end(job.id)).state == "succeeded"


async def wait_begun(registry: FakeRegistry, repository: str) -> None:
    await registry.wait_until(lambda: any(one.repository == repository for one in registry.requests_of("put-blob")))
