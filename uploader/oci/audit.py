"""What is wrong with a manifest and its config, as far as the two tell by themselves."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from uploader.errors import InputError
from uploader.model.digest import Digest
from uploader.model.package import PackageId
from uploader.oci.image_config import diff_ids_of
from uploader.oci.manifest import (
    ID_ANNOTATION,
    MISSING_ANNOTATION,
    Manifest,
    is_docker,
    parse_manifest,
    parse_missing,
)
from uploader.oci.media_types import DOCKER_LAYER, OCI_LAYER, Compression

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from uploader.model.outcome import Missing
    from uploader.oci.manifest import StoredManifest

DamageKind = Literal[
    "not-there",
    "manifest-missing",
    "manifest-damaged",
    "manifest-broken",
    "config-missing",
    "config-damaged",
    "config-broken",
    "layer-missing",
    "layer-damaged",
    "diff-ids",
    "wrong-diff-id",
    "wrong-layer",
]
"""What can be wrong: `missing` is gone, `damaged` has other bytes than its digest, `broken` has bytes without sense."""

Maker = Literal["uploader", "spack", "other"]

_TARS: Final = (OCI_LAYER, DOCKER_LAYER)


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong, with the digest of the blob or manifest that it is about."""

    kind: DamageKind
    message: str
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Children:
    """The manifests that an index names (image-spec, image-index.md)."""

    digests: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """What a manifest and its config say, and what is wrong with it; `diff_ids` only where they fit the layers."""

    maker: Maker
    id: PackageId | None
    platform: str
    missing: tuple[Missing, ...]
    diff_ids: tuple[str, ...]
    damage: tuple[Damage, ...]


def read_stored(stored: StoredManifest) -> Manifest | Children | Damage | None:
    """What a tag or digest points at; None for what is sound, and neither an image nor an index."""
    if (manifest := parse_manifest(stored)) is not None:
        return manifest
    try:
        document = json.loads(stored.content)
    except (ValueError, RecursionError):
        return Damage("manifest-broken", "its manifest is not JSON", stored.digest)
    if isinstance(document, dict):
        if isinstance(document.get("manifests"), list):
            return Children(tuple(_digests(document["manifests"])))
        if not {"config", "layers"} <= document.keys():
            return None
    return Damage("manifest-broken", "its manifest is JSON, and not an image manifest", stored.digest)


def audit(manifest: Manifest, config: bytes | None, *, looks_like: Maker = "other") -> Audit:
    """Compare a manifest and its config, which is None where it is not there.

    `looks_like` says whose it is when neither of the two tells, as by the name of the tag.
    """
    document = config_document(config) if config is not None else None
    labels = labels_of(document or {})
    maker = _maker(manifest, document, labels, looks_like)
    key = manifest.annotations.get(ID_ANNOTATION, labels.get(ID_ANNOTATION))
    missing = parse_missing(manifest.annotations.get(MISSING_ANNOTATION, labels.get(MISSING_ANNOTATION, "[]")))
    diff_ids: tuple[str, ...] = ()
    damage: list[Damage] = []
    if maker != "other":
        digest = manifest.config.digest
        if config is None:
            damage.append(Damage("config-missing", f"its config {digest.short} is not there", digest))
        elif document is None:
            damage.append(Damage("config-broken", f"its config {digest.short} is not a JSON object", digest))
        else:
            diff_ids = diff_ids_of(config)
            damage += _misfits(manifest, diff_ids)
    return Audit(
        maker,
        PackageId(key) if key is not None else None,
        platform_of(document or {}),
        missing,
        () if any(one.kind == "diff-ids" for one in damage) else diff_ids,
        tuple(damage),
    )


def config_document(config: bytes) -> dict[str, Any] | None:
    """A config as JSON; None when it is not a JSON object."""
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def labels_of(document: Mapping[str, Any]) -> Mapping[str, str]:
    """The labels in a config, where Docker's format keeps what OCI's has in annotations."""
    settings = document.get("config")
    labels = settings.get("Labels") if isinstance(settings, dict) else None
    if not isinstance(labels, dict):
        return {}
    return {name: value for name, value in labels.items() if isinstance(value, str)}


def platform_of(document: Mapping[str, Any]) -> str:
    """`os/architecture/variant` of a config."""
    return "/".join(str(document.get(key) or "") for key in ("os", "architecture", "variant"))


def compression_of(media_type: str) -> Compression | None:
    """How a layer of this type is compressed; None for what is no tar."""
    if media_type in _TARS:
        return "none"
    if ".tar" not in media_type:
        return None
    if media_type.endswith(("+gzip", ".gzip")):
        return "gzip"
    return "zstd" if media_type.endswith("+zstd") else None


def _maker(
    manifest: Manifest, document: Mapping[str, Any] | None, labels: Mapping[str, str], looks_like: Maker
) -> Maker:
    if ID_ANNOTATION in manifest.annotations or ID_ANNOTATION in labels:
        return "uploader"
    if document is None:  # in Docker's format it is the config that would have told
        return "uploader" if is_docker(manifest) else looks_like
    return "spack" if "buildcache_layout_version" in document else "other"


def _misfits(manifest: Manifest, diff_ids: tuple[str, ...]) -> list[Damage]:
    """The diff IDs must match the layers one for one; that of an uncompressed layer is its digest."""
    if len(diff_ids) != len(manifest.layers):
        count = f"{len(manifest.layers)} layers, and its config {manifest.config.digest.short} {len(diff_ids)} diff_ids"
        return [Damage("diff-ids", f"its manifest has {count}", manifest.config.digest)]
    return [
        wrong_diff_id(layer.digest, diff_id, str(layer.digest))
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
        if layer.media_type in _TARS and differ(diff_id, str(layer.digest))
    ]


def wrong_diff_id(layer: Digest, said: str, found: str) -> Damage:
    """The config says one thing of a layer, and its bytes another."""
    return Damage("wrong-diff-id", f"its config says diff_id {said[:19]} of layer {layer.short}: it is {found}", layer)


def differ(one: str, other: str) -> bool:
    """Whether two digests are of different bytes; by different algorithms nobody can tell."""
    return one != other and one.partition(":")[0] == other.partition(":")[0]


def _digests(entries: Iterable[object]) -> Iterable[Digest]:
    for entry in entries:
        with suppress(InputError):
            if isinstance(entry, dict):
                yield Digest.parse(str(entry.get("digest")))
