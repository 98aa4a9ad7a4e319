"""Completing a manifest whose missing layers are there now: to the same bytes as if nothing had ever been missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uploader.errors import InputError
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.oci.audit import audit
from uploader.oci.base_image import DOCKER_FORMAT, OCI_FORMAT
from uploader.oci.manifest import MISSING_ANNOTATION, is_docker, manifest_bytes, missing_annotation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uploader.model.outcome import Missing
    from uploader.model.package import PackageId
    from uploader.oci.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Donor:
    """A package's own layer as its own tag has it, and the platform it is for (`audit.platform_of`)."""

    layer: Layer
    platform: str


@dataclass(frozen=True, slots=True)
class Completed:
    """The better manifest and its config, ready to be sent; `added` are the layers that it names in addition."""

    config: bytes
    config_descriptor: Descriptor
    manifest: bytes
    descriptor: Descriptor
    added: tuple[PackageId, ...]


class CannotComplete(Exception):  # noqa: N818 - it is a reason, not an error
    """Why a manifest stays as it is."""


def fills(donor: Donor | None, platform: str) -> bool:
    """Whether the layer may fill a gap in an image for `platform`."""
    return donor is not None and donor.platform == platform


def complete(manifest: Manifest, content: bytes, config: bytes, donors: Mapping[PackageId, Donor]) -> Completed:
    """Put the donors' layers into the places that the annotation keeps for them, or raise CannotComplete.

    What is not exactly as `uploader` writes it is not touched: the bytes could not be those of a push.
    """
    audited = audit(manifest, config)
    document = json.loads(config) if not audited.damage else None
    if audited.maker == "other" or not isinstance(document, dict) or not audited.diff_ids:
        raise CannotComplete("its manifest and its config do not fit together, or are not ours")
    if _written(document) != config or manifest_bytes(*_parts(manifest), media_type=manifest.media_type) != content:
        raise CannotComplete("it is not as this version of uploader would write it: push it again")
    gaps = [missing for missing in audited.missing if missing.is_gap]
    fill = {gap.id: donors[gap.id] for gap in gaps if fills(donors.get(gap.id), audited.platform)}
    if not fill:
        raise CannotComplete("nothing that it lacks is there")
    named = [
        Layer(descriptor, Digest.parse(diff_id))
        for descriptor, diff_id in zip(manifest.layers, audited.diff_ids, strict=True)
    ]
    layers = _in_order(named, audited.missing, fill)
    return _image(manifest, document, layers, tuple(m for m in audited.missing if m.id not in fill), tuple(fill))


def _in_order(named: Sequence[Layer], missing: Sequence[Missing], fill: Mapping[PackageId, Donor]) -> list[Layer]:
    """All layers; each missing one has its place in the full order (rule 5), which begins with the base image's."""
    places = {m.index: m.id for m in missing}
    full = len(named) + len(missing)
    if len(places) != len(missing) or not all(0 <= place < full - 1 for place in places):
        raise CannotComplete("the places in its annotation make no sense: push it again")
    rest = iter(named)
    layers = []
    for place in range(full):
        if place not in places:
            layers.append(next(rest))
        elif places[place] in fill:
            layers.append(fill[places[place]].layer)
    return layers


def _image(
    manifest: Manifest,
    document: dict[str, Any],
    layers: Sequence[Layer],
    missing: Sequence[Missing],
    added: tuple[PackageId, ...],
) -> Completed:
    image_format = DOCKER_FORMAT if is_docker(manifest) else OCI_FORMAT
    more = len(layers) - len(manifest.layers)
    document["rootfs"] = {**document["rootfs"], "diff_ids": [str(layer.diff_id) for layer in layers]}
    if isinstance(history := document.get("history"), list) and history:
        document["history"] = [*history, *([history[-1]] * more)]
    annotations = {key: text for key, text in manifest.annotations.items() if key != MISSING_ANNOTATION}
    if image_format.annotations:
        annotations |= missing_annotation(missing)
    else:
        labels = document["config"]["Labels"]
        labels.pop(MISSING_ANNOTATION, None)
        document["config"]["Labels"] = dict(sorted({**labels, **missing_annotation(missing)}.items()))
    config = _written(document)
    described = Descriptor(manifest.config.media_type, Digest.of(config), len(config))
    try:
        descriptors = [image_format.layer(layer.descriptor) for layer in layers]
    except InputError as error:
        raise CannotComplete(str(error)) from error
    content = manifest_bytes(described, descriptors, annotations, media_type=manifest.media_type)
    return Completed(
        config, described, content, Descriptor(manifest.media_type, Digest.of(content), len(content)), added
    )


def _parts(manifest: Manifest) -> tuple[Descriptor, tuple[Descriptor, ...], Mapping[str, str]]:
    return manifest.config, manifest.layers, manifest.annotations


def _written(document: Mapping[str, Any]) -> bytes:
    """As `image_config` writes it."""
    try:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace")
    except RecursionError as error:
        raise CannotComplete("its config is nested too deeply") from error
