"""Every kind of damage, made on purpose in a registry and in a folder: exactly that is found, and healed, once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

import uploader
from tests.component.a_place import (
    Place,
    a_graph,
    a_place,
    config_of,
    document,
    flipped,
    give_config,
    layer_of,
    packed,
)
from uploader import PushOptions, api
from uploader.model.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from uploader.service.verify_report import VerifyReport

PLACES = ("registry", "layout")


@dataclass(frozen=True)
class Case:
    """What is done, what is found at which tags, whether that needs a deep look, and where heal can mend it."""

    damage: Callable[[Place], None]
    found: dict[str, str]
    deep: tuple[str, ...] = ()
    mended: tuple[str, ...] = PLACES


def lose_layer(place: Place) -> None:
    place.set(layer_of("libc"), None)


def lose_config(place: Place) -> None:
    place.set(document(place, "app")["config"]["digest"], None)


def lose_manifest(place: Place) -> None:
    place.set(str(Digest.of(place.manifest("lib"))), None)


def cut_layer(place: Place) -> None:
    place.set(layer_of("lib"), packed("lib")[:-5])


def flip_layer(place: Place) -> None:
    place.set(layer_of("lib"), flipped(packed("lib")))


def flip_config(place: Place) -> None:
    digest = document(place, "app")["config"]["digest"]
    place.set(digest, flipped(place.blob(digest)))


def flip_manifest(place: Place) -> None:
    manifest = place.manifest("app")
    place.set(str(Digest.of(manifest)), flipped(manifest))


def drop_diff_id(place: Place) -> None:
    config = config_of(place, "app")
    del config["rootfs"]["diff_ids"][0]
    give_config(place, "app", json.dumps(config).encode())


def swap_configs(place: Place) -> None:
    give_config(place, "libc", json.dumps(config_of(place, "solo")).encode())


def mix_diff_ids(place: Place) -> None:
    """In the tag that is looked at first, so that at first the others seem to be wrong."""
    config = config_of(place, "app")
    config["rootfs"]["diff_ids"].reverse()
    give_config(place, "app", json.dumps(config).encode())


def write_no_json_config(place: Place) -> None:
    give_config(place, "solo", b"no JSON")


def write_no_json(place: Place) -> None:
    place.point("app", b"no JSON at all")


def write_no_manifest(place: Place) -> None:
    place.point("app", b'{"config": {"digest": "sha256:1"}, "layers": 5}')


CASES = {
    "lost layer": Case(lose_layer, dict.fromkeys(("app", "lib", "libc"), "layer-missing")),
    "lost config": Case(lose_config, {"app": "config-missing"}),
    "lost manifest": Case(lose_manifest, {"lib": "manifest-missing"}),
    "cut layer": Case(cut_layer, dict.fromkeys(("app", "lib"), "layer-damaged"), mended=("layout",)),
    "flipped layer": Case(flip_layer, dict.fromkeys(("app", "lib"), "layer-damaged"), deep=PLACES, mended=()),
    "flipped config": Case(flip_config, {"app": "config-damaged"}, mended=()),
    "flipped manifest": Case(flip_manifest, {"app": "manifest-damaged"}),
    "too few diff_ids": Case(drop_diff_id, {"app": "diff-ids"}),
    "another image's config": Case(swap_configs, {"libc": "wrong-diff-id"}),
    "diff_ids in another order": Case(mix_diff_ids, {"app": "wrong-diff-id"}),
    "config that is not JSON": Case(write_no_json_config, {"solo": "config-broken"}),
    "manifest that is not JSON": Case(write_no_json, {"app": "manifest-broken"}),
    "manifest without sense": Case(write_no_manifest, {"app": "manifest-broken"}),
}


def found(report: VerifyReport) -> dict[str, str]:
    """The first damage of every damaged tag; all others are whole."""
    assert {entry.state for entry in report.tags if not entry.damage} <= {"whole"}
    assert report.totals.damaged == sum(bool(entry.damage) for entry in report.tags)
    return {entry.tag: entry.damage[0].kind for entry in report.tags if entry.damage}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("name", CASES)
async def test_damage_is_found_and_healed_once(tmp_path: Path, name: str, kind: str) -> None:
    case = CASES[name]
    deep = kind in case.deep
    graph = a_graph(tmp_path / "graph")
    async with a_place(kind, tmp_path, graph) as place:
        whole = {tag: place.manifest(tag) for tag in ("app", "lib", "libc", "solo")}
        case.damage(place)
        assert found(await api.verify(place.address, options=PushOptions(jobs=1), deep=deep)) == case.found
        if deep:
            assert found(await api.verify(place.address)) == {}
        broken = place.everything()
        assert {entry.outcome for entry in (await api.heal(place.address, deep=deep)).tags} == {"damaged"}
        await api.heal(place.address, str(graph), deep=deep, dry_run=True)
        assert place.everything() == broken

        healed = await api.heal(place.address, str(graph), deep=deep)
        assert (healed.error, healed.totals.failed) == (None, 0)
        if kind in case.mended:
            assert {entry.tag for entry in healed.tags if entry.outcome == "repaired"} == set(case.found)
            assert found(await api.verify(place.address, str(graph), deep=True)) == {}
            assert {tag: place.manifest(tag) for tag in whole} == whole
        else:
            assert {entry.tag for entry in healed.tags if entry.outcome == "damaged"} == set(case.found)
            assert all("delete it" in one.message for entry in healed.tags for one in entry.damage)
        await check_that_nothing_is_left_to_do(place, graph, deep=deep)


async def check_that_nothing_is_left_to_do(place: Place, graph: Path, *, deep: bool) -> None:
    before = place.everything()
    again = await api.heal(place.address, str(graph), deep=deep)
    assert (again.totals.repaired, again.totals.completed, again.totals.failed) == (0, 0, 0)
    assert place.everything() == before


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", PLACES)
async def test_a_damaged_blob_is_healed_once_it_is_deleted(tmp_path: Path, kind: str) -> None:
    graph = a_graph(tmp_path / "graph")
    async with a_place(kind, tmp_path, graph) as place:
        flip_layer(place)
        place.set(layer_of("lib"), None)
        await api.heal(place.address, str(graph))
        assert found(await api.verify(place.address, deep=True)) == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", PLACES)
async def test_a_package_without_a_tag_is_damage_only_for_its_source(tmp_path: Path, kind: str) -> None:
    graph = a_graph(tmp_path / "graph")
    async with a_place(kind, tmp_path, graph) as place:
        place.point("lib", None)
        assert found(await api.verify(place.address)) == {}
        assert found(await api.verify(place.address, str(graph))) == {"lib": "not-there"}
        await api.heal(place.address, str(graph))
        assert found(await api.verify(place.address, str(graph))) == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", PLACES)
async def test_another_layer_than_the_source_gives_is_damage_and_replaced(tmp_path: Path, kind: str) -> None:
    graph = a_graph(tmp_path / "graph", digests=True)
    async with a_place(kind, tmp_path, graph) as place:
        assert found(await api.verify(place.address, str(graph))) == {}
        document_ = json.loads(graph.read_text())
        (graph.parent / "solo.tar.gz").write_bytes(packed("other"))
        document_["packages"][3]["blob"]["digest"] = layer_of("other")
        graph.write_text(json.dumps(document_))
        assert found(await api.verify(place.address, str(graph))) == {"solo": "wrong-layer"}
        await api.heal(place.address, str(graph))
        assert [one["digest"] for one in document(place, "solo")["layers"]] == [layer_of("other")]


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", PLACES)
async def test_what_somebody_else_made_is_listed_and_never_touched(tmp_path: Path, kind: str) -> None:
    graph = a_graph(tmp_path / "graph")
    async with a_place(kind, tmp_path, graph) as place:
        theirs = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
        manifest = document(place, "app")
        del manifest["annotations"]
        place.point("app", json.dumps(manifest).encode())
        give_config(place, "app", json.dumps(theirs).encode())
        place.point("chart", b'{"schemaVersion": 1, "fsLayers": []}')
        before = place.manifest("app")
        report = await api.verify(place.address)
        assert {entry.tag for entry in report.tags if entry.state == "foreign"} == {"app", "chart"}
        assert report.totals.damaged == 0

        healed = await api.heal(place.address, str(graph))
        assert [(entry.tag, entry.outcome, entry.damage[0].kind) for entry in healed.tags] == [
            ("app", "damaged", "not-there")
        ]
        assert place.manifest("app") == before


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", PLACES)
async def test_an_index_is_as_sound_as_its_children(tmp_path: Path, kind: str) -> None:
    graph = a_graph(tmp_path / "graph")
    async with a_place(kind, tmp_path, graph) as place:
        children = [{"digest": str(Digest.of(place.manifest(tag))), "size": 1} for tag in ("app", "solo")]
        place.point("many", json.dumps({"schemaVersion": 2, "manifests": children}).encode())
        assert found(await api.verify(place.address)) == {}
        place.set(layer_of("solo"), None)
        assert found(await api.verify(place.address)) == dict.fromkeys(("many", "solo"), "layer-missing")
        place.set(children[0]["digest"], None)  # type: ignore[arg-type]
        assert found(await api.verify(place.address))["many"] == "manifest-missing"


@pytest.mark.asyncio
async def test_the_index_of_a_spack_cache_is_no_damage(tmp_path: Path) -> None:
    graph = a_graph(tmp_path / "graph")
    async with a_place("registry", tmp_path, graph) as place:
        manifest = document(place, "solo")
        del manifest["annotations"]
        place.set(str(Digest.of(b"[]")), b"[]")
        manifest["layers"] = [{**manifest["layers"][0], "digest": str(Digest.of(b"[]")), "size": 2}]
        place.point("index.spack", json.dumps(manifest).encode())
        give_config(place, "index.spack", b"{}")
        assert found(await api.verify(place.address, deep=True)) == {}
        place.set(str(Digest.of(b"[]")), None)
        assert found(await api.verify(place.address)) == {"index.spack": "layer-missing"}


@pytest.mark.asyncio
async def test_each_layer_is_asked_about_once(tmp_path: Path) -> None:
    graph = a_graph(tmp_path / "graph")
    async with a_place("registry", tmp_path, graph) as place:
        before = len(place.registry.requests)  # type: ignore[attr-defined]
        report = await api.verify(place.address)
        requests = place.registry.requests[before:]  # type: ignore[attr-defined]
        asked = [one.reference for one in requests if one.kind == "head-blob"]
        assert sorted(asked) == sorted(layer_of(key) for key in ("app", "lib", "libc", "solo"))
        assert len(requests) == 1 + 4 + 4 + 4 == report.totals.requests


@pytest.mark.asyncio
async def test_a_repository_that_is_not_there_is_not_verified_but_filled_from_a_source(tmp_path: Path) -> None:
    report = await api.verify(f"oci-layout:{tmp_path / 'nothing'}")
    assert report.totals.tags == 0
    assert "there is no image layout" in (report.error or "")
    assert not (tmp_path / "nothing").exists()
    graph = a_graph(tmp_path / "graph")
    await api.heal(f"oci-layout:{tmp_path / 'nothing'}", str(graph))
    assert found(await api.verify(f"oci-layout:{tmp_path / 'nothing'}", str(graph))) == {}
    assert (await uploader.push(str(graph), f"oci-layout:{tmp_path / 'nothing'}")).totals.present == 4
