"""Base images: the layers that lie below a package's own, and the config they come with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from uploader.errors import InputError
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.oci.media_types import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uploader.model.package import Platform
    from uploader.oci.manifest import Manifest, StoredManifest

_IN_DOCKER: Final[Mapping[str, str]] = {OCI_LAYER: DOCKER_LAYER, OCI_LAYER_GZIP: DOCKER_LAYER_GZIP}
_IN_OCI: Final[Mapping[str, str]] = {docker: oci for oci, docker in _IN_DOCKER.items()}


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """OCI's format or Docker's: media types are never mixed in one manifest."""

    manifest: str
    config: str
    layers: Mapping[str, str]
    annotations: bool

    def layer(self, descriptor: Descriptor) -> Descriptor:
        """The same layer, by its media type in this format; raises InputError where it has none."""
        if self is DOCKER_FORMAT and descriptor.media_type not in {*_IN_DOCKER, *_IN_OCI}:
            raise InputError(
                f"the base image is in Docker's format, which has no layers of type {descriptor.media_type}: "
                "choose another codec than zstd, or a base image in OCI's format"
            )
        media_type = self.layers.get(descriptor.media_type, descriptor.media_type)
        return Descriptor(media_type, descriptor.digest, descriptor.size)


OCI_FORMAT: Final = ImageFormat(OCI_MANIFEST, OCI_CONFIG, _IN_OCI, annotations=True)
DOCKER_FORMAT: Final = ImageFormat(DOCKER_MANIFEST, DOCKER_CONFIG, _IN_DOCKER, annotations=False)


@dataclass(frozen=True, slots=True)
class BaseImage:
    """A base image for one platform; `config` is its config as JSON text."""

    format: ImageFormat
    layers: tuple[Layer, ...]
    config: str


def choose_platform(index: StoredManifest, platform: Platform, name: str) -> Digest:
    """The manifest for `platform` in an index (image-spec, image-index.md); raises InputError where there is none."""
    try:
        entries = json.loads(index.content)["manifests"]
        offered = [(_platform_of(entry), str(entry["digest"])) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"base image {name}: neither an image nor an index of images") from error
    wanted = (platform.os, platform.architecture)
    fitting = [(found, digest) for found, digest in offered if found[:2] == wanted]
    exact = [digest for found, digest in fitting if found[2] == platform.variant]
    if not fitting:
        there = ", ".join(sorted({"/".join(filter(None, found)) for found, _ in offered})[:8])
        raise InputError(f"base image {name}: has nothing for {platform}; it is for {there or 'no platform at all'}")
    return Digest.parse((exact or [digest for _, digest in fitting])[0])


def base_image(manifest: Manifest, config: bytes, platform: Platform, name: str) -> BaseImage:
    """A base image out of its manifest and config; raises InputError where they do not fit together."""
    try:
        document = json.loads(config)
        diff_ids = [Digest.parse(str(entry)) for entry in document["rootfs"]["diff_ids"]]
        found = (str(document.get("os", "")), str(document.get("architecture", "")))
        _check_settings(document.get("config") or {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError) as error:
        raise InputError(f"base image {name}: its config is not the config of an image") from error
    if len(diff_ids) != len(manifest.layers):
        raise InputError(f"base image {name}: has {len(manifest.layers)} layers and {len(diff_ids)} diff_ids")
    if found != (platform.os, platform.architecture):
        raise InputError(f"base image {name}: is for {'/'.join(found)}, and packages are for {platform}")
    layers = tuple(Layer(layer, diff_id) for layer, diff_id in zip(manifest.layers, diff_ids, strict=True))
    image_format = DOCKER_FORMAT if manifest.media_type == DOCKER_MANIFEST else OCI_FORMAT
    return BaseImage(image_format, layers, json.dumps(document, separators=(",", ":"), ensure_ascii=False))


def _check_settings(settings: Mapping[str, Any]) -> None:
    """What is read and extended later; raises TypeError or AttributeError (image-spec, config.md, "config")."""
    variables, labels = settings.get("Env") or [], settings.get("Labels") or {}
    if not isinstance(variables, list) or not all(isinstance(entry, str) for entry in variables):
        raise TypeError("Env is a list of text")
    if not isinstance(labels, dict):
        raise TypeError("Labels are an object")


def _platform_of(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    platform = entry.get("platform") or {}
    return str(platform.get("os", "")), str(platform.get("architecture", "")), str(platform.get("variant") or "")
