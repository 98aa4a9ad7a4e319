"""Pushes in which things happen meanwhile: shared content, lost blobs, a stop; and pushes that are only rehearsed."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import uploader
from uploader import PushOptions, Report, api
from uploader.errors import UnusableError
from uploader.layout.folder import LayoutDestination
from uploader.model.digest import Digest
from uploader.model.events import BlobStarted, Event, PushStarted
from uploader.model.package import PackageGraph
from uploader.model.reference import Tag
from uploader.packing.codecs import find_codec
from uploader.record import NoRecord, Record
from uploader.service.batch import Task, run_push
from uploader.service.contents import Contents, PackingRules
from uploader.service.images import ImageMaker
from uploader.sources.graph_file import GraphFile
from uploader.testing import DISTRIBUTION_2_8, SPEC, Answer, FakeRegistry, Fault, Hold, Quirks
from uploader.testing.packages import a_tar, layers_at, write_packages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from uploader.service.destination import Destination

NAME = "org/cache"
CHAIN = {"app": ["lib"], "lib": ["libc"], "libc": []}
LIB = str(Digest.of(a_tar("lib")))


async def push(registry: FakeRegistry, graph: Path, stop: anyio.Event | None = None, **options: Any) -> Report:
    return await uploader.push(str(graph), registry.destination(NAME), PushOptions(**options), stop=stop)


async def plan(registry: FakeRegistry, graph: Path, **options: Any) -> Report:
    return await api.plan(str(graph), registry.destination(NAME), PushOptions(**options))


def outcomes(report: Report) -> dict[str, str]:
    return {entry.id: entry.outcome for entry in report.packages}


def about(key: str) -> str:
    return f" {Digest.of(a_tar(key))}$"


# -- equal content


def twins(folder: Path) -> Path:
    """Two packages with files of their own, and the same bytes in them; a third needs both."""
    graph = write_packages(folder, {"app": ["one", "two"], "one": [], "two": []})
    for key in ("one", "two"):
        (folder / f"{key}.tar").write_bytes(a_tar("same"))
    return graph


@pytest.mark.asyncio
async def test_equal_content_is_sent_once(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        report = await push(registry, twins(tmp_path))
        assert set(outcomes(report).values()) == {"pushed"}
        assert [one.reference for one in registry.requests_of("put-blob")].count(str(Digest.of(a_tar("same")))) == 1
        assert layers_at(registry.repository(NAME), "app", ["same", "app"]) == ["same", "same", "app"]


@pytest.mark.asyncio
@pytest.mark.parametrize("jobs", [1, 8])
async def test_equal_content_shares_its_failure(tmp_path: Path, jobs: int) -> None:
    refusal = Fault(on="put-blob", match=about("same"), then=Answer(403))
    async with FakeRegistry(faults=[refusal]) as registry:
        report = await push(registry, twins(tmp_path), jobs=jobs)
        assert outcomes(report) == {"app": "pushed", "one": "failed", "two": "failed"}
        assert [one.reference for one in registry.requests_of("put-blob")].count(str(Digest.of(a_tar("same")))) == 1


@pytest.mark.asyncio
async def test_a_failure_to_read_is_each_package_s_own(tmp_path: Path) -> None:
    graph = twins(tmp_path)
    (tmp_path / "one.tar").unlink()
    async with FakeRegistry() as registry:
        report = await push(registry, graph)
        assert outcomes(report) == {"app": "pushed", "one": "failed", "two": "pushed"}
        error = next(entry.error for entry in report.packages if entry.id == "one")
        assert error is not None
        assert (error.stage, error.kind) == ("read", "source")
        assert "one.tar" in error.message


# -- blobs that vanish


@pytest.mark.asyncio
@pytest.mark.parametrize("quirks", [SPEC, DISTRIBUTION_2_8], ids=["404", "400"])
async def test_a_blob_that_vanishes_during_the_push_is_sent_again(tmp_path: Path, quirks: Quirks) -> None:
    release = anyio.Event()
    held = Fault(on="put-blob", match=about("app"), then=Hold(release))
    async with FakeRegistry(quirks=quirks, faults=[held]) as registry, anyio.create_task_group() as group:
        repository = registry.repository(NAME)
        group.start_soon(push, registry, write_packages(tmp_path, CHAIN))
        await registry.wait_until(lambda: {*repository.tags} == {"lib", "libc"})
        del repository.blobs[LIB]
        release.set()
        await registry.wait_until(lambda: "app" in repository.tags)
        assert LIB in repository.blobs
        assert layers_at(repository, "app", CHAIN) == ["libc", "lib", "app"]


@pytest.mark.asyncio
async def test_a_blob_whose_manifest_still_stands_is_sent_again_when_a_dependent_needs_it(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        repository = registry.repository(NAME)
        await push(registry, graph)
        del repository.blobs[LIB]
        repository.remove_manifest(repository.tags["app"])
        report = await push(registry, graph)
        assert outcomes(report) == {"app": "pushed", "lib": "present", "libc": "present"}
        assert LIB in repository.blobs


@pytest.mark.asyncio
async def test_several_manifests_that_lack_the_same_blob_send_it_once(tmp_path: Path) -> None:
    users = {f"app-{number}": ["lib"] for number in range(6)}
    graph = write_packages(tmp_path, {**users, "lib": []})
    async with FakeRegistry() as registry:
        repository = registry.repository(NAME)
        await push(registry, graph)
        del repository.blobs[LIB]
        for user in users:
            repository.remove_manifest(repository.tags[user])
        before = len(registry.requests)
        report = await push(registry, graph)
        assert report.totals.failed == 0
        assert [one.reference for one in registry.requests[before:] if one.kind == "put-blob"].count(LIB) == 1


@pytest.mark.asyncio
async def test_a_vanished_blob_that_cannot_be_read_any_more_fails_the_manifest_alone(tmp_path: Path) -> None:
    release = anyio.Event()
    held = Fault(on="put-blob", match=about("app"), then=Hold(release))
    reports: list[Report] = []
    async with FakeRegistry(faults=[held]) as registry, anyio.create_task_group() as group:
        graph = write_packages(tmp_path, {**CHAIN, "lone": []})

        async def work() -> None:
            reports.append(await push(registry, graph))

        group.start_soon(work)
        await registry.wait_until(lambda: len(registry.repository(NAME).tags) == 3)
        del registry.repository(NAME).blobs[LIB]
        (tmp_path / "lib.tar").unlink()
        release.set()
    assert outcomes(reports[0]) == {"app": "failed", "lib": "pushed", "libc": "pushed", "lone": "pushed"}
    error = next(entry.error for entry in reports[0].packages if entry.error)
    assert (error.stage, error.kind) == ("read", "source")
    assert "lib.tar" in error.message


# -- stop


@pytest.mark.asyncio
async def test_a_stop_leaves_a_true_report_and_the_next_push_finishes(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    stop, reports = anyio.Event(), list[Report]()
    async with FakeRegistry(faults=[Fault(on="put-blob", match=about("lib"), then=Hold(anyio.Event()))]) as registry:
        repository = registry.repository(NAME)
        async with anyio.create_task_group() as group:

            async def work() -> None:
                reports.append(await push(registry, graph, stop))

            group.start_soon(work)
            await registry.wait_started("put-blob", 4)  # three layers and the config of libc; that of lib is held
            await registry.wait_until(lambda: "libc" in repository.tags and len(repository.blobs) == 3)
            stop.set()
        await registry.wait_ended("put-blob", 4)
        assert outcomes(reports[0]) == {"app": "interrupted", "lib": "interrupted", "libc": "pushed"}
        assert {entry.why for entry in reports[0].packages if entry.why} == {"the run was interrupted"}
        assert len(registry.requests_of("cancel")) == 1
        assert not repository.sessions

        registry.clear_faults()
        before = len(registry.requests)
        report = await push(registry, graph)
        assert outcomes(report) == {"app": "pushed", "lib": "pushed", "libc": "present"}
        sent = [one.reference for one in registry.requests[before:] if one.kind == "put-blob"]
        assert str(Digest.of(a_tar("app"))) not in sent


@pytest.mark.asyncio
async def test_a_manifest_whose_answer_is_outstanding_is_reported_as_it_is(tmp_path: Path) -> None:
    """It gets its time to end, and it does."""
    graph = write_packages(tmp_path, {"app": []})
    release, stop, reports = anyio.Event(), anyio.Event(), list[Report]()
    async with FakeRegistry(faults=[Fault(on="put-manifest", then=Hold(release))]) as registry:
        async with anyio.create_task_group() as group:

            async def work() -> None:
                reports.append(await push(registry, graph, stop))

            group.start_soon(work)
            await registry.wait_started("put-manifest")
            stop.set()
            await anyio.wait_all_tasks_blocked()
            release.set()
        assert outcomes(reports[0]) == {"app": "pushed"}
        assert {*registry.repository(NAME).tags} == {"app"}


@pytest.mark.asyncio
async def test_a_stop_ends_even_the_first_question(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    stop, reports = anyio.Event(), list[Report]()
    async with FakeRegistry(faults=[Fault(on="tags", then=Hold(anyio.Event()))]) as registry:
        async with anyio.create_task_group() as group:

            async def work() -> None:
                reports.append(await push(registry, graph, stop))

            group.start_soon(work)
            await registry.wait_started("tags")
            stop.set()
        assert {one.kind for one in registry.requests} == {"tags"}
    assert set(outcomes(reports[0]).values()) == {"interrupted"}


# -- a destination that cannot be opened, or not be closed


@asynccontextmanager
async def _breaking(folder: Path, *, at_once: bool) -> AsyncIterator[Destination]:
    if at_once:
        raise UnusableError("the folder is locked")
    async with LayoutDestination(folder) as layout:
        yield layout
    raise UnusableError("the tags could not be written")


@pytest.mark.asyncio
@pytest.mark.parametrize("at_once", [True, False])
async def test_tags_that_are_lost_in_the_end_are_not_reported_as_pushed(tmp_path: Path, at_once: bool) -> None:
    loaded = GraphFile(write_packages(tmp_path / "graph", CHAIN)).load()
    graph, everything = PackageGraph(loaded.packages), frozenset(package.id for package in loaded.packages)
    task = Task(
        graph,
        everything,
        "folder",
        (),
        (),
        jobs=2,
        images=ImageMaker("1970-01-01T00:00:00Z"),
        force=False,
        strict=False,
    )
    report = await run_push(
        task,
        _breaking(tmp_path / "layout", at_once=at_once),
        Contents(NoRecord(), PackingRules(find_codec("gzip", None), "1")),
        NoRecord(),
        emit=lambda _: None,
        stop=anyio.Event(),
    )
    assert set(outcomes(report).values()) == {"interrupted"}
    assert report.error == ("the folder is locked" if at_once else "the tags could not be written")
    assert all((entry.blob is None) == at_once for entry in report.packages)


# -- rehearsal


async def _empty(registry: FakeRegistry, graph: Path) -> None:
    pass


async def _partly_filled(registry: FakeRegistry, graph: Path) -> None:
    await push(registry, graph, select=("lib",))


async def _with_gaps(registry: FakeRegistry, graph: Path) -> None:
    await push(registry, graph, only=("package",))


async def _full(registry: FakeRegistry, graph: Path) -> None:
    await push(registry, graph)


@pytest.mark.asyncio
@pytest.mark.parametrize("state", [None, "state.sqlite"], ids=["no record", "record"])
@pytest.mark.parametrize("before", [_empty, _partly_filled, _with_gaps, _full])
async def test_a_plan_sends_nothing_and_tells_what_the_push_then_does(tmp_path: Path, before: Any, state: Any) -> None:
    graph = write_packages(tmp_path, CHAIN)
    path = tmp_path / state if state else None
    async with FakeRegistry() as registry:
        await before(registry, graph)
        repository = registry.repository(NAME)
        held, asked = {**repository.tags}, len(registry.requests)
        planned = await plan(registry, graph, state=path)
        assert {one.method for one in registry.requests[asked:]} <= {"GET", "HEAD"}
        assert repository.tags == held

        asked = len(registry.requests)
        done = await push(registry, graph, state=path)
        assert planned.totals == done.totals
        assert planned.packages == done.packages
        assert done.totals.requests == len(registry.requests) - asked


@pytest.mark.asyncio
async def test_a_plan_puts_nothing_on_record_that_it_did_not_do(tmp_path: Path) -> None:
    graph, path = write_packages(tmp_path, CHAIN), tmp_path / "state.sqlite"
    async with FakeRegistry() as registry:
        await plan(registry, graph, state=path)
        with Record(path) as record:
            where = registry.destination(NAME)
            assert not record.has_blob(where, Digest.parse(LIB))
            assert record.manifest(where, Tag("lib")) is None
        await push(registry, graph, state=path)
        with Record(path) as record:
            assert record.has_blob(where, Digest.parse(LIB))
            assert record.manifest(where, Tag("lib"))


@pytest.mark.asyncio
async def test_a_plan_for_a_folder_writes_nothing_and_counts_no_requests(tmp_path: Path) -> None:
    graph, folder = write_packages(tmp_path / "graph", CHAIN), f"oci-layout:{tmp_path / 'layout'}"
    planned = await api.plan(str(graph), folder)
    assert not await anyio.Path(tmp_path / "layout/blobs/sha256").exists()
    assert planned.totals.requests == 0
    assert planned.totals.bytes_sent > 0


# -- events


@pytest.mark.asyncio
async def test_the_beginning_counts_what_is_really_to_be_pushed(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN, keys={"libc": {"push": False}})
    events: list[Event] = []
    async with FakeRegistry() as registry:
        await uploader.push(str(graph), registry.destination(NAME), emit=events.append)
    assert events[0] == PushStarted(packages=2, of=3)
    assert sum(isinstance(event, BlobStarted) for event in events) == 2
