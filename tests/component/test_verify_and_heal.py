"""Damage made on purpose: each is found, what can be mended is mended, and a second heal does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

import uploader
from uploader import api
from uploader.model.digest import Digest
from uploader.oci.manifest import StoredManifest, parse_manifest
from uploader.record import Record
from uploader.testing import Answer, FakeRegistry, Fault, Hold
from uploader.testing.packages import a_tar, write_packages
from uploader.testing.virtual import run_hurried

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from uploader.service.verify_report import VerifyReport
    from uploader.testing.fake.storage import StoredRepository

CHAIN: dict[str, list[str]] = {"libc": [], "lib": ["libc"], "app": ["lib"]}


def states(report: VerifyReport) -> dict[str, str]:
    return {entry.tag: entry.state for entry in report.tags}


def manifests(repository: StoredRepository) -> dict[str, bytes]:
    return {tag: repository.manifests[digest][1] for tag, digest in repository.tags.items()}


async def fill(registry: FakeRegistry, graph: Path, name: str, **options: tuple[str, ...]) -> None:
    await uploader.push(str(graph), registry.destination(name), uploader.PushOptions(**options))  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_a_gap_is_healed_without_a_source_to_the_bytes_of_a_whole_push(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        await fill(registry, graph, "whole")
        registry.inject(Fault(on="put-blob", match=str(Digest.of(a_tar("libc"))), then=Answer(403)))
        await fill(registry, graph, "gaps")
        registry.clear_faults()
        await fill(registry, graph, "gaps", select=("libc",))
        gaps = registry.destination("gaps")
        before = await api.verify(gaps)
        assert (before.totals.damaged, before.totals.incomplete) == (0, 2)

        assert (await api.heal(gaps, dry_run=True)).error is None
        assert (await api.verify(gaps)).totals.incomplete == 2, "a dry run writes nothing"
        await api.heal(gaps)
        assert manifests(registry.repository("gaps")) == manifests(registry.repository("whole"))
        assert (await api.verify(gaps)).totals.incomplete == 0

        count = len(registry.requests_of("put-manifest", "put-blob"))
        await api.heal(gaps)
        assert len(registry.requests_of("put-manifest", "put-blob")) == count


@pytest.mark.asyncio
async def test_a_choice_is_no_gap_and_is_not_healed(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        await fill(registry, graph, "cache", select=("app",), only=("package",))
        await fill(registry, graph, "cache", select=("libc",))
        before = manifests(registry.repository("cache"))
        assert (await api.verify(registry.destination("cache"))).totals.incomplete == 0
        await api.heal(registry.destination("cache"))
        assert manifests(registry.repository("cache")) == before


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["layer", "config", "manifest", "tag"])
async def test_what_is_gone_is_found_and_pushed_again_from_the_source(tmp_path: Path, kind: str) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        await fill(registry, graph, "cache")
        repository, cache = registry.repository("cache"), registry.destination("cache")
        before = manifests(repository)
        digest = repository.tags["app"]
        manifest = parse_manifest(StoredManifest(before["app"], "", Digest.parse(digest)))
        assert manifest is not None
        match kind:
            case "layer":
                del repository.blobs[str(manifest.layers[-1].digest)]
            case "config":
                del repository.blobs[str(manifest.config.digest)]
            case "manifest":
                del repository.manifests[digest]
            case _:
                repository.remove_manifest(digest)
        found = states(await api.verify(cache, str(graph)))
        assert found == {"libc": "whole", "lib": "whole", "app": "damaged"}
        await api.heal(cache, str(graph))
        assert set(states(await api.verify(cache, str(graph))).values()) == {"whole"}
        assert manifests(repository) == before


@pytest.mark.asyncio
async def test_only_a_deep_look_finds_flipped_bits(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        await fill(registry, graph, "cache")
        repository, cache = registry.repository("cache"), registry.destination("cache")
        layer = str(Digest.of(a_tar("libc")))
        content = bytearray(a_tar("libc"))
        content[5] ^= 1
        repository.store(layer, bytes(content), len(content))
        assert set(states(await api.verify(cache)).values()) == {"whole"}
        deep = await api.verify(cache, deep=True)
        assert set(states(deep).values()) == {"damaged"}
        assert all("delete" in damage.message for entry in deep.tags for damage in entry.damage)


@pytest.mark.asyncio
async def test_an_error_is_never_taken_for_damage(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        await fill(registry, graph, "cache")
        registry.inject(Fault(on="get-manifest", match="lib$", then=Answer(403)))
        report = await api.verify(registry.destination("cache"))
        assert report.totals.damaged == 0
        assert states(report)["lib"] == "unknown"


@pytest.mark.parametrize("ask", [api.verify, api.heal, api.rebuild_index])
def test_what_a_host_teaches_is_kept_for_whoever_talks_to_it(
    ask: Callable[..., Awaitable[Any]], tmp_path: Path
) -> None:
    state, graph = tmp_path / "record.db", write_packages(tmp_path, CHAIN)

    async def work() -> str:
        async with FakeRegistry() as registry:
            await fill(registry, graph, "cache")
            registry.inject(Fault("any", Answer(429, retry_after=2), times=1))
            await ask(registry.destination("cache"), options=uploader.PushOptions(state=state))
            return registry.host

    host = run_hurried(work, speed=10.0)
    with Record(state) as record:
        pace: Any = record.fact(host, "pace")
    assert pace["held"][0] - pace["held"][1] == pytest.approx(2)


@pytest.mark.asyncio
async def test_who_is_stopped_before_the_tags_are_listed_knows_nothing_of_them() -> None:
    stop = anyio.Event()
    async with FakeRegistry(faults=[Fault(on="tags", then=Hold(anyio.Event()))]) as registry:

        async def stop_it() -> None:
            await registry.wait_started("tags")
            stop.set()

        async with anyio.create_task_group() as group:
            group.start_soon(stop_it)
            report = await api.verify(registry.destination("cache"), stop=stop)
    assert (report.totals.tags, report.error) == (0, "stopped before the tags were listed")
