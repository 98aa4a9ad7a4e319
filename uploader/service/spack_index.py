"""The index of a Spack build cache: merged after a push, or made anew from the tags.

Registries have no conditional writes, so two pushers may overwrite each other's index. What is never lost are the tags:
after every write the tags are listed, and whatever is tagged and not in the index that is there now makes another
round. Every pusher tags before it writes an index, so whoever writes last either sees the other's tags in that list,
or the other one has yet to read what was written. The rounds are bounded, and running out of them loses nothing:
the next push with the index, or `uploader index`, finishes the work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio.to_thread

from uploader.errors import AbsentError, InputError, RegistryError, UnusableError
from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.oci.manifest import manifest_bytes, parse_manifest
from uploader.oci.media_types import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from uploader.service.memory import Memory
from uploader.service.parallel import for_each
from uploader.sources.spack.index import (
    INDEX_TAG,
    Index,
    index_bytes,
    index_of_configs,
    is_spec_tag,
    merge_indexes,
    parse_index,
    part_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uploader.model.reference import Tag
    from uploader.service.destination import Destination
    from uploader.sources.spack.database import DatabaseVersion

_ROUNDS = 8
_AT_ONCE = 32
_NO_CONFIG = b"{}"


@dataclass(frozen=True, slots=True)
class IndexOutcome:
    """The index as it is now. `written`: by us; `skipped`: tags that are not in it, or unsure, and why.

    Of the tags `unsure` the registry would not say what they are: they are in the index if they were before.
    """

    digest: Digest
    specs: int
    written: bool
    skipped: Mapping[str, str] = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()


class SpackIndex:
    """The index of one repository. Mutable: which tags turned out to be no specs, and which could not be asked."""

    def __init__(self, destination: Destination, where: str) -> None:
        self._destination = destination
        self._where = where
        self._skipped: dict[str, str] = {}
        self._unsure: set[str] = set()

    async def merge(self, ours: Index | None) -> IndexOutcome | None:
        """Make the index hold what it holds, `ours`, and every spec that is tagged; None when there is no spec at all.

        Raises RegistryError where it cannot be read or written, or others keep overwriting it; InputError where two
        generations of Spack meet in one repository.
        """
        return await self._settle(ours, afresh=False)

    async def rebuild(self) -> IndexOutcome | None:
        """Make the index hold what the tags say, and nothing else; raises UnusableError where nothing is tagged."""
        return await self._settle(None, afresh=True)

    async def _settle(self, wanted: Index | None, *, afresh: bool) -> IndexOutcome | None:
        written = False
        there: _Stored | None = None
        for _ in range(_ROUNDS):
            there = await self._read(there)
            known = None if afresh and not written else there.index if there else None
            merged = _together(known, wanted)
            untold = await self._tags_beside(merged, must_be_there=afresh)
            merged = _together(merged, await self._from_tags(untold, merged.version if merged else None))
            if there is not None and there.index is not None and self._unsure:
                merged = _together(merged, part_of(there.index, frozenset(map(_hash_in, self._unsure))))
            if merged is None:
                return None
            content = await anyio.to_thread.run_sync(index_bytes, merged)
            if there is not None and there.content == content:
                return self._outcome(there.digest, merged, written=written)
            there = _Stored(await self._write(content), content, merged)
            written, wanted = True, merged
        raise RegistryError(
            f"update the index of {self._where}: others overwrote it {_ROUNDS} times; nothing is lost, all specs are "
            "tagged: run `uploader index` when fewer push at once"
        )

    def _outcome(self, digest: Digest, index: Index, *, written: bool) -> IndexOutcome:
        return IndexOutcome(digest, len(index.pushed), written, dict(self._skipped), frozenset(self._unsure))

    async def _tags_beside(self, index: Index | None, *, must_be_there: bool) -> list[Tag]:
        """The tags of specs that the index does not list. A spec's hash is the end of its tag."""
        listed = index.pushed if index else frozenset()
        try:
            return [
                tag
                async for tag in self._destination.tags()
                if is_spec_tag(tag) and tag not in self._skipped and _hash_in(tag) not in listed
            ]
        except AbsentError as error:  # after a push: nothing was pushed yet, or nothing of it could be tagged
            if must_be_there:
                raise UnusableError(str(error)) from error
            return []

    async def _from_tags(self, tags: list[Tag], version: DatabaseVersion | None) -> Index | None:
        """What the tags hold of that generation of Spack: what another one pushed must not spoil this one's index."""
        configs: dict[str, bytes] = {}

        async def fetch(tag: Tag) -> None:
            try:
                configs[tag] = await self._config_at(tag)
            except _NotASpecError as error:
                self._skipped[tag] = str(error)
                if error.is_unsure:
                    self._unsure.add(tag)

        await for_each(tags, fetch, at_once=_AT_ONCE)
        index, skipped = await anyio.to_thread.run_sync(index_of_configs, configs, version)
        self._skipped |= skipped
        return index

    async def _config_at(self, tag: Tag) -> bytes:
        try:
            stored = await self._destination.read_manifest(tag)
            manifest = parse_manifest(stored) if stored else None
            if manifest is None:
                raise _NotASpecError("it is gone, or no image manifest")
            config = await self._destination.read_blob(manifest.config)
        except RegistryError as error:
            if error.kind != "registry":
                raise
            raise _NotASpecError(str(error), is_unsure=error.status is not None) from error
        if config is None:
            raise _NotASpecError("its config is gone")
        return config

    async def _read(self, known: _Stored | None) -> _Stored | None:
        """The index that is there; a broken one counts as none, since it is made anew from the tags.

        If it is still the one `known`, which we wrote, only the tag is asked for.
        """
        stored = await self._destination.read_manifest(INDEX_TAG)
        if stored is not None and known is not None and stored.digest == known.digest:
            return known
        manifest = parse_manifest(stored) if stored else None
        if manifest is None or not manifest.layers:
            return None
        try:
            content = await self._destination.read_blob(manifest.layers[0])
        except RegistryError as error:
            if error.kind != "registry" or error.status is not None:
                raise  # it could not be read, which says nothing of what it is
            content = None
        if content is None or stored is None:
            return None
        try:
            return _Stored(stored.digest, content, await anyio.to_thread.run_sync(parse_index, content))
        except InputError:
            return _Stored(stored.digest, content, None)

    async def _write(self, content: bytes) -> Digest:
        """The blobs, then the tag.

        No journal: a spec is 1 KB of JSON, and packs to a tenth or less, so that it takes hundreds of thousands of them
        to make a blob that would be continued; and the next push's index is another blob, unless nothing was tagged
        in between.
        """
        layer = Descriptor(OCI_LAYER_GZIP, Digest.of(content), len(content))
        config = Descriptor(OCI_CONFIG, Digest.of(_NO_CONFIG), len(_NO_CONFIG))
        await self._destination.push_blob(config, Memory(_NO_CONFIG), expected=True)
        await self._destination.push_blob(layer, Memory(content), expected=False)
        manifest = manifest_bytes(config, [layer], {})
        await self._destination.push_manifest(INDEX_TAG, manifest, OCI_MANIFEST)
        return Digest.of(manifest)


@dataclass(frozen=True, slots=True)
class _Stored:
    digest: Digest
    content: bytes
    index: Index | None


class _NotASpecError(Exception):
    """A tag that looks like a spec's and holds none; or, if `is_unsure`, the registry would not say."""

    def __init__(self, reason: str, *, is_unsure: bool = False) -> None:
        super().__init__(reason)
        self.is_unsure = is_unsure


def _together(one: Index | None, other: Index | None) -> Index | None:
    return merge_indexes(one, other) if one and other else one or other


def _hash_in(tag: str) -> str:
    return tag.removesuffix(".spack").rpartition("-")[2]
