"""The index of a Spack build cache: merged by every push, whoever pushes beside it, and made anew from the tags."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.component.a_spack_store import DTTOP, MPILEAKS, index_at, listed, push, unpack_store
from tests.unit.sources.spack.a_store import AStore
from uploader import api
from uploader.errors import UnusableError
from uploader.testing import Answer, FakeRegistry, Fault, Hold

if TYPE_CHECKING:
    from pathlib import Path

    from uploader.testing import Recorded


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return unpack_store(tmp_path)


@pytest.mark.asyncio
async def test_a_lost_index_is_written_although_every_spec_is_there(store: Path) -> None:
    """Spack says that all is there, and never writes the index again."""
    async with FakeRegistry() as registry:
        await push(registry, store)
        del registry.repository("cache").tags["index.spack"]
        report, _ = await push(registry, store)
        assert report.totals.present == 6
        assert report.index is not None
        assert report.index.outcome == "written"
        assert listed(registry) == MPILEAKS
        report, _ = await push(registry, store)
        assert report.index is not None
        assert report.index.outcome == "present"


@pytest.mark.asyncio
async def test_an_index_that_cannot_be_written_fails_clearly_and_loses_nothing(store: Path) -> None:
    async with FakeRegistry(faults=[Fault(on="put-manifest", match="index.spack", then=Answer(403))]) as registry:
        report, _ = await push(registry, store)
        assert report.totals.pushed == 6
        assert report.index is not None
        assert report.index.outcome == "failed"
        assert "403" in str(report.index.error)
        registry.clear_faults()
        await push(registry, store)
        assert listed(registry) == MPILEAKS


# -- two pushers


@pytest.mark.asyncio
@pytest.mark.parametrize("run", range(10))
async def test_two_pushers_at_once_list_the_union(store: Path, run: int) -> None:
    async with FakeRegistry(seed=run) as registry:
        async with anyio.create_task_group() as group:
            group.start_soon(push, registry, store, "mpileaks")
            group.start_soon(push, registry, store, "callpath,dttop")
        assert listed(registry) == MPILEAKS | DTTOP
        await assert_the_index_is_that_of_the_tags(registry)


@pytest.mark.asyncio
@pytest.mark.parametrize("first", ["one", "other"])
async def test_both_read_before_either_writes(store: Path, first: str) -> None:
    gates = {"one": anyio.Event(), "other": anyio.Event()}
    async with FakeRegistry() as registry:
        for gate in gates.values():
            registry.inject(Fault(on="put-manifest", match="index.spack", times=1, then=Hold(gate)))
        async with anyio.create_task_group() as group:
            group.start_soon(push, registry, store, "mpileaks")
            group.start_soon(push, registry, store, "dttop")
            await registry.wait_until(lambda: len(index_writes(registry)) == 2)
            gates.pop(first).set()
            await registry.wait_until(lambda: any(write.ended for write in index_writes(registry)))
            gates.popitem()[1].set()
        assert listed(registry) == MPILEAKS | DTTOP
        await assert_the_index_is_that_of_the_tags(registry)


@pytest.mark.asyncio
async def test_a_write_that_comes_long_after_its_read_is_mended_by_the_writer(store: Path) -> None:
    """One has read, then the other does all its work, then the one writes what it knew."""
    gate = anyio.Event()
    async with FakeRegistry() as registry:
        registry.inject(Fault(on="put-manifest", match="index.spack", times=1, then=Hold(gate)))
        async with anyio.create_task_group() as group:
            group.start_soon(push, registry, store, "mpileaks")
            await registry.wait_until(lambda: len(index_writes(registry)) == 1)
            await push(registry, store, "dttop")
            assert listed(registry) == MPILEAKS | DTTOP
            registry.inject(Fault(on="put-manifest", match="index.spack", skip=1, then=Answer(500, body=b"")))
            gate.set()
            await registry.wait_until(lambda: listed(registry) == MPILEAKS)
            registry.clear_faults()
        assert listed(registry) == MPILEAKS | DTTOP


@pytest.mark.asyncio
async def test_who_is_always_overwritten_gives_up_clearly_and_all_is_still_tagged(store: Path) -> None:
    async with FakeRegistry() as registry:
        await push(registry, store, "dttop")
        repository = registry.repository("cache")
        old = repository.tags["index.spack"]
        reports = []

        async def overwrite() -> None:
            seen = len(index_writes(registry))
            while True:
                await registry.wait_until(lambda: sum(w.ended is not None for w in index_writes(registry)) > seen)  # noqa: B023
                seen += 1
                repository.tags["index.spack"] = old

        async with anyio.create_task_group() as group:
            group.start_soon(overwrite)
            reports.append((await push(registry, store, "mpileaks"))[0])
            group.cancel_scope.cancel()
        assert (reports[0].totals.pushed, reports[0].totals.failed) == (6, 0)
        assert reports[0].index is not None
        assert "overwrote it" in str(reports[0].index.error)
        assert "uploader index" in str(reports[0].index.error)
        await api.rebuild_index(registry.destination("cache"))
        assert listed(registry) == MPILEAKS | DTTOP


@pytest.mark.asyncio
async def test_an_index_that_was_overwritten_from_an_old_one_is_mended_by_the_next_push(store: Path) -> None:
    async with FakeRegistry() as registry:
        await push(registry, store, "dttop")
        repository = registry.repository("cache")
        old = repository.tags["index.spack"]
        await push(registry, store, "mpileaks")
        repository.tags["index.spack"] = old
        await push(registry, store, "dttop")
        assert listed(registry) == MPILEAKS | DTTOP


@pytest.mark.asyncio
async def test_what_another_generation_of_spack_pushed_spoils_no_index(store: Path, tmp_path: Path) -> None:
    """No Spack reads both in one document; the one that was there first goes on."""
    other = AStore("8").add("a", explicit=True).write(tmp_path / "other")
    async with FakeRegistry() as registry:
        await push(registry, store)
        before = index_at(registry)
        report, entries = await push(registry, other, "a")
        assert report.index is not None
        assert (report.totals.pushed, report.index.outcome) == (1, "failed")
        assert "different generations of Spack" in str(report.index.error)
        report, _ = await push(registry, store)
        assert report.index is not None
        assert (report.index.outcome, index_at(registry)) == ("present", before)
        assert [skipped.tag for skipped in report.index.skipped] == [entries["a"].tag]


def index_writes(registry: FakeRegistry) -> list[Recorded]:
    return [request for request in registry.requests_of("put-manifest") if request.reference == "index.spack"]


async def assert_the_index_is_that_of_the_tags(registry: FakeRegistry) -> None:
    before = index_at(registry)
    outcome = await api.rebuild_index(registry.destination("cache"))
    assert outcome is not None
    assert (outcome.written, index_at(registry)) == (False, before)


# -- from the tags


@pytest.mark.asyncio
async def test_a_broken_index_is_made_anew_and_foreign_tags_are_listed(store: Path) -> None:
    async with FakeRegistry() as registry:
        await push(registry, store)
        repository = registry.repository("cache")
        repository.tags["odd-1.0-abc.spack"] = repository.tags["index.spack"]
        digest = json.loads(repository.manifests[repository.tags["index.spack"]][1])["layers"][0]["digest"]
        repository.blobs[digest] = b"{}"
        report, _ = await push(registry, store)
        assert report.index is not None
        assert [skipped.tag for skipped in report.index.skipped] == ["odd-1.0-abc.spack"]
        assert listed(registry) == MPILEAKS


@pytest.mark.asyncio
async def test_the_index_is_rebuilt_from_the_tags_alone(store: Path) -> None:
    async with FakeRegistry() as registry:
        await push(registry, store)
        before = registry.repository("cache").tags.pop("index.spack")
        outcome = await api.rebuild_index(registry.destination("cache"))
        assert outcome is not None
        assert (outcome.written, outcome.specs) == (True, 6)
        assert registry.repository("cache").tags["index.spack"] == before
        again = await api.rebuild_index(registry.destination("cache"))
        assert again is not None
        assert not again.written
        with pytest.raises(UnusableError, match="no such repository, or nothing is tagged in it"):
            await api.rebuild_index(registry.destination("nothing"))


@pytest.mark.asyncio
async def test_what_is_tagged_no_more_is_in_a_rebuilt_index_no_more(store: Path) -> None:
    async with FakeRegistry() as registry:
        _, entries = await push(registry, store)
        del registry.repository("cache").tags[entries["mpileaks"].tag]
        await api.rebuild_index(registry.destination("cache"))
        assert listed(registry) == MPILEAKS - {"mpileaks"}


@pytest.mark.asyncio
async def test_tags_that_hold_no_spec_are_passed_over_each_with_its_reason(store: Path) -> None:
    """One foreign tag, or one config that was deleted, makes Spack's own rebuild fail."""
    async with FakeRegistry() as registry:
        _, entries = await push(registry, store)
        repository = registry.repository("cache")
        manifest = json.loads(repository.manifests[repository.tags[entries["mpich"].tag]][1])
        del repository.blobs[manifest["config"]["digest"]]
        config = repository.add_blob(b"{}")
        foreign = {**manifest, "config": {**manifest["config"], "digest": config, "size": 2}}
        repository.add_manifest(json.dumps(foreign).encode(), "foreign.spack")
        repository.add_manifest(b'{"schemaVersion":2,"manifests":[]}', "several.spack")
        outcome = await api.rebuild_index(registry.destination("cache"))
        assert outcome is not None
        assert set(outcome.skipped) == {entries["mpich"].tag, "foreign.spack", "several.spack"}
        assert "no spec" in outcome.skipped["foreign.spack"]
        assert listed(registry) == MPILEAKS - {"mpich"}


@pytest.mark.asyncio
async def test_a_spec_that_the_registry_fails_to_tell_of_stays_in_a_rebuilt_index(store: Path) -> None:
    """Nothing is taken for absent because asking failed."""
    async with FakeRegistry() as registry:
        _, entries = await push(registry, store)
        before = index_at(registry)
        registry.inject(Fault(on="get-manifest", match=entries["mpich"].tag, then=Answer(400)))
        outcome = await api.rebuild_index(registry.destination("cache"))
        assert outcome is not None
        assert (set(outcome.unsure), outcome.written) == ({entries["mpich"].tag}, False)
        assert index_at(registry) == before
