"""Fetching a base image: which one for which platform, and its layers into the destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uploader.errors import InputError
from uploader.oci.base_image import BaseImage, base_image, choose_platform
from uploader.oci.manifest import parse_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from uploader.model.digest import Digest
    from uploader.model.package import Platform
    from uploader.model.reference import Tag
    from uploader.service.destination import Destination


async def load_base_images(
    source: Destination, reference: Tag | Digest, platforms: Iterable[Platform], name: str
) -> dict[Platform, BaseImage]:
    """The base image for each platform; raises InputError where there is none, RegistryError, UnusableError."""
    return {platform: await _load(source, reference, platform, name) for platform in platforms}


async def _load(source: Destination, reference: Tag | Digest, platform: Platform, name: str) -> BaseImage:
    stored = await source.read_manifest(reference)
    if stored is None:
        raise InputError(f"base image {name}: it is not there")
    manifest = parse_manifest(stored)
    if manifest is None:
        stored = await source.read_manifest(choose_platform(stored, platform, name))
        manifest = parse_manifest(stored) if stored else None
    config = await source.read_blob(manifest.config) if manifest else None
    if manifest is None or config is None:
        raise InputError(f"base image {name}: what it names for {platform} is not there, or is no image")
    return base_image(manifest, config, platform, name)
