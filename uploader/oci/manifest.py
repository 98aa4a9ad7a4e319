"""Manifests: descriptors to bytes and back (OCI image-spec, manifest.md; annotations.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

from uploader.errors import InputError
from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.model.outcome import Missing, Why
from uploader.model.package import PackageId
from uploader.model.reference import Tag
from uploader.oci.media_types import DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ID_ANNOTATION: Final = "dev.uploader.id"
MISSING_ANNOTATION: Final = "dev.uploader.missing"
_REASONS: Final = get_args(Why)


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as a repository holds it."""

    content: bytes
    media_type: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an image manifest says."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]

    @property
    def layer_digests(self) -> frozenset[Digest]:
        """The digests of its layers."""
        return frozenset(layer.digest for layer in self.layers)

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What its own annotation says that it lacks; () without one, or with one that makes no sense."""
        return parse_missing(self.annotations.get(MISSING_ANNOTATION, "[]"))


def manifest_bytes(
    config: Descriptor, layers: Sequence[Descriptor], annotations: Mapping[str, str], *, media_type: str = OCI_MANIFEST
) -> bytes:
    """An image manifest; annotations sorted by name, none at all in Docker's format."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _descriptor_json(config),
        "layers": [_descriptor_json(layer) for layer in layers],
    }
    if annotations and media_type == OCI_MANIFEST:
        document["annotations"] = dict(sorted(annotations.items()))
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace")


def config_descriptor(content: bytes, media_type: str = OCI_CONFIG) -> Descriptor:
    """The descriptor of a config blob."""
    return Descriptor(media_type, Digest.of(content), len(content))


def parse_manifest(stored: StoredManifest) -> Manifest | None:
    """Read an image manifest; None for an index, and for whatever else is not one."""
    try:
        document = json.loads(stored.content)
        if not isinstance(document, dict) or "manifests" in document:
            return None
        annotations = document.get("annotations") or {}
        return Manifest(
            str(document.get("mediaType") or stored.media_type),
            _parse_descriptor(document["config"]),
            tuple(_parse_descriptor(layer) for layer in document["layers"]),
            {str(key): str(value) for key, value in annotations.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError):
        return None


def missing_annotation(missing: Sequence[Missing]) -> dict[str, str]:
    """The annotation (rule 8) that says what a manifest lacks; empty when it lacks nothing."""
    if not missing:
        return {}
    entries = [{"id": m.id, "tag": m.tag, "why": m.why, "index": m.index} for m in missing]
    return {MISSING_ANNOTATION: json.dumps(entries, separators=(",", ":"), ensure_ascii=False)}


def parse_missing(text: str) -> tuple[Missing, ...]:
    """The inverse of `missing_annotation`; entries that make no sense are passed over. Names are not kept in it."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(entries, list):
        return ()
    return tuple(
        Missing(
            PackageId(entry["id"]),
            entry["id"],
            Tag(entry["tag"]) if isinstance(entry.get("tag"), str) else None,
            entry["why"],
            entry["index"],
        )
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and isinstance(entry.get("index"), int)
        if entry.get("why") in _REASONS
    )


def _descriptor_json(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def _parse_descriptor(entry: Mapping[str, Any]) -> Descriptor:
    size = entry["size"]
    if not isinstance(size, int) or size < 0:
        raise ValueError("a size is a whole number")
    return Descriptor(str(entry.get("mediaType", "")), Digest.parse(str(entry["digest"])), size)


def is_docker(manifest: Manifest) -> bool:
    """Whether it is in Docker's format."""
    return manifest.media_type == DOCKER_MANIFEST
