"""What a push needs of the place it goes to; fitted by `registry.client` and `layout.folder`."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from uploader.model.descriptor import Descriptor
    from uploader.model.digest import Digest
    from uploader.model.outcome import How, Traffic
    from uploader.model.reference import Destination as Reference
    from uploader.model.reference import Tag
    from uploader.oci.http import Body
    from uploader.oci.journal import Journal
    from uploader.oci.manifest import StoredManifest


class Destination(Protocol):
    """A repository. Only "it is not there" is answered by None or False; all else is raised.

    Every method raises RegistryError for a failure of this one thing, UnusableError when all is lost.
    """

    @property
    def looking_is_free(self) -> bool:
        """Whether `has_blob` costs no request."""

    async def is_empty(self) -> bool:
        """Whether the repository is known to hold no tag at all."""

    async def find_tag(self, tag: Tag) -> Digest | None:
        """The digest that the tag points at."""

    async def read_manifest(self, reference: Tag | Digest) -> StoredManifest | None:
        """The manifest, digest checked."""

    async def read_blob(self, descriptor: Descriptor) -> bytes | None:
        """A small blob (a config) whole, digest checked."""

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there."""

    async def copy_blob(self, descriptor: Descriptor, file: BinaryIO | None) -> bool:
        """Copy a blob of any size to `file`, or only read it, digest checked; False when it is not there."""

    async def push_blob(
        self,
        descriptor: Descriptor,
        body: Body,
        *,
        expected: bool,
        journal: Journal | None = None,
    ) -> How:
        """Make the blob be there; `expected` says that it is likely to be there already.

        With a journal, a large blob is continued where an earlier push left it.
        """

    async def mount_blob(self, descriptor: Descriptor, source: Reference) -> bool:
        """Take the blob over from another repository of the same registry; False when that cannot be done."""

    async def push_manifest(self, tag: Tag, content: bytes, media_type: str) -> None:
        """Point the tag at this manifest, byte for byte."""

    def traffic(self) -> Traffic:
        """What went there so far."""

    def tags(self) -> AsyncIterator[Tag]:
        """Every tag of the repository; raises AbsentError where there is no such repository."""
