"""Verifying a repository: whatever its tags point at is there, and agrees.

Nothing is believed but what the repository itself says, so it does not matter who filled it, or from where. An error
while asking is never "absent": the tag is `unknown`, and its error is said.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio

from uploader.errors import AbsentError, RegistryError, UnusableError
from uploader.model.digest import Digest
from uploader.model.package import Blob
from uploader.model.reference import Tag
from uploader.oci.audit import Audit, Children, Damage, Maker, audit, differ, read_stored, wrong_diff_id
from uploader.oci.completion import fills
from uploader.service.blob_checks import DELETE_FIRST, BlobChecks, tells_damage
from uploader.service.donors import Donors
from uploader.service.parallel import for_each
from uploader.service.verify_report import (
    VERIFY_SCHEMA,
    LackingEntry,
    TagEntry,
    VerifyReport,
    damage_entry,
    state_of,
    totals_of,
)
from uploader.sources.spack.index import INDEX_TAG, is_spec_tag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from uploader.model.descriptor import Descriptor
    from uploader.model.package import Package
    from uploader.oci.manifest import Manifest
    from uploader.service.destination import Destination

_LAYERS_AT_ONCE: Final = 8
_INDEX_DEPTH: Final = 2
_MOST_CHILDREN: Final = 256  # of an index: what names more is nothing that anybody pushes
_STOPPED: Final = "stopped before the tags were listed"
_OTHERS_TAG: Final = "the tag is taken by something that neither uploader nor Spack made"


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """What to verify: `packages` must be there; `tags` are looked at, too, which is every tag where it is None.

    `deep`: blobs are read, not only asked about. `at_once`: tags in work at a time.
    """

    where: str
    source: tuple[str, ...] = ()
    packages: tuple[Package, ...] = ()
    tags: tuple[Tag, ...] | None = None
    deep: bool = False
    at_once: int = 32
    notes: tuple[str, ...] = ()


def silent(done: int, total: int, damaged: int) -> None:
    """Told how many tags are done, of how many, and how many are damaged; by default this goes nowhere."""


async def run_verify(
    task: VerifyTask,
    opened: AbstractAsyncContextManager[Destination],
    *,
    stop: anyio.Event,
    progress: Callable[[int, int, int], None] = silent,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> VerifyReport:
    """Verify, and report. When the repository cannot be used at all, the report's `error` says so."""
    started = now()
    error: str | None = None
    verifier: Verifier | None = None
    requests = 0
    try:
        async with opened as destination:
            verifier = Verifier(destination, task, progress)
            failure = await until_stopped(stop, verifier.run)
            error = str(failure) if failure else None if verifier.has_listed else _STOPPED
            requests = destination.traffic().requests
    except UnusableError as failure:
        error = str(failure)
    entries = verifier.entries() if verifier else ()
    unchecked = verifier.unchecked if verifier else 0
    return VerifyReport(
        VERIFY_SCHEMA,
        task.where,
        task.source,
        task.deep,
        rfc3339(started),
        rfc3339(now()),
        totals_of(entries, unchecked=unchecked, blobs=verifier.blobs.count if verifier else 0, requests=requests),
        entries,
        task.notes,
        error,
    )


class Verifier:
    """One verification. Mutable: what was found at each tag, and what was said of each layer's diff ID."""

    def __init__(
        self, destination: Destination, task: VerifyTask, progress: Callable[[int, int, int], None] = silent
    ) -> None:
        self._destination = destination
        self._task = task
        self._progress = progress
        self._expected: Mapping[Tag, Package] = {package.tag: package for package in task.packages}
        self._tags: Sequence[Tag] | None = None
        self._found: dict[Tag, TagEntry] = {}
        self._platforms: dict[Tag, str] = {}
        self._own: dict[Tag, tuple[Digest, str | None]] = {}
        self._damaged = 0
        self._said: dict[Digest, str] = {}
        self._proven: set[Digest] = set()
        self._misled = False
        self.blobs = BlobChecks(destination, deep=task.deep)

    def entries(self) -> tuple[TagEntry, ...]:
        """What was found so far, by tag."""
        return tuple(self._found[tag] for tag in sorted(self._found))

    @property
    def unchecked(self) -> int:
        """How many tags were not reached."""
        return len(self._tags or ()) - len(self._found)

    @property
    def has_listed(self) -> bool:
        """Whether it is known which tags there are to look at."""
        return self._tags is not None

    async def run(self) -> None:
        """All tags; raises UnusableError."""
        try:
            tags = self._tags = await self._wanted()
        except RegistryError as error:
            raise UnusableError(str(error)) from error
        await self.check(tags)
        if self._misled:  # tags that agreed with a config that turned out to be wrong were taken for sound
            await self.check(tags)
        await self._drop_deleted()
        await self._look_for_missing()

    async def check(self, tags: Iterable[Tag]) -> None:
        """Look at these tags."""
        self._damaged = 0
        await for_each(self._counted(tags), self._check_tag, at_once=self._task.at_once)

    def _counted(self, tags: Iterable[Tag]) -> Iterator[Tag]:
        for number, tag in enumerate(tags):
            self._progress(number, len(self._tags or ()), self._damaged)
            yield tag

    async def _wanted(self) -> list[Tag]:
        listed = self._task.tags
        if listed is None:
            listed = await self._listed(must_be_there=not self._expected)
        return list(dict.fromkeys([*self._expected, *listed]))

    async def _listed(self, *, must_be_there: bool) -> tuple[Tag, ...]:
        """Every tag. Where nothing else says what should be there, a mistyped name must not pass for a sound place."""
        try:
            return tuple([tag async for tag in self._destination.tags()])
        except AbsentError:
            if must_be_there:
                raise
            return ()

    # -- one tag

    async def _check_tag(self, tag: Tag) -> None:
        entry = await self._look(tag, tag)
        if tag in self._expected:
            entry = self._compared(entry, self._expected[tag])
        self._damaged += entry.state == "damaged"
        self._found[tag] = entry

    async def _look(self, tag: Tag, reference: Tag | Digest, depth: int = 0) -> TagEntry:
        """What the tag, or a manifest below it, is."""
        entry = TagEntry(tag, "unknown")
        try:
            stored = await self._destination.read_manifest(reference)
            if stored is None:
                gone = Damage("manifest-missing", f"the manifest that {_named(reference)} points at is not there")
                return _with_damage(entry, gone)
            entry = replace(entry, manifest=str(stored.digest))
            match read_stored(stored):
                case Damage() as damage:
                    return _with_damage(entry, damage)
                case Children(digests) if depth < _INDEX_DEPTH and len(digests) <= _MOST_CHILDREN:
                    return await self._look_at_children(entry, digests, depth)
                case None | Children():
                    return replace(entry, state="foreign")
                case manifest:
                    return await self._look_at_image(entry, manifest)
        except RegistryError as error:
            if tells_damage(error):
                return _with_damage(entry, Damage("manifest-damaged", f"{error}; {DELETE_FIRST}"))
            return replace(entry, error=str(error))

    async def _look_at_children(self, index: TagEntry, digests: Sequence[Digest], depth: int) -> TagEntry:
        """An index is as sound as the manifests that it names."""
        entries = [await self._look(Tag(index.tag), digest, depth + 1) for digest in digests]
        damage = tuple(one for entry in entries for one in entry.damage)
        error = next((entry.error for entry in entries if entry.error), None)
        makers = [entry.maker for entry in entries if entry.maker != "other"]
        maker = makers[0] if makers else "other"
        missing = tuple(one for entry in entries for one in entry.missing)
        self._platforms.pop(Tag(index.tag), None)  # an index is nothing that could be completed
        index = replace(index, maker=maker, damage=damage, missing=missing, error=error)
        return replace(index, state=state_of(index))

    async def _look_at_image(self, entry: TagEntry, manifest: Manifest) -> TagEntry:
        audited = await self._audited(entry.tag, manifest)
        entry = replace(entry, maker=audited.maker, id=audited.id, layers=len(manifest.layers))
        if audited.maker == "other":
            return replace(entry, state="foreign")
        if entry.tag == INDEX_TAG:  # its layer is JSON, whatever Spack calls it
            manifest = replace(manifest, layers=tuple(replace(one, media_type="") for one in manifest.layers))
        damage, error = await self._look_at_layers(manifest, audited)
        damage = (*audited.damage, *damage)
        if entry.tag in self._expected and manifest.layers:
            diff_id = audited.diff_ids[-1] if audited.diff_ids else None
            self._own[Tag(entry.tag)] = (manifest.layers[-1].digest, diff_id)
        if any(missing.is_gap for missing in audited.missing):
            self._platforms[Tag(entry.tag)] = audited.platform
        entry = replace(
            entry,
            damage=tuple(damage_entry(one) for one in damage),
            missing=tuple(LackingEntry(m.id, m.tag, m.why, m.index) for m in audited.missing),
            error=error,
        )
        return replace(entry, state=state_of(entry))

    async def _audited(self, tag: str, manifest: Manifest) -> Audit:
        """The manifest beside its config. Spack's index has an empty config, and a layer that is no tar."""
        looks_like: Maker = "spack" if is_spec_tag(tag) or tag == INDEX_TAG else "other"
        try:
            config = await self._destination.read_blob(manifest.config)
        except RegistryError as error:
            if not tells_damage(error):
                raise
            audited = audit(manifest, None, looks_like=looks_like)
            damage = Damage("config-damaged", f"{error}; {DELETE_FIRST}", manifest.config.digest)
            return replace(audited, damage=() if audited.maker == "other" else (damage,))
        if tag == INDEX_TAG and config is not None:
            return Audit("spack", None, "", (), (), ())
        return audit(manifest, config, looks_like=looks_like)

    # -- layers

    async def _look_at_layers(self, manifest: Manifest, audited: Audit) -> tuple[tuple[Damage, ...], str | None]:
        """What is wrong with the layers, each named once, and why some could not be asked about."""
        layers = {layer.digest: layer for layer in manifest.layers}
        unknown = [layer for layer in layers.values() if self.blobs.known(layer) is None]

        async def ask(layer: Descriptor) -> None:
            await self.blobs.check(layer)

        await for_each(unknown, ask, at_once=min(_LAYERS_AT_ONCE, len(unknown)))
        damage: list[Damage] = []
        error: str | None = None
        for layer in layers.values():
            answer = await self.blobs.check(layer)
            error = error or answer.error
            damage += [answer.damage] if answer.damage else []
        if not damage:
            for layer, said in zip(manifest.layers, audited.diff_ids, strict=False):
                found = await self._diff_id(layer, said)
                if differ(said, found):
                    damage.append(wrong_diff_id(layer.digest, said, found))
        return tuple(dict.fromkeys(damage)), error

    async def _diff_id(self, layer: Descriptor, said: str) -> str:
        """The layer's diff ID, where it was read; else what all configs say, and where they disagree, it is read."""
        if (answer := self.blobs.known(layer)) is not None and answer.diff_id is not None:
            return answer.diff_id
        known = self._said.setdefault(layer.digest, said)
        if not differ(known, said) or layer.digest in self._proven:
            return known
        found = (await self.blobs.read(layer)).diff_id
        if found is None:
            return said
        self._proven.add(layer.digest)
        self._misled = self._misled or differ(known, found)
        self._said[layer.digest] = found
        return found

    # -- what only all tags together tell

    def _compared(self, entry: TagEntry, package: Package) -> TagEntry:
        """What is at the package's tag must be the package."""
        if entry.state == "foreign":
            return _with_damage(entry, Damage("not-there", f"package {package.id} is not there: {_OTHERS_TAG}"))
        if any(one.kind == "manifest-missing" for one in entry.damage):
            gone = damage_entry(Damage("not-there", f"package {package.id} is not there"))
            return replace(entry, damage=(gone,), id=package.id)
        own = self._own.get(package.tag)
        if own is not None and isinstance(package.content, Blob) and not _may_be(own, package.content):
            wrong = Damage("wrong-layer", f"its own layer is {own[0].short}, and not what the source gives", own[0])
            return _with_damage(entry, wrong)
        return entry

    async def _drop_deleted(self) -> None:
        """A tag that was deleted since it was listed is no damage."""
        gone = {t for t, entry in self._found.items() if any(one.kind == "manifest-missing" for one in entry.damage)}
        if not gone - self._expected.keys():
            return
        with suppress(RegistryError):
            left = set(await self._listed(must_be_there=False))
            for tag in gone - left - self._expected.keys():
                del self._found[tag]
            self._tags = [tag for tag in self._tags or () if tag in self._found]

    async def _look_for_missing(self) -> None:
        """Which gaps could be filled now."""
        donors = Donors(self._destination, self.blobs)

        async def look(tag: Tag) -> None:
            entry = self._found[tag]
            missing = []
            for one in entry.missing:
                donor = await donors.find(one.id, one.tag) if one.is_gap else None
                missing.append(replace(one, completable=fills(donor, self._platforms.get(tag, ""))))
            self._found[tag] = replace(entry, missing=tuple(missing))

        await for_each([tag for tag, entry in self._found.items() if entry.gaps], look, at_once=self._task.at_once)


async def until_stopped(stop: anyio.Event, work: Callable[[], Awaitable[None]]) -> UnusableError | None:
    """Do the work, or a part of it when `stop` is set meanwhile; gives the error that ended it."""
    problem: UnusableError | None = None

    async def give_up() -> None:
        await stop.wait()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(give_up)
        try:
            await work()
        except UnusableError as error:
            problem = error
        group.cancel_scope.cancel()
    return problem


def _with_damage(entry: TagEntry, damage: Damage) -> TagEntry:
    return replace(entry, state="damaged", damage=(*entry.damage, damage_entry(damage)))


def _named(reference: Tag | Digest) -> str:
    return f"index entry {reference.short}" if isinstance(reference, Digest) else f"tag {reference}"


def _may_be(own: tuple[Digest, str | None], blob: Blob) -> bool:
    """Whether a layer may be that blob, by what the source gives of it unread; in another compression, too."""
    digest, diff_id = own
    if blob.digest is None or blob.digest == digest:
        return True
    return blob.diff_id is not None and str(blob.diff_id) == diff_id


def rfc3339(moment: datetime) -> str:
    """As reports write it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
