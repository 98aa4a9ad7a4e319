"""What real Spacks pushed from two recorded stores, and what we make of them, unpacked in another place.

All wanted differences are listed in the README with their reasons ("For Spack users", what differs). What the tests
below allow for them: `Env` is compared by the store's own folders, `archive_timestamp` and the keys and annotations
that we add are left out, and of Spack 1.x the layers of dependencies may be in another order (`order_of_spack_1`).
"""

from __future__ import annotations

import io
import json
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from uploader.graph.plan import Plan
from uploader.model.outcome import Done
from uploader.packing.codecs import find_codec
from uploader.packing.pack import pack
from uploader.sources.merge import merge
from uploader.sources.spack.index import index_bytes, index_of_configs, index_of_formats, merge_indexes, parse_index
from uploader.sources.spack.store import SpackStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uploader.model.descriptor import Layer
    from uploader.model.package import Package, PackageGraph, PackageId
    from uploader.packing.pack import Inspector
    from uploader.sources.base import Loaded

HERE = Path(__file__).parent
SPACKS = {"spack-0.23": ("opt/software", "/opt/spack"), "spack-1.2": ("opt/software12", "/opt/spack12")}
ROOTS = ("mpileaks", "dttop")


@dataclass(frozen=True)
class Golden:
    """A recorded store, unpacked, and every layer of it."""

    folder: Path
    root: Path
    spack_root: str
    loaded: Loaded
    layers: Mapping[PackageId, Layer]

    def load(self, *specs: str) -> Loaded:
        return SpackStore(self.root, specs, spack_root=self.spack_root, environment={}).load()

    def recorded(self, push: str, kind: str, package: Package) -> Any:
        return json.loads((self.folder / push / kind / f"{package.tag}.json").read_bytes())


@pytest.fixture(scope="module", params=SPACKS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    inner, spack_root = SPACKS[request.param]
    place = tmp_path_factory.mktemp(request.param)
    subprocess.run(["tar", "-xzf", HERE / request.param / "store.tar.gz", "-C", place], check=True)
    root = (place / inner).rename(place / "elsewhere")
    loaded = SpackStore(root, spack_root=spack_root, environment={}).load()
    layers = {package.id: packed(loaded, package) for package in loaded.packages}
    return Golden(HERE / request.param, root, spack_root, loaded, layers)


def packed(loaded: Loaded, package: Package) -> Layer:
    assert package.content is not None
    inspector = cast("Inspector", loaded.formats[package.id].inspector())
    return pack(cast("Any", package.content), find_codec("gzip-zlib", 6), io.BytesIO(), inspector=inspector)


@pytest.mark.parametrize("push", ROOTS)
def test_the_tags_are_those_that_spack_pushed(golden: Golden, push: str) -> None:
    tags = {path.stem for path in (golden.folder / push / "manifests").iterdir()}
    assert {package.tag for package in golden.load(push).packages} == tags


@pytest.mark.parametrize("push", ROOTS)
def test_every_layer_is_byte_identical(golden: Golden, push: str) -> None:
    for package in golden.load(push).packages:
        own = golden.recorded(push, "manifests", package)["layers"][-1]
        layer = golden.layers[package.id]
        assert (str(layer.descriptor.digest), layer.descriptor.size) == (own["digest"], own["size"]), package.name
        assert layer.descriptor.media_type == own["mediaType"]
        assert str(layer.diff_id) == golden.recorded(push, "configs", package)["rootfs"]["diff_ids"][-1]


@pytest.mark.parametrize("push", ROOTS)
def test_the_layers_of_a_manifest_are_those_of_spack_in_its_order(golden: Golden, push: str) -> None:
    graph = merge([golden.load(push)]).graph
    plan = Plan(graph, frozenset(package.id for package in graph.packages))
    for package in graph.packages:
        plan.settle_layer(package, Done(golden.layers[package.id], "uploaded"))
    for package in graph.packages:
        closure = plan.closure(package)
        ours = [str(layer.descriptor.digest) for layer in closure.layers]
        spacks = [layer["digest"] for layer in golden.recorded(push, "manifests", package)["layers"]]
        if golden.folder.name == "spack-1.2":
            assert spacks == [str(golden.layers[key].descriptor.digest) for key in order_of_spack_1(graph, package)]
            ours[:-1], spacks[:-1] = sorted(ours[:-1]), sorted(spacks[:-1])
        assert (ours, closure.missing) == (spacks, ())


def order_of_spack_1(graph: PackageGraph, root: Package) -> list[PackageId]:
    """The reverse of: whoever is needed by nobody left, first come, first served, children by name."""
    inside = {root.id}
    for package in reversed(graph.packages):
        inside.update(package.dependencies if package.id in inside else ())
    waiting = Counter(needed for key in inside for needed in graph[key].dependencies)
    order = [root.id]
    for key in order:
        for needed in sorted(graph[key].dependencies, key=lambda needed: graph[needed].name):
            waiting[needed] -= 1
            if not waiting[needed]:
                order.append(needed)
    return order[::-1]


def test_of_a_package_alone_there_is_its_own_layer(golden: Golden) -> None:
    merged = merge([golden.load("mpileaks")])
    (root,) = (merged.graph[key] for key in merged.roots)
    plan = Plan(merged.graph, merged.roots)
    plan.settle_layer(root, Done(golden.layers[root.id], "uploaded"))
    spacks = golden.recorded("only-package", "manifests", root)
    assert [str(layer.descriptor.digest) for layer in plan.closure(root).layers] == [
        layer["digest"] for layer in spacks["layers"]
    ]
    config = dict(golden.loaded.formats[root.id].config(golden.layers[root.id]))
    assert same_keys(config, golden.recorded("only-package", "configs", root))


@pytest.mark.parametrize("push", ROOTS)
def test_descriptions_and_platforms_are_those_of_spack(golden: Golden, push: str) -> None:
    for package in golden.load(push).packages:
        assert dict(package.annotations) == golden.recorded(push, "manifests", package)["annotations"]
        config = golden.recorded(push, "configs", package)
        assert (package.platform.os, package.platform.architecture) == (config["os"], config["architecture"])


@pytest.mark.parametrize("push", ROOTS)
def test_the_keys_of_a_config_are_those_of_spack(golden: Golden, push: str) -> None:
    for package in golden.load(push).packages:
        config = dict(golden.loaded.formats[package.id].config(golden.layers[package.id]))
        assert same_keys(config, golden.recorded(push, "configs", package)), package.name


def same_keys(ours: dict[str, object], spacks: dict[str, object]) -> bool:
    """Byte for byte and in their order, without what every image has, and without the clock."""
    for key in ("architecture", "os", "rootfs", "config"):
        del spacks[key]
    times = {ours.pop("archive_timestamp", None), spacks.pop("archive_timestamp", None)}
    return json.dumps(ours) == json.dumps(spacks) and (None in times) == ("archive_size" not in ours)


@pytest.mark.parametrize("push", ROOTS)
def test_the_environment_names_the_folders_that_spacks_does(golden: Golden, push: str) -> None:
    for package in golden.load(push).packages:
        spacks = dict(text.split("=", 1) for text in golden.recorded(push, "configs", package)["config"]["Env"])
        spacks.pop("FOOBAR", None)
        assert {key: folders_of_store(text) for key, text in package.env.items() if folders_of_store(text)} == {
            key: folders_of_store(text) for key, text in spacks.items() if folders_of_store(text)
        }
        assert all(set(text.split(":")) <= set(package.env[key].split(":")) for key, text in spacks.items())


def folders_of_store(text: str) -> tuple[str, set[str]] | None:
    """The first, and all in any order."""
    folders = [folder for folder in text.split(":") if folder.startswith("/opt/")]
    return (folders[0], set(folders)) if folders else None


@pytest.mark.parametrize("push", ROOTS)
def test_the_index_is_that_of_spack_however_it_is_made(golden: Golden, push: str) -> None:
    recorded = (golden.folder / push / "index" / "index.json").read_bytes()
    loaded = golden.load(push)
    made = index_of_formats(loaded.formats, [package.id for package in loaded.packages])
    assert made is not None
    configs = {path.stem: path.read_bytes() for path in (golden.folder / push / "configs").iterdir()}
    assert index_bytes(made) == recorded
    assert (made, {}) == index_of_configs(configs)
    assert made == parse_index(recorded)


def test_the_index_of_both_pushes_is_their_union(golden: Golden) -> None:
    one, other = (parse_index((golden.folder / push / "index" / "index.json").read_bytes()) for push in ROOTS)
    both = index_of_formats(golden.loaded.formats, golden.layers)
    assert merge_indexes(one, other) == merge_indexes(other, one) == both


def test_without_build_dependencies_seven_of_twelve_go_along(golden: Golden) -> None:
    store = SpackStore(golden.root, ("dttop",), without_build_dependencies=True, environment={})
    assert (len(golden.load("dttop").packages), len(store.load().packages)) == (12, 7)
