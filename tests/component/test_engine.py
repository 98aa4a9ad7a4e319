"""The engine over a scripted pusher: every step is held until the test opens it, so each order is chosen, not met."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import pytest

from uploader.errors import RegistryError, SourceError, Stage, UnusableError
from uploader.graph import engine
from uploader.graph.plan import Plan
from uploader.model.events import BlobStarted, Event, LayerSettled, ManifestSettled
from uploader.model.outcome import Done, Failed, Interrupted, Tagged
from uploader.model.package import Package, PackageGraph
from uploader.testing.packages import a_layer, a_package
from uploader.testing.pusher import Kind, ScriptedPusher, Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHAIN = (a_package("app", "lib"), a_package("lib", "libc"), a_package("libc"))
LONE = tuple(a_package(key) for key in "abcdef")
LONG_SECONDS = 3600.0


@dataclass
class Running:
    """An engine at work, and all that a test holds of it."""

    plan: Plan
    pusher: ScriptedPusher
    stop: anyio.Event
    events: list[Event] = field(default_factory=list)
    problem: UnusableError | None = None
    finished: anyio.Event = field(default_factory=anyio.Event)

    async def wait_finished(self) -> None:
        with anyio.fail_after(5):  # it is there at once, or never
            await self.finished.wait()

    def layers(self) -> dict[str, type]:
        return {outcome.package.id: type(outcome.layer) for outcome in self.plan.outcomes()}

    def manifests(self) -> dict[str, type]:
        return {outcome.package.id: type(outcome.manifest) for outcome in self.plan.outcomes()}


def prepared(*packages: Package, held: bool = True) -> Running:
    graph = PackageGraph(packages)
    plan = Plan(graph, frozenset(package.id for package in packages))
    return Running(plan, ScriptedPusher(held=held), anyio.Event())


async def run(running: Running, *, jobs: int, grace_seconds: float) -> None:
    running.problem = await engine.run(
        running.plan,
        running.pusher,
        jobs=jobs,
        emit=running.events.append,
        stop=running.stop,
        grace_seconds=grace_seconds,
    )
    running.finished.set()


@asynccontextmanager
async def started(
    *packages: Package, jobs: int = 4, grace_seconds: float = LONG_SECONDS
) -> AsyncIterator[tuple[Running, ScriptedPusher]]:
    """The engine runs in the background until everything waits for the test; whatever is left is cancelled."""
    running = prepared(*packages)
    async with anyio.create_task_group() as group:

        async def work() -> None:
            await run(running, jobs=jobs, grace_seconds=grace_seconds)

        group.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        yield running, running.pusher
        group.cancel_scope.cancel()


async def stopped(running: Running) -> None:
    running.stop.set()
    await anyio.wait_all_tasks_blocked()


# -- what runs when


@pytest.mark.asyncio
async def test_all_blobs_start_at_once_and_no_manifest_before_its_blob() -> None:
    async with started(*CHAIN) as (_, pusher):
        assert pusher.running == [("layer", "libc"), ("layer", "lib"), ("layer", "app")]


@pytest.mark.asyncio
async def test_there_is_no_barrier_between_blobs_and_manifests() -> None:
    async with started(*CHAIN, a_package("slow")) as (running, pusher):
        for key in ("app", "lib", "libc"):
            await pusher.end_and_settle("layer", key)
        assert pusher.running == [("layer", "slow"), ("manifest", "libc"), ("manifest", "lib"), ("manifest", "app")]
        assert not running.finished.is_set()


@pytest.mark.asyncio
async def test_manifests_do_not_wait_for_manifests() -> None:
    async with started(*CHAIN) as (running, pusher):
        for key in ("app", "lib", "libc"):
            await pusher.end_and_settle("layer", key)
        for key in ("app", "lib", "libc"):
            await pusher.end_and_settle("manifest", key)
        await running.wait_finished()
        assert set(running.manifests().values()) == {Tagged}


@pytest.mark.asyncio
async def test_no_more_blobs_run_at_a_time_than_there_are_jobs() -> None:
    async with started(*LONE, jobs=2) as (_, pusher):
        assert pusher.running == [("layer", "a"), ("layer", "b")]
        await pusher.end_and_settle("layer", "b")
        assert [step for step in pusher.running if step[0] == "layer"] == [("layer", "a"), ("layer", "c")]


@pytest.mark.asyncio
async def test_a_manifest_has_a_lane_of_its_own() -> None:
    async with started(*LONE, jobs=1) as (_, pusher):
        await pusher.end_and_settle("layer", "a")
        assert pusher.running == [("layer", "b"), ("manifest", "a")]
        await pusher.end_and_settle("layer", "b")
        assert pusher.running == [("manifest", "a"), ("layer", "c")]
        await pusher.end_and_settle("manifest", "a")
        assert pusher.running == [("layer", "c"), ("manifest", "b")]


@pytest.mark.asyncio
async def test_a_manifest_lane_that_ran_dry_is_opened_again() -> None:
    async with started(*LONE, jobs=1) as (_, pusher):
        for key in "abc":
            await pusher.end_and_settle("layer", key)
            assert ("manifest", key) in pusher.running
            await pusher.end_and_settle("manifest", key)


@pytest.mark.asyncio
async def test_ten_thousand_packages_are_never_ten_thousand_tasks() -> None:
    jobs = 16
    packages = [a_package(f"p{n}", *(f"p{m}" for m in {n // 2, n // 3} if m < n)) for n in range(10_000)]
    running = prepared(*packages, held=False)
    await run(running, jobs=jobs, grace_seconds=0)
    assert len(running.pusher.ended) == 20_000
    assert running.pusher.most_layers == running.pusher.most_manifests == jobs
    assert running.pusher.most_tasks <= 2 * jobs + 3


@pytest.mark.asyncio
async def test_what_happens_is_told_in_order() -> None:
    lone = a_package("lone")
    async with started(lone) as (running, pusher):
        await pusher.end_and_settle("layer", "lone")
        await pusher.end_and_settle("manifest", "lone")
        assert [type(event) for event in running.events] == [BlobStarted, LayerSettled, ManifestSettled]


# -- failures


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("problem", "stage"),
    [
        (SourceError("torn"), "read"),
        (SourceError("no room", stage="pack"), "pack"),
        (RegistryError("denied", status=403), "blob"),
    ],
)
async def test_a_failed_blob_is_its_package_s_alone(problem: SourceError | RegistryError, stage: Stage) -> None:
    async with started(*CHAIN) as (running, pusher):
        pusher.end("layer", "lib", problem)
        for key in ("app", "libc"):
            await pusher.end_and_settle("layer", key)
        for key in ("app", "libc"):
            await pusher.end_and_settle("manifest", key)
        await running.wait_finished()
        lib, app = (next(o for o in running.plan.outcomes() if o.package.id == key) for key in ("lib", "app"))
        assert lib.layer == Failed(problem, stage)
        assert lib.manifest is None
        assert pusher.closures["app"].layers == (a_layer("libc"), a_layer("app"))
        assert isinstance(app.manifest, Tagged)
        assert [missing.id for missing in app.manifest.missing] == ["lib"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("problem", "stage"), [(RegistryError("no", status=400), "manifest"), (SourceError("lost"), "read")]
)
async def test_a_failed_manifest_is_its_package_s_alone(problem: SourceError | RegistryError, stage: Stage) -> None:
    """A layer that has to be sent again for a manifest may be unreadable by then: a SourceError."""
    async with started(*CHAIN) as (running, pusher):
        pusher.end("manifest", "lib", problem)
        for key in ("app", "lib", "libc"):
            await pusher.end_and_settle("layer", key)
        for key in ("app", "libc"):
            await pusher.end_and_settle("manifest", key)
        await running.wait_finished()
        assert [o.manifest for o in running.plan.outcomes() if o.package.id == "lib"] == [Failed(problem, stage)]
        assert a_layer("lib") in pusher.closures["app"].layers


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["layer", "manifest"])
async def test_an_unusable_registry_ends_the_run_and_interrupts_the_rest(kind: Kind) -> None:
    problem = UnusableError("no connection")
    async with started(*LONE, jobs=3) as (running, pusher):
        await pusher.end_and_settle("layer", "a")
        await pusher.end_and_settle("layer", "b")
        await pusher.end_and_settle("manifest", "b")
        pusher.there.add("a")
        await pusher.end_and_settle(kind, "c" if kind == "layer" else "a", problem)
        await running.wait_finished()
        assert running.problem is problem
        assert running.layers() == {"a": Done, "b": Done} | dict.fromkeys("cdef", Interrupted)
        assert running.manifests()["b"] is Tagged
        assert running.manifests()["a"] is (Tagged if kind == "layer" else Interrupted)
        assert {o.layer.why for o in running.plan.outcomes() if isinstance(o.layer, Interrupted)} == {"no connection"}


# -- stop


@pytest.mark.asyncio
async def test_a_stop_cancels_blobs_at_once_and_lets_manifests_end() -> None:
    async with started(*LONE, jobs=2) as (running, pusher):
        await pusher.end_and_settle("layer", "a")
        await stopped(running)
        assert sorted(pusher.cancelled) == [("layer", "b"), ("layer", "c")]
        assert pusher.running == [("manifest", "a")]
        await pusher.end_and_settle("manifest", "a")
        await running.wait_finished()
        assert running.problem is None
        assert running.layers() == {"a": Done} | dict.fromkeys("bcdef", Interrupted)
        assert running.manifests()["a"] is Tagged


@pytest.mark.asyncio
async def test_after_a_stop_no_further_manifest_is_begun() -> None:
    async with started(*LONE, jobs=1) as (running, pusher):
        await pusher.end_and_settle("layer", "a")
        await pusher.end_and_settle("layer", "b")
        await stopped(running)
        await pusher.end_and_settle("manifest", "a")
        await running.wait_finished()
        assert ("manifest", "b") not in pusher.started
        assert running.manifests() == {"a": Tagged, "b": Interrupted} | dict.fromkeys("cdef", type(None))


@pytest.mark.asyncio
async def test_a_blob_that_ends_just_at_the_stop_is_done_and_its_manifest_is_not_begun() -> None:
    async with started(*LONE, jobs=2) as (running, pusher):
        running.stop.set()
        await pusher.end_and_settle("layer", "a")
        await running.wait_finished()
        assert ("manifest", "a") not in pusher.started
        assert running.layers()["a"] is Done
        assert running.manifests()["a"] is Interrupted


@pytest.mark.asyncio
@pytest.mark.parametrize("is_there", [True, False])
async def test_a_manifest_that_does_not_end_in_its_time_is_asked_for(is_there: bool) -> None:
    async with started(*LONE, jobs=1, grace_seconds=0) as (running, pusher):
        await pusher.end_and_settle("layer", "a")
        if is_there:
            pusher.there.add("a")
        await stopped(running)
        await running.wait_finished()
        assert ("confirm", "a") in pusher.started
        assert running.manifests()["a"] is (Tagged if is_there else Interrupted)
        assert [e.package.id for e in running.events if isinstance(e, ManifestSettled)] == ["a"] * is_there


@pytest.mark.asyncio
async def test_an_answer_that_never_comes_does_not_hold_up_the_end() -> None:
    async with started(*LONE, jobs=1, grace_seconds=0) as (running, pusher):
        await pusher.end_and_settle("layer", "a")
        pusher.silent.add("a")
        await stopped(running)
        await running.wait_finished()
        assert running.manifests()["a"] is Interrupted


@pytest.mark.asyncio
async def test_a_run_that_is_stopped_before_it_begins_does_nothing() -> None:
    running = prepared(*CHAIN)
    running.stop.set()
    await run(running, jobs=4, grace_seconds=0)
    assert running.pusher.started == []
    assert set(running.layers().values()) == {Interrupted}


@pytest.mark.asyncio
async def test_a_second_reason_to_end_keeps_the_first() -> None:
    problem = UnusableError("first")
    async with started(*LONE, jobs=2) as (running, pusher):
        pusher.end("layer", "a", problem)
        await pusher.end_and_settle("layer", "b", UnusableError("second"))
        await stopped(running)
        assert running.problem is problem


# -- cancelled from outside, at every step

STEPS: list[Step] = [
    ("layer", "app"),
    ("layer", "libc"),
    ("manifest", "libc"),
    ("layer", "lib"),
    ("manifest", "app"),
    ("manifest", "lib"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize("made", range(len(STEPS)))
@pytest.mark.parametrize("by_stop", [True, False], ids=["stop", "cancel"])
async def test_outcomes_are_true_wherever_the_run_is_broken_off(made: int, by_stop: bool) -> None:
    running = prepared(*CHAIN)
    pusher = running.pusher
    pusher.there.add("lib")
    async with anyio.create_task_group() as group:

        async def work() -> None:
            await run(running, jobs=4, grace_seconds=0)

        group.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        for kind, key in STEPS[:made]:
            await pusher.end_and_settle(kind, key)
        if by_stop:
            await stopped(running)
        else:
            group.cancel_scope.cancel()
    check_truth(running)


def check_truth(running: Running) -> None:
    """What has ended is done; a manifest in flight is there if the registry says so; all else was interrupted."""
    pusher = running.pusher
    assert sorted(pusher.started) == sorted([*pusher.ended, *pusher.cancelled, *_confirms(pusher)])
    for outcome in running.plan.outcomes():
        key = outcome.package.id
        assert type(outcome.layer) is (Done if ("layer", key) in pusher.ended else Interrupted)
        confirmed = ("manifest", key) in pusher.cancelled and key in pusher.there
        there = ("manifest", key) in pusher.ended or confirmed
        wanted = type(None) if isinstance(outcome.layer, Interrupted) else Tagged if there else Interrupted
        assert type(outcome.manifest) is wanted


def _confirms(pusher: ScriptedPusher) -> list[Step]:
    """Each manifest that was cancelled, and no other, was asked for."""
    return [("confirm", key) for kind, key in pusher.cancelled if kind == "manifest"]


@pytest.mark.asyncio
async def test_a_bug_in_the_pusher_ends_the_run_loudly_and_leaves_outcomes() -> None:
    class Broken(ScriptedPusher):
        async def push_layer(self, package: Package) -> Done:
            raise KeyError(package.id)

    running = prepared(*CHAIN)
    running.pusher = Broken()
    with pytest.raises(BaseExceptionGroup) as bug:
        await run(running, jobs=1, grace_seconds=0)
    assert bug.group_contains(KeyError)
    assert set(running.layers().values()) == {Interrupted}
