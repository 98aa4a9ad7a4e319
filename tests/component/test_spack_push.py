"""Spack stores on their way to a registry: best effort, the index, and what Spack itself left there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

import uploader
from uploader import api
from uploader.errors import InputError
from uploader.testing import Answer, FakeRegistry, Fault

if TYPE_CHECKING:
    from uploader.service.report import PackageEntry, Report

GOLDEN = Path(__file__).parent.parent / "golden"
MPILEAKS = {"callpath", "dyninst", "libdwarf", "libelf", "mpich", "mpileaks"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The recorded store of Spack 0.23, not where it was recorded."""
    subprocess.run(["tar", "-xzf", GOLDEN / "spack-0.23" / "store.tar.gz", "-C", tmp_path], check=True)
    return (tmp_path / "opt" / "software").rename(tmp_path / "elsewhere")


async def push(
    registry: FakeRegistry, store: Path, specs: str = "mpileaks", **options: object
) -> tuple[Report, dict[str, PackageEntry]]:
    chosen = uploader.PushOptions(update_index=True, **options)  # type: ignore[arg-type]
    report = await uploader.push(f"spack:{store}#{specs}", registry.destination("cache"), chosen)
    return report, {entry.name: entry for entry in report.packages}


def listed(registry: FakeRegistry) -> set[str]:
    """The names of the specs that the index says are in the build cache."""
    repository = registry.repository("cache")
    _, manifest = repository.manifests[repository.tags["index.spack"]]
    blob = repository.blobs[json.loads(manifest)["layers"][0]["digest"]]
    assert isinstance(blob, bytes)
    installs = json.loads(blob)["database"]["installs"]
    return {entry["spec"]["name"] for entry in installs.values() if entry["in_buildcache"]}


def layers_at(registry: FakeRegistry, entry: PackageEntry) -> int:
    repository = registry.repository("cache")
    return len(json.loads(repository.manifests[repository.tags[entry.tag]][1])["layers"])


def prefix_of(store: Path, name: str) -> Path:
    return next(path.parent.parent for path in store.glob(f"*/*/{name}-*/.spack/spec.json"))


@pytest.mark.asyncio
async def test_what_cannot_be_read_or_sent_is_left_out_and_the_next_push_repairs_all(store: Path) -> None:
    spec = prefix_of(store, "libelf") / ".spack" / "spec.json"
    kept = spec.rename(spec.with_suffix(".away"))
    async with FakeRegistry() as registry:
        report, entries = await push(registry, store)
        assert (report.totals.failed, report.totals.pushed, report.totals.incomplete) == (1, 5, 4)
        assert entries["libelf"].error is not None
        assert entries["libelf"].error.stage == "read"
        assert [gap.name for gap in entries["mpileaks"].gaps] == ["libelf"]
        assert listed(registry) == MPILEAKS - {"libelf"}
        assert layers_at(registry, entries["mpileaks"]) == 5

        kept.rename(spec)
        report, entries = await push(registry, store)
        assert (report.totals.failed, report.totals.incomplete) == (0, 0)
        assert entries["mpich"].outcome == "present"
        assert layers_at(registry, entries["mpileaks"]) == 6, "Spack leaves it broken for good"
        assert listed(registry) == MPILEAKS


@pytest.mark.asyncio
async def test_a_refused_blob_spoils_nothing_else(store: Path) -> None:
    async with FakeRegistry() as registry:
        registry.inject(Fault(on="put-blob", then=Answer(403), times=1))
        report, _ = await push(registry, store)
        assert (report.totals.failed, report.totals.pushed) == (1, 5)
        report, _ = await push(registry, store)
        assert (report.totals.failed, report.totals.pushed + report.totals.present) == (0, 6)
        assert report.totals.incomplete == 0


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


@pytest.mark.asyncio
@pytest.mark.parametrize("run", range(10))
async def test_two_pushers_at_once_lose_no_spec_from_the_index(store: Path, run: int) -> None:
    async with FakeRegistry(seed=run) as registry:
        async with anyio.create_task_group() as group:
            group.start_soon(push, registry, store, "mpileaks")
            group.start_soon(push, registry, store, "dttop")
        assert listed(registry) >= MPILEAKS | {"dttop", "dtlink1", "dtrun1"}


@pytest.mark.asyncio
async def test_an_index_that_was_overwritten_from_an_old_one_is_mended(store: Path) -> None:
    """The other one read the index before we wrote ours, and writes after it."""
    async with FakeRegistry() as registry:
        await push(registry, store, "dttop")
        repository = registry.repository("cache")
        old = repository.tags["index.spack"]
        await push(registry, store, "mpileaks")
        repository.tags["index.spack"] = old
        await push(registry, store, "dttop")
        assert listed(registry) >= MPILEAKS | {"dttop"}


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
        assert await api.rebuild_index(registry.destination("nothing")) is None


@pytest.mark.asyncio
async def test_what_is_not_redistributable_is_left_out_unless_private(store: Path) -> None:
    recipe = prefix_of(store, "libelf") / ".spack" / "repos" / "builtin" / "packages" / "libelf" / "package.py"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("class Libelf:\n    redistribute(binary=False)\n")
    async with FakeRegistry() as registry:
        report, entries = await push(registry, store)
        assert (entries["libelf"].outcome, entries["libelf"].why) == ("left-out", "not-redistributable")
        assert report.totals.incomplete == 4
        report, entries = await push(registry, store, private=True)
        assert (report.totals.incomplete, layers_at(registry, entries["mpileaks"])) == (0, 6)


@pytest.mark.asyncio
async def test_a_tag_proves_its_package_so_nothing_is_packed_again(store: Path) -> None:
    async with FakeRegistry() as registry:
        await push(registry, store)
        (prefix_of(store, "mpich") / "new").write_text("it would be another layer now")
        sent = len(registry.requests_of("put-blob"))
        report, _ = await push(registry, store)
        assert report.totals.present == 6
        assert len(registry.requests_of("put-blob")) == sent


@pytest.mark.asyncio
async def test_what_spack_itself_pushed_is_present(store: Path) -> None:
    recorded = GOLDEN / "spack-0.23" / "mpileaks"
    async with FakeRegistry() as registry:
        repository = registry.repository("cache")
        for path in (recorded / "configs").glob("*.json"):
            repository.add_blob(path.read_bytes())
        for path in (recorded / "manifests").glob("*.spack.json"):
            manifest = path.read_bytes()
            for layer in json.loads(manifest)["layers"]:
                repository.store(layer["digest"], b"", layer["size"])
            repository.add_manifest(manifest, path.name.removesuffix(".json"))
        report, _ = await push(registry, store)
        assert (report.totals.present, report.totals.pushed) == (6, 0)
        assert listed(registry) == MPILEAKS


@pytest.mark.asyncio
async def test_zstd_is_refused_because_spack_cannot_read_it(store: Path) -> None:
    async with FakeRegistry() as registry:
        with pytest.raises(InputError, match="zstd"):
            await push(registry, store, codec="zstd")
        assert registry.requests == []


@pytest.mark.asyncio
async def test_a_prefix_that_vanished_is_its_package_s_failure(store: Path) -> None:
    shutil.rmtree(prefix_of(store, "mpich"))
    async with FakeRegistry() as registry:
        report, entries = await push(registry, store)
        assert (entries["mpich"].outcome, report.totals.pushed) == ("failed", 5)


@pytest.mark.asyncio
async def test_a_truncated_database_is_said_and_nothing_is_sent(store: Path) -> None:
    database = store / ".spack-db" / "index.json"
    database.write_text(database.read_text()[:1000])
    async with FakeRegistry() as registry:
        with pytest.raises(InputError, match=r"index\.json"):
            await push(registry, store)
        assert registry.requests == []
