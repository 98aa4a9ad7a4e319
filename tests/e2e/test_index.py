"""`uploader index` as a user runs it: what it says, and its exit status."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.component.a_spack_store import index_at, listed, push, unpack_store
from uploader.testing import Answer, Basic, FakeRegistry, Fault, Stall
from uploader.testing.packages import write_packages

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.command import Command


@pytest.mark.asyncio
async def test_it_lists_what_is_tagged_and_names_what_is_no_spec(command: Command, tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        await push(registry, unpack_store(tmp_path), "libdwarf")
        repository = registry.repository("cache")
        before = index_at(registry)
        repository.add_manifest(b'{"schemaVersion":2,"manifests":[]}', "foreign.spack")
        del repository.tags["index.spack"]
        ended = await command.run("index", registry.destination("cache"))
        assert (ended.status, ended.stdout) == (0, "")
        assert ended.stderr.splitlines() == [
            "not in it: foreign.spack: it is gone, or no image manifest",
            "the index lists 2 specs: written",
        ]
        assert (listed(registry), index_at(registry)) == ({"libdwarf", "libelf"}, before)
        assert "already right" in (await command.run("index", registry.destination("cache"))).stderr


@pytest.mark.asyncio
async def test_where_nothing_is_a_spec_there_is_no_index(command: Command, tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        await command.push(write_packages(tmp_path / "graph", {"a": []}), registry.destination("other"))
        before = len(registry.requests_of("put-manifest"))
        ended = await command.run("index", registry.destination("other"))
        assert (ended.status, ended.stderr) == (0, "there are no specs, and so no index\n")
        assert len(registry.requests_of("put-manifest")) == before


@pytest.mark.asyncio
async def test_a_mistyped_name_does_not_pass_for_a_cache_without_specs(command: Command) -> None:
    async with FakeRegistry() as registry:
        ended = await command.run("index", registry.destination("typo"))
        assert (ended.status, ended.stderr.count("\n")) == (3, 1)
        assert "no such repository, or nothing is tagged in it" in ended.stderr
        assert registry.requests_of("put-manifest") == []


@pytest.mark.asyncio
async def test_what_cannot_be_written_is_a_failure(command: Command, tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        await push(registry, unpack_store(tmp_path), "libelf")
        del registry.repository("cache").tags["index.spack"]
        registry.inject(Fault(on="put-manifest", then=Answer(403)))
        ended = await command.run("index", registry.destination("cache"))
        assert (ended.status, "403" in ended.stderr) == (1, True)


@pytest.mark.asyncio
async def test_what_cannot_be_asked_is_not_taken_for_absent(command: Command, tmp_path: Path) -> None:
    """Else a spec would vanish from the index because the registry had a bad moment."""
    async with FakeRegistry() as registry:
        _, entries = await push(registry, unpack_store(tmp_path), "libdwarf")
        before = index_at(registry)
        registry.inject(Fault(on="get-manifest", match=entries["libelf"].tag, then=Answer(400)))
        ended = await command.run("index", registry.destination("cache"))
        assert (ended.status, index_at(registry)) == (1, before)
        assert f"left as it was: {entries['libelf'].tag}: " in ended.stderr


@pytest.mark.asyncio
async def test_bad_input_and_a_registry_that_refuses_us_are_told_apart(command: Command) -> None:
    assert (await command.run("index", "nowhere:")).status == 2
    assert (await command.run("index")).status == 2
    async with FakeRegistry(auth=Basic("me", "sesame")) as registry:
        ended = await command.run("index", registry.destination("cache"))
        assert (ended.status, "docker login" in ended.stderr) == (3, True)


@pytest.mark.asyncio
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interruption_is_no_success(command: Command, signal_number: signal.Signals) -> None:
    async with (
        FakeRegistry(faults=[Fault(on="tags", then=Stall())]) as registry,
        command.started("index", registry.destination("cache")) as process,
    ):
        await registry.wait_started("tags")
        process.send_signal(signal_number)
        assert await process.wait() == 128 + signal_number
