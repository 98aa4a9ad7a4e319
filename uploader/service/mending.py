"""A destination that makes a push repair what is damaged: for the push, the damaged tags are not there."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, BinaryIO

from uploader.errors import RegistryError
from uploader.model.digest import Digest
from uploader.oci.manifest import StoredManifest, parse_manifest
from uploader.service.blob_checks import tells_damage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from uploader.model.descriptor import Descriptor
    from uploader.model.outcome import How, Traffic
    from uploader.model.reference import Destination as Reference
    from uploader.model.reference import Tag
    from uploader.oci.http import Body
    from uploader.oci.journal import Journal
    from uploader.service.destination import Destination


class Mending:
    """Hides the damaged tags, so that layers are looked for and manifests made anew, and guards what is written there.

    `damaged` are those tags, with the digest that each pointed at when it was found to be damaged.
    """

    def __init__(self, destination: Destination, damaged: Mapping[Tag, Digest | None]) -> None:
        self._destination = destination
        self._damaged = damaged

    @property
    def looking_is_free(self) -> bool:
        """As there."""
        return self._destination.looking_is_free

    async def is_empty(self) -> bool:
        """Asked."""
        return await self._destination.is_empty()

    async def find_tag(self, tag: Tag) -> Digest | None:
        """Asked, unless it is damaged."""
        return None if tag in self._damaged else await self._destination.find_tag(tag)

    async def read_manifest(self, reference: Tag | Digest) -> StoredManifest | None:
        """Asked."""
        return await self._destination.read_manifest(reference)

    async def read_blob(self, descriptor: Descriptor) -> bytes | None:
        """Asked."""
        return await self._destination.read_blob(descriptor)

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """Asked."""
        return await self._destination.has_blob(descriptor)

    async def copy_blob(self, descriptor: Descriptor, file: BinaryIO | None) -> bool:
        """Asked."""
        return await self._destination.copy_blob(descriptor, file)

    async def push_blob(
        self, descriptor: Descriptor, body: Body, *, expected: bool, journal: Journal | None = None
    ) -> How:
        """Done."""
        return await self._destination.push_blob(descriptor, body, expected=expected, journal=journal)

    async def mount_blob(self, descriptor: Descriptor, source: Reference) -> bool:
        """Done."""
        return await self._destination.mount_blob(descriptor, source)

    async def push_manifest(self, tag: Tag, content: bytes, media_type: str) -> None:
        """Done, unless it is there already, somebody else was faster, or what is there names more layers."""
        if tag in self._damaged and not await self._may_replace(
            tag, StoredManifest(content, media_type, Digest.of(b""))
        ):
            return
        await self._destination.push_manifest(tag, content, media_type)

    def traffic(self) -> Traffic:
        """Of the destination."""
        return self._destination.traffic()

    def tags(self) -> AsyncIterator[Tag]:
        """Asked."""
        return self._destination.tags()

    async def _may_replace(self, tag: Tag, ours: StoredManifest) -> bool:
        """False where nothing need be written; raises RegistryError where nothing may be."""
        try:
            there = await self._destination.read_manifest(tag)
        except RegistryError as error:
            if not tells_damage(error):
                raise
            return True
        if there is None:
            return True
        if there.content == ours.content:
            return False
        found = self._damaged[tag]
        if found is not None and there.digest != found:
            raise RegistryError(f"push manifest {tag}: somebody else wrote it meanwhile, it was left so; heal again")
        named, better = parse_manifest(there), parse_manifest(ours)
        if named and better and len(named.layers) > len(better.layers):
            raise RegistryError(
                f"push manifest {tag}: what is there is damaged, but names {len(named.layers)} layers, and this push "
                f"could name only {len(better.layers)}: it was left as it is"
            )
        return True


@asynccontextmanager
async def mending(
    opened: AbstractAsyncContextManager[Destination], damaged: Mapping[Tag, Digest | None]
) -> AsyncIterator[Destination]:
    """A destination that is opened as itself, and handed on as one to be mended."""
    async with opened as destination:
        yield Mending(destination, damaged)
