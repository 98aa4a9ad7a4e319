"""Base images: which one for which platform, and its layers into the destination."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploader.errors import InputError, RegistryError, UnusableError
from uploader.oci.base_image import BaseImage, base_image, choose_platform
from uploader.oci.manifest import parse_manifest
from uploader.packing.ready import FileBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from uploader.model.descriptor import Descriptor
    from uploader.model.package import Platform
    from uploader.model.reference import ImageReference
    from uploader.oci.http import Body
    from uploader.service.destination import Destination

    Send = Callable[[Descriptor, Body], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class BaseSource:
    """Where the base image is; `open` connects to it, `temp_dir` is where its layers lie on their way."""

    image: ImageReference
    open: Callable[[], AbstractAsyncContextManager[Destination]]
    temp_dir: Path | None = None

    async def load(self, platforms: Iterable[Platform]) -> dict[Platform, BaseImage]:
        """The image for each platform; raises InputError where there is none, UnusableError."""
        try:
            async with self.open() as source:
                return {platform: await self._load(source, platform) for platform in platforms}
        except RegistryError as error:
            raise UnusableError(f"base image {self.image}: {error}") from error

    async def bring(self, images: Mapping[Platform, BaseImage], destination: Destination, send: Send) -> None:
        """Make the layers of the images be in the destination: found, mounted, or copied; raises UnusableError."""
        wanted = {layer.descriptor for image in images.values() for layer in image.layers}
        try:
            missing = [descriptor for descriptor in wanted if not await destination.has_blob(descriptor)]
            missing = [d for d in missing if not await destination.mount_blob(d, self.image.where)]
            if missing:
                async with self.open() as source:
                    for descriptor in missing:
                        await self._copy(descriptor, source, send)
        except RegistryError as error:
            raise UnusableError(f"bring the layers of base image {self.image}: {error}") from error

    async def _load(self, source: Destination, platform: Platform) -> BaseImage:
        name = str(self.image)
        stored = await source.read_manifest(self.image.reference)
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

    async def _copy(self, descriptor: Descriptor, source: Destination, send: Send) -> None:
        with ExitStack() as stack:
            try:
                file = stack.enter_context(tempfile.TemporaryFile(prefix="uploader-", dir=self.temp_dir))
                if not await source.copy_blob(descriptor, file):
                    raise UnusableError(f"base image {self.image}: its layer {descriptor.digest.short} is not there")
                file.flush()
            except OSError as error:
                raise UnusableError(
                    f"base image {self.image}: keep its layer {descriptor.digest.short} in a temporary file: "
                    f"{error.strerror}; choose another folder with --temp-dir"
                ) from error
            await send(descriptor, FileBody(file, f"a layer of {self.image}"))
