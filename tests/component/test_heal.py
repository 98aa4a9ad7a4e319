"""Healing while others push, on base images, and never to the worse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import uploader
from tests.component.a_place import FakePlace, a_graph, document, give_config, layer_of, packed
from uploader import PushOptions, api
from uploader.model.digest import Digest
from uploader.oci.media_types import DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST
from uploader.testing import Answer, FakeRegistry, Fault, Hold

if TYPE_CHECKING:
    from pathlib import Path

    from uploader.service.heal_report import HealReport

CHAIN = {"app": ["lib"], "lib": ["libc"], "libc": []}


def outcomes(report: HealReport) -> dict[str, str]:
    return {entry.tag: entry.outcome for entry in report.tags}


async def with_gaps(registry: FakeRegistry, graph: Path, *keys: str, **options: Any) -> FakePlace:
    """A push in which the layers of some packages fail."""
    for key in keys:
        registry.inject(Fault(on="put-blob", match=f" {layer_of(key)}$", then=Answer(403)))
    await uploader.push(str(graph), registry.destination("cache"), PushOptions(**options))
    registry.clear_faults()
    return FakePlace(registry, "cache")


async def push(place: FakePlace, graph: Path, *select: str, **options: Any) -> None:
    await uploader.push(str(graph), place.address, PushOptions(select=select, **options))


async def whole(registry: FakeRegistry, graph: Path, **options: Any) -> dict[str, bytes]:
    """The manifests of a push in which nothing fails."""
    await uploader.push(str(graph), registry.destination("whole"), PushOptions(**options))
    place = FakePlace(registry, "whole")
    return {tag: place.manifest(tag) for tag in place.repository.tags}


def put_base(registry: FakeRegistry, *, docker: bool) -> str:
    """A base image with two layers and a history; gives its reference."""
    repository = registry.repository("base")
    layers = [packed("base one"), packed("base two")]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/base/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(b"tar" + content)) for content in layers]},
        "history": [{"created_by": "ADD"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "RUN"}],
    }
    content = json.dumps(config).encode()
    kind = DOCKER_LAYER_GZIP if docker else "application/vnd.oci.image.layer.v1.tar+gzip"
    types = (DOCKER_MANIFEST, DOCKER_CONFIG) if docker else ("application/vnd.oci.image.manifest.v1+json", "")
    manifest = {
        "schemaVersion": 2,
        "mediaType": types[0],
        "config": {"mediaType": types[1], "digest": repository.add_blob(content), "size": len(content)},
        "layers": [{"mediaType": kind, "digest": repository.add_blob(one), "size": len(one)} for one in layers],
    }
    repository.add_manifest(json.dumps(manifest).encode(), "1", media_type=types[0])
    return f"{registry.destination('base')}:1"


@pytest.mark.asyncio
@pytest.mark.parametrize("docker", [False, True])
async def test_a_gap_above_a_base_image_is_completed_to_the_bytes_of_a_whole_push(
    tmp_path: Path, *, docker: bool
) -> None:
    graph = a_graph(tmp_path, {**CHAIN, "app": ["lib", "z"], "z": []})
    async with FakeRegistry() as registry:
        base = put_base(registry, docker=docker)
        place = await with_gaps(registry, graph, "lib", base_image=base)
        assert [entry.tag for entry in (await api.verify(place.address)).tags if entry.gaps] == ["app"]
        await push(place, graph, "lib", base_image=base)
        assert outcomes(await api.heal(place.address)) == {"app": "completed"}
        clean = await whole(registry, graph, base_image=base)
        assert {tag: place.manifest(tag) for tag in place.repository.tags} == clean
        assert document(place, "app")["mediaType"] == (DOCKER_MANIFEST if docker else document(place, "z")["mediaType"])


@pytest.mark.asyncio
async def test_what_is_still_gone_stays_a_gap(tmp_path: Path) -> None:
    graph = a_graph(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        place = await with_gaps(registry, graph, "lib", "libc")
        await push(place, graph, "libc")
        assert outcomes(await api.heal(place.address)) == {"app": "completed"}
        (gap,) = json.loads(document(place, "app")["annotations"]["dev.uploader.missing"])
        assert (gap["id"], gap["index"]) == ("lib", 1)
        assert len(document(place, "app")["layers"]) == 2
        report = await api.verify(place.address)
        assert (report.totals.incomplete, report.totals.completable, report.totals.damaged) == (1, 0, 0)

        await push(place, graph, "lib", "libc")
        await api.heal(place.address)
        assert {tag: place.manifest(tag) for tag in place.repository.tags} == await whole(registry, graph)


@pytest.mark.asyncio
async def test_a_layer_that_is_gone_again_completes_nothing(tmp_path: Path) -> None:
    """The missing package has its tag, and its blob is lost: that tag is damaged, and no donor."""
    graph = a_graph(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        place = await with_gaps(registry, graph, "libc")
        await push(place, graph, "libc")
        place.set(layer_of("libc"), None)
        before = place.manifest("app"), place.manifest("lib")
        assert outcomes(await api.heal(place.address)) == {"libc": "damaged"}
        assert (place.manifest("app"), place.manifest("lib")) == before


@pytest.mark.asyncio
async def test_another_package_at_the_tag_is_no_donor(tmp_path: Path) -> None:
    graph = a_graph(tmp_path, {**CHAIN, "solo": []})
    async with FakeRegistry() as registry:
        place = await with_gaps(registry, graph, "libc")
        place.point("libc", place.manifest("solo"))
        assert outcomes(await api.heal(place.address)) == {}


@pytest.mark.asyncio
async def test_a_tag_that_somebody_wrote_meanwhile_is_not_completed(tmp_path: Path) -> None:
    graph = a_graph(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        place = await with_gaps(registry, graph, "libc")
        await push(place, graph, "libc")
        held = anyio.Event()
        registry.inject(Fault(on="put-blob", then=Hold(held)))  # the new configs
        reports = []

        async def heal() -> None:
            reports.append(await api.heal(place.address))

        async with anyio.create_task_group() as group:
            group.start_soon(heal)
            await registry.wait_until(
                lambda: any(one.kind == "put-blob" and not one.ended for one in registry.requests)
            )
            theirs = place.manifest("libc")
            place.point("app", theirs)
            place.point("lib", theirs)
            held.set()
        assert set(outcomes(reports[0]).values()) == {"left"}
        assert place.manifest("app") == place.manifest("lib") == theirs


@pytest.mark.asyncio
async def test_a_damaged_tag_that_somebody_wrote_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    graph = a_graph(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        place = await with_gaps(registry, graph)
        place.set(layer_of("app"), None)
        give_config(place, "app", b"{}")
        held = anyio.Event()
        registry.inject(Fault(on="put-blob", then=Hold(held)))

        async def heal() -> None:
            await api.heal(place.address, str(graph))

        async with anyio.create_task_group() as group:
            group.start_soon(heal)
            await registry.wait_until(
                lambda: any(one.kind == "put-blob" and not one.ended for one in registry.requests)
            )
            theirs = place.manifest("libc")
            place.point("app", theirs)
            held.set()
        assert place.manifest("app") == theirs


@pytest.mark.asyncio
async def test_a_damaged_manifest_is_not_replaced_by_one_that_names_fewer_layers(tmp_path: Path) -> None:
    """The layer that is lost cannot be read from the source any more: better a manifest that waits for it."""
    graph = a_graph(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        place = await with_gaps(registry, graph)
        before = {tag: place.manifest(tag) for tag in place.repository.tags}
        place.set(layer_of("libc"), None)
        (graph.parent / "libc.tar.gz").unlink()
        report = await api.heal(place.address, str(graph))
        assert outcomes(report) == dict.fromkeys(CHAIN, "damaged")
        assert {tag: place.manifest(tag) for tag in place.repository.tags} == before
        assert all(entry.why for entry in report.tags)


@pytest.mark.asyncio
async def test_tags_beyond_the_source_are_completed_by_what_it_brings(tmp_path: Path) -> None:
    """The source has only libc; the manifests that lack it are others'."""
    graph = a_graph(tmp_path / "all", CHAIN)
    async with FakeRegistry() as registry:
        place = await with_gaps(registry, graph, "libc")
        report = await api.heal(place.address, str(a_graph(tmp_path / "part", {"libc": []})))
        assert outcomes(report) == {"libc": "repaired", "app": "completed", "lib": "completed"}
        assert {tag: place.manifest(tag) for tag in place.repository.tags} == await whole(registry, graph)


@pytest.mark.asyncio
async def test_what_cannot_be_asked_is_neither_healed_nor_damaged(tmp_path: Path) -> None:
    graph = a_graph(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        place = await with_gaps(registry, graph)
        registry.inject(Fault(on="head-blob", match=f" {layer_of('libc')}$", then=Answer(403)))
        report = await api.verify(place.address)
        assert (report.totals.unknown, report.totals.damaged) == (3, 0)
        assert "403" in (report.tags[0].error or "")
        registry.clear_faults()
        registry.inject(Fault(on="get-manifest", then=Answer(403)))
        assert (await api.heal(place.address, str(graph))).push is None


@pytest.mark.asyncio
async def test_a_failed_completion_is_said_and_finished_by_the_next(tmp_path: Path) -> None:
    graph = a_graph(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        place = await with_gaps(registry, graph, "libc")
        await push(place, graph, "libc")
        registry.inject(Fault(on="put-manifest", match=" app$", then=Answer(400)))
        assert outcomes(await api.heal(place.address)) == {"app": "failed", "lib": "completed"}
        registry.clear_faults()
        assert outcomes(await api.heal(place.address)) == {"app": "completed"}


@pytest.mark.asyncio
async def test_a_stopped_verification_says_how_many_tags_it_did_not_reach(tmp_path: Path) -> None:
    graph = a_graph(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        place = await with_gaps(registry, graph)
        registry.inject(Fault(on="get-manifest", then=Hold(anyio.Event())))
        stop, reports = anyio.Event(), []

        async def verify() -> None:
            reports.append(await api.verify(place.address, stop=stop))

        async with anyio.create_task_group() as group:
            group.start_soon(verify)
            await registry.wait_until(
                lambda: any(one.kind == "get-manifest" and not one.ended for one in registry.requests)
            )
            stop.set()
        assert (reports[0].totals.tags, reports[0].totals.unchecked) == (3, 3)
