"""Spack stores on their way to a registry: best effort, repair, damage, and what Spack itself left there."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.component.a_spack_store import MPILEAKS, layers_at, listed, prefix_of, push, pushed_by_spack, unpack_store
from uploader.errors import InputError
from uploader.testing import Answer, FakeRegistry, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from uploader.service.report import PackageEntry


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return unpack_store(tmp_path)


def with_outcome(entries: dict[str, PackageEntry], outcome: str) -> set[str]:
    return {name for name, entry in entries.items() if entry.outcome == outcome}


def uploaded(entries: dict[str, PackageEntry]) -> set[str]:
    return {name for name, entry in entries.items() if entry.blob and entry.blob.how == "uploaded"}


# -- best effort


@pytest.mark.asyncio
async def test_one_unreadable_one_refused_one_kept_back_and_all_else_is_pushed_then_repaired(store: Path) -> None:
    spec = prefix_of(store, "libelf") / ".spack" / "spec.json"
    kept = spec.rename(spec.with_suffix(".away"))
    recipe = keep_back(store, "mpich")
    async with FakeRegistry() as registry:
        registry.inject(Fault(on="put-manifest", match="libdwarf", then=Answer(403)))
        report, entries = await push(registry, store)
        assert with_outcome(entries, "failed") == {"libelf", "libdwarf"}
        assert (entries["mpich"].outcome, entries["mpich"].why) == ("left-out", "not-redistributable")
        assert with_outcome(entries, "pushed") == {"callpath", "dyninst", "mpileaks"} == listed(registry)
        assert {gap.name for gap in entries["mpileaks"].gaps} == {"libelf", "mpich"}
        assert layers_at(registry, entries["mpileaks"]) == 4, "libdwarf's layer is there, only its tag is not"

        kept.rename(spec)
        recipe.unlink()
        registry.clear_faults()
        report, entries = await push(registry, store)
        assert (report.totals.failed, report.totals.incomplete) == (0, 0)
        assert uploaded(entries) == {"libelf", "mpich"}, "nothing that is there is sent again"
        assert layers_at(registry, entries["mpileaks"]) == 6
        assert listed(registry) == MPILEAKS


@pytest.mark.asyncio
async def test_what_cannot_be_read_is_a_gap_and_the_next_push_closes_it(store: Path) -> None:
    spec = prefix_of(store, "libelf") / ".spack" / "spec.json"
    kept = spec.rename(spec.with_suffix(".away"))
    async with FakeRegistry() as registry:
        report, entries = await push(registry, store)
        assert (report.totals.failed, report.totals.pushed, report.totals.incomplete) == (1, 5, 4)
        assert entries["libelf"].error is not None
        assert entries["libelf"].error.stage == "read"
        assert [gap.name for gap in entries["mpileaks"].gaps] == ["libelf"]
        assert listed(registry) == MPILEAKS - {"libelf"}

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


def keep_back(store: Path, name: str) -> Path:
    recipe = prefix_of(store, name) / ".spack" / "repos" / "builtin" / "packages" / name / "package.py"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(f"class {name.capitalize()}:\n    redistribute(binary=False)\n")
    return recipe


@pytest.mark.asyncio
async def test_what_is_not_redistributable_is_left_out_unless_private(store: Path) -> None:
    keep_back(store, "libelf")
    async with FakeRegistry() as registry:
        report, entries = await push(registry, store)
        assert (entries["libelf"].outcome, entries["libelf"].why) == ("left-out", "not-redistributable")
        assert report.totals.incomplete == 4
        report, entries = await push(registry, store, private=True)
        assert (report.totals.incomplete, layers_at(registry, entries["mpileaks"])) == (0, 6)


@pytest.mark.asyncio
async def test_what_is_excluded_is_left_out_and_its_dependents_go_without_it(store: Path) -> None:
    async with FakeRegistry() as registry:
        report, entries = await push(registry, store, exclude=("libelf",))
        assert (entries["libelf"].outcome, report.totals.failed) == ("left-out", 0)
        assert layers_at(registry, entries["mpileaks"]) == 5
        assert listed(registry) == MPILEAKS - {"libelf"}


@pytest.mark.asyncio
async def test_zstd_is_refused_because_spack_cannot_read_it(store: Path) -> None:
    async with FakeRegistry() as registry:
        with pytest.raises(InputError, match="zstd"):
            await push(registry, store, codec="zstd")
        assert registry.requests == []


# -- what is there already


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
    async with FakeRegistry() as registry:
        pushed_by_spack(registry)
        report, entries = await push(registry, store)
        assert (with_outcome(entries, "present"), report.totals.pushed) == (MPILEAKS, 0)
        assert [request.reference for request in registry.requests_of("put-manifest")] == ["index.spack"]
        assert listed(registry) == MPILEAKS


@pytest.mark.asyncio
async def test_an_image_that_spack_left_without_a_layer_is_completed_from_what_is_there(store: Path) -> None:
    """Spack tags the dependents of what failed without its layer, and skips them from then on."""
    async with FakeRegistry() as registry:
        pushed_by_spack(registry, without="libelf")
        report, entries = await push(registry, store)
        assert with_outcome(entries, "pushed") == MPILEAKS - {"mpich"}
        assert (uploaded(entries), report.totals.incomplete) == ({"libelf"}, 0)
        assert layers_at(registry, entries["mpileaks"]) == 6


@pytest.mark.asyncio
async def test_an_image_that_spack_pushed_alone_is_completed_by_a_push_of_everything(store: Path) -> None:
    async with FakeRegistry() as registry:
        pushed_by_spack(registry, "only-package")
        _, entries = await push(registry, store)
        assert (with_outcome(entries, "pushed"), uploaded(entries)) == (MPILEAKS, MPILEAKS - {"mpileaks"})
        assert layers_at(registry, entries["mpileaks"]) == 6


# -- damage


@pytest.mark.asyncio
async def test_a_prefix_that_vanished_is_its_package_s_failure(store: Path) -> None:
    shutil.rmtree(prefix_of(store, "mpich"))
    async with FakeRegistry() as registry:
        report, entries = await push(registry, store)
        assert (entries["mpich"].outcome, report.totals.pushed) == ("failed", 5)
        assert entries["mpich"].error is not None
        assert "gone" in entries["mpich"].error.message


@pytest.mark.asyncio
async def test_a_truncated_database_is_said_and_nothing_is_sent(store: Path) -> None:
    database = store / ".spack-db" / "index.json"
    database.write_text(database.read_text()[:1000])
    async with FakeRegistry() as registry:
        with pytest.raises(InputError, match=r"index\.json"):
            await push(registry, store)
        assert registry.requests == []


@pytest.mark.asyncio
async def test_odd_files_are_pushed_like_all_others(store: Path) -> None:
    """A large one with nothing in it, and a name that is not UTF-8."""
    prefix = prefix_of(store, "libelf")
    (prefix / "sparse").touch()
    os.truncate(prefix / "sparse", 100 << 20)
    (prefix / os.fsdecode(b"lib/\xff\xfe.so")).write_text(f"#!/bin/sh\n{prefix}\n")
    async with FakeRegistry() as registry:
        report, entries = await push(registry, store)
        assert (report.totals.pushed, report.totals.failed) == (6, 0)
        assert entries["libelf"].blob is not None
        assert entries["libelf"].blob.size < 1 << 20


@pytest.mark.asyncio
async def test_a_recipe_that_does_not_parse_and_may_forbid_it_keeps_its_package_back(store: Path) -> None:
    keep_back(store, "libelf").write_text("class Libelf(:\n    redistribute(binary=False)\n")
    async with FakeRegistry() as registry:
        report, entries = await push(registry, store)
        assert (entries["libelf"].why, report.totals.pushed) == ("not-redistributable", 5)
        assert any("libelf" in note and "cannot be parsed" in note for note in report.notes)
