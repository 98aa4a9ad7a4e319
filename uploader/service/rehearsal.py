"""A destination in which nothing is written: what `uploader plan` pushes to."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, BinaryIO

from uploader.model.outcome import Traffic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from uploader.model.descriptor import Descriptor
    from uploader.model.digest import Digest
    from uploader.model.outcome import How
    from uploader.model.reference import Destination as Reference
    from uploader.model.reference import Tag
    from uploader.oci.http import Body
    from uploader.oci.journal import Journal
    from uploader.oci.manifest import StoredManifest
    from uploader.service.destination import Destination


class Rehearsal:
    """Asks the real destination, and only counts what would be sent there. Mutable: the counts."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._bytes = 0
        self._writes = 0

    @property
    def looking_is_free(self) -> bool:
        """As there."""
        return self._destination.looking_is_free

    async def is_empty(self) -> bool:
        """Asked."""
        return await self._destination.is_empty()

    async def find_tag(self, tag: Tag) -> Digest | None:
        """Asked."""
        return await self._destination.find_tag(tag)

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
        self,
        descriptor: Descriptor,
        body: Body,  # noqa: ARG002
        *,
        expected: bool,
        journal: Journal | None = None,  # noqa: ARG002
    ) -> How:
        """Asked about where it may be there; else counted, as an opening and a sending.

        The question stands for the opening, since most registries let a mount do both in one.
        """
        if expected and await self._destination.has_blob(descriptor):
            return "present"
        self._writes += 1 if expected else 2
        self._bytes += descriptor.size
        return "uploaded"

    async def mount_blob(self, descriptor: Descriptor, source: Reference) -> bool:  # noqa: ARG002
        """Counted as if it worked: nothing is fetched for a rehearsal."""
        self._writes += 1
        return True

    async def push_manifest(self, tag: Tag, content: bytes, media_type: str) -> None:  # noqa: ARG002
        """Counted."""
        self._writes += 1
        self._bytes += len(content)

    def traffic(self) -> Traffic:
        """What a push would send, questions included; a folder takes no requests at all."""
        asked = self._destination.traffic().requests
        return Traffic(self._bytes, asked + self._writes if asked else 0, 0)

    def tags(self) -> AsyncIterator[Tag]:
        """Asked."""
        return self._destination.tags()


@asynccontextmanager
async def rehearsed(opened: AbstractAsyncContextManager[Destination]) -> AsyncIterator[Destination]:
    """A destination that is opened as itself, and handed on as its rehearsal."""
    async with opened as destination:
        yield Rehearsal(destination)
