"""Whether what a tag points at already is good enough, or must be replaced, or must not be (rule 11)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploader.errors import InputError
from uploader.model.descriptor import Layer
from uploader.model.digest import Digest
from uploader.oci.manifest import ID_ANNOTATION, MISSING_ANNOTATION, Manifest, parse_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uploader.model.descriptor import Descriptor
    from uploader.model.outcome import Missing


@dataclass(frozen=True, slots=True)
class Existing:
    """A manifest that a tag points at, with its config; `ours`: uploader or Spack made it.

    `labelled` is what the config's label says that it lacks: in Docker's format there are no annotations (rule 8).
    """

    descriptor: Descriptor
    manifest: Manifest
    diff_ids: tuple[str, ...]
    ours: bool
    labelled: tuple[Missing, ...] = ()

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What it says itself that it lacks."""
        return self.manifest.missing or self.labelled

    @property
    def own_layer(self) -> Layer | None:
        """The package's own layer, the last one; None where the config does not fit the manifest, or is not ours."""
        if not self.ours or not self.diff_ids or len(self.diff_ids) != len(self.manifest.layers):
            return None
        try:
            return Layer(self.manifest.layers[-1], Digest.parse(self.diff_ids[-1]))
        except InputError:
            return None

    def names(self, layer: Layer) -> bool:
        """Whether it names the layer, in this compression or another."""
        return layer.descriptor.digest in self.manifest.layer_digests or str(layer.diff_id) in self.diff_ids

    def same_layer(self, layer: Layer) -> int | None:
        """The place of the layer among its layers; None when it is not there."""
        for place, descriptor in enumerate(self.manifest.layers):
            if descriptor.digest == layer.descriptor.digest:
                return place
        wanted = str(layer.diff_id)
        if len(self.diff_ids) == len(self.manifest.layers) and wanted in self.diff_ids:
            return self.diff_ids.index(wanted)
        return None


def existing_manifest(descriptor: Descriptor, manifest: Manifest, config: bytes) -> Existing:
    """Read what a tag points at: the manifest, and the config blob it names (`{}` where that was not needed)."""
    try:
        document = json.loads(config)
        rootfs = document.get("rootfs") or {}
        diff_ids = tuple(str(entry) for entry in rootfs.get("diff_ids") or ())
        labels = (document.get("config") or {}).get("Labels") or {}
        ours = ID_ANNOTATION in manifest.annotations or ID_ANNOTATION in labels
        missing = parse_missing(str(labels.get(MISSING_ANNOTATION, "[]")))
        return Existing(descriptor, manifest, diff_ids, ours or "buildcache_layout_version" in document, missing)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return Existing(descriptor, manifest, (), ID_ANNOTATION in manifest.annotations)


@dataclass(frozen=True, slots=True)
class Keep:
    """It has our layer and every layer that we could name: nothing to do."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Ours is better."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """It must stay as it is, and so the package cannot be pushed."""

    reason: str


def judge(existing: Existing | None, layers: Sequence[Layer], missing: Sequence[Missing]) -> Keep | Replace | Refuse:
    """What to do about the tag of a package whose manifest would name `layers`, its own last, and lack `missing`.

    `existing` is None for something that is not an image manifest at all. A manifest that is incomplete, by a gap or
    by a choice, never replaces one that names more layers. Of two that name the same, ours is better where it says of
    something that it is a gap, and the other one that it was a choice: a gap is never silent (rule 8).
    """
    if existing is None or not existing.ours:
        return Refuse("the tag is taken by something that neither uploader nor Spack made; use --force to replace it")
    claims_gaps = any(missing.is_gap for missing in existing.missing)
    there = len(existing.manifest.layers)
    # Two packages of one content are one layer, named twice: it takes the count to see that one of them is missing.
    names_all = there >= len(layers) and all(existing.names(layer) for layer in layers)
    if names_all and (missing or not claims_gaps):
        choices = {one.id for one in existing.missing if not one.is_gap}
        hides_gaps = there == len(layers) and any(one.is_gap and one.id in choices for one in missing)
        return Replace() if hides_gaps else Keep()
    if missing and there > len(layers):
        return Refuse(
            f"the tag points at a manifest of {there} layers, and this push could name only {len(layers)}: it was "
            "left as it is; push again when nothing is missing, or use --force"
        )
    return Replace()
