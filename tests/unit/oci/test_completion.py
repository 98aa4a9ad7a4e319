"""A completed manifest is byte for byte what a push without the gap makes, on any base image, in either format."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import RegistryError
from uploader.graph.plan import Plan
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.model.outcome import Done, Failed
from uploader.model.package import PackageGraph, PackageId, Platform
from uploader.oci.audit import platform_of
from uploader.oci.base_image import DOCKER_FORMAT, OCI_FORMAT, BaseImage
from uploader.oci.completion import CannotComplete, Completed, Donor, complete
from uploader.oci.manifest import Manifest, StoredManifest, parse_manifest
from uploader.oci.media_types import OCI_LAYER_GZIP
from uploader.service.images import Image, ImageMaker
from uploader.testing.packages import a_package
from uploader.testing.strategies import graphs, some_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from uploader.oci.base_image import ImageFormat

CHAIN = PackageGraph(
    [a_package("app", "lib", "other"), a_package("lib", "libc"), a_package("libc"), a_package("other")]
)


def layer(key: str) -> Layer:
    return Layer(Descriptor(OCI_LAYER_GZIP, Digest.of(key.encode()), len(key)), Digest.of(f"tar of {key}".encode()))


def base_of(image_format: ImageFormat, *, history: bool = True, count: int = 2) -> BaseImage:
    layers = tuple(layer(f"base {number}") for number in range(count))
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/base/bin"], "Labels": {"a": "1"}, "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [str(one.diff_id) for one in layers]},
    }
    steps = {"history": [{"created_by": "ADD"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "RUN"}]}
    text = json.dumps({**document, **(steps if history else {})}, separators=(",", ":"))
    return BaseImage(image_format, tuple(Layer(image_format.layer(x.descriptor), x.diff_id) for x in layers), text)


BASES = {
    "none": None,
    "OCI": base_of(OCI_FORMAT),
    "OCI without history": base_of(OCI_FORMAT, history=False),
    "Docker": base_of(DOCKER_FORMAT),
}


def images(
    graph: PackageGraph,
    failing: Collection[str] = (),
    selected: frozenset[PackageId] | None = None,
    base: BaseImage | None = None,
) -> dict[PackageId, Image]:
    """What a push makes of each package when the layers of some fail."""
    everything = frozenset(package.id for package in graph.packages)
    plan = Plan(graph, everything if selected is None else selected)
    while (package := plan.take_blob()) is not None:
        failed = Failed(RegistryError("no"), "blob")
        plan.settle_layer(package, failed if package.id in failing else Done(layer(package.id), "uploaded"))
    maker = ImageMaker("1970-01-01T00:00:00Z", {p.platform: base for p in graph.packages} if base else {})
    made = {}
    while (package := plan.take_manifest()) is not None:
        made[package.id] = anyio.run(maker.make, package, plan.closure(package))
    return made


def donors(graph: PackageGraph, keys: Collection[PackageId]) -> dict[PackageId, Donor]:
    platforms = {p.id: {"os": p.platform.os, "architecture": p.platform.architecture} for p in graph.packages}
    return {key: Donor(layer(key), platform_of(platforms[key])) for key in keys}


def parsed(image: Image) -> Manifest:
    manifest = parse_manifest(StoredManifest(image.manifest, image.descriptor.media_type, image.descriptor.digest))
    assert manifest is not None
    return manifest


def completed(image: Image, found: Mapping[PackageId, Donor]) -> Completed:
    return complete(parsed(image), image.manifest, image.config, found)


@pytest.mark.parametrize("base", BASES)
@given(data=st.data())
def test_a_completed_manifest_is_what_a_push_without_the_gap_makes(base: str, data: st.DataObject) -> None:
    graph = data.draw(graphs())
    failing = data.draw(some_of(graph))
    fewer = data.draw(st.frozensets(st.sampled_from(sorted(failing)))) if failing else failing
    selected = data.draw(st.sampled_from([None, data.draw(some_of(graph))]))
    lacking = images(graph, failing, selected, BASES[base])
    better = images(graph, fewer, selected, BASES[base])
    found = donors(graph, (failing - fewer) & better.keys())  # what cannot be pushed at all has no tag, either
    for key, image in lacking.items():
        if image.layers == better[key].layers:
            with pytest.raises(CannotComplete):
                completed(image, found)
        else:
            result = completed(image, found)
            assert (result.config, result.manifest) == (better[key].config, better[key].manifest)


@pytest.mark.parametrize("base", BASES)
def test_a_layer_goes_between_its_neighbours(base: str) -> None:
    lacking, whole = images(CHAIN, ["lib"], None, BASES[base]), images(CHAIN, (), None, BASES[base])
    result = completed(lacking[PackageId("app")], donors(CHAIN, [PackageId("lib")]))
    assert result.manifest == whole[PackageId("app")].manifest
    assert result.added == ("lib",)


def test_a_choice_is_not_completed() -> None:
    chosen = images(CHAIN, (), frozenset({PackageId("app")}))
    with pytest.raises(CannotComplete):
        completed(chosen[PackageId("app")], donors(CHAIN, [PackageId("lib"), PackageId("libc")]))


def test_a_layer_for_another_platform_fills_no_gap() -> None:
    lacking = images(CHAIN, ["lib"])[PackageId("app")]
    arm = Donor(layer("lib"), platform_of({"os": "linux", "architecture": Platform("linux", "arm64").architecture}))
    with pytest.raises(CannotComplete, match="nothing"):
        completed(lacking, {PackageId("lib"): arm})


def test_what_uploader_would_write_otherwise_is_not_touched() -> None:
    lacking = images(CHAIN, ["lib"])[PackageId("app")]
    for spaced in (
        replace(lacking, manifest=lacking.manifest.replace(b",", b", ")),
        replace(lacking, config=lacking.config.replace(b",", b", ")),
    ):
        with pytest.raises(CannotComplete, match="push it again"):
            completed(spaced, donors(CHAIN, [PackageId("lib")]))


@pytest.mark.parametrize("index", [-1, 3, 99])
def test_places_without_sense_are_not_believed(index: int) -> None:
    lacking = images(CHAIN, ["lib"])[PackageId("app")]
    moved = replace(lacking, manifest=lacking.manifest.replace(b'\\"index\\":1', f'\\"index\\":{index}'.encode()))
    assert moved.manifest != lacking.manifest
    with pytest.raises(CannotComplete, match="places"):
        completed(moved, donors(CHAIN, [PackageId("lib")]))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_bytes_make_it_fail_otherwise(content: bytes, config: bytes) -> None:
    lacking = images(CHAIN, ["lib"])[PackageId("app")]
    with pytest.raises(CannotComplete):
        complete(parsed(lacking), content, config, donors(CHAIN, [PackageId("lib")]))
