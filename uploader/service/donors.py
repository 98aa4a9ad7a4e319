"""Finding the layers that manifests lack: each missing package is looked for at its own tag."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uploader.errors import RegistryError
from uploader.model.descriptor import Descriptor
from uploader.model.reference import Tag
from uploader.oci.audit import audit
from uploader.oci.completion import Donor
from uploader.oci.manifest import parse_manifest
from uploader.oci.presence import existing_manifest
from uploader.sources.spack.index import is_spec_tag

if TYPE_CHECKING:
    from uploader.service.blob_checks import BlobChecks
    from uploader.service.destination import Destination


class Donors:
    """Mutable: what was found at each tag, None where there is no such package."""

    def __init__(self, destination: Destination, blobs: BlobChecks) -> None:
        self._destination = destination
        self._blobs = blobs
        self._found: dict[tuple[str, Tag], Donor | None] = {}

    async def find(self, key: str, tag: Tag | str | None) -> Donor | None:
        """The own layer of package `key`, if that package is at the tag and its layer is there and whole.

        None, too, where asking failed: then nothing is completed, and the next one asks again.
        """
        if tag is None:
            return None
        place = (key, Tag(tag))
        if place not in self._found:
            try:
                self._found[place] = await self._look(key, Tag(tag))
            except RegistryError:
                self._found[place] = None
        return self._found[place]

    async def _look(self, key: str, tag: Tag) -> Donor | None:
        stored = await self._destination.read_manifest(tag)
        manifest = parse_manifest(stored) if stored else None
        config = await self._destination.read_blob(manifest.config) if manifest else None
        if stored is None or manifest is None or config is None:
            return None
        audited = audit(manifest, config)
        described = Descriptor(manifest.media_type, stored.digest, len(stored.content))
        own = existing_manifest(described, manifest, config).own_layer
        is_it = audited.id == key or (audited.id is None and is_spec_tag(tag) and _hash_in(tag) == key)
        if own is None or audited.damage or not is_it:
            return None
        answer = await self._blobs.check(own.descriptor)
        is_sound = answer.damage is None and answer.error is None
        return Donor(own, audited.platform) if is_sound else None


def _hash_in(tag: str) -> str:
    """Spack's own manifests say nothing of an id; the tag ends with the spec's hash, which is its id for us."""
    return tag.removesuffix(".spack").rpartition("-")[2]
