"""One push to one repository: what the engine's two tasks mean there, with the fewest requests."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio

from uploader.errors import RegistryError, UnusableError
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.events import Sending
from uploader.model.outcome import Done, How, Missing, Resent, Tagged
from uploader.oci.http import BLOB_UNKNOWN
from uploader.oci.manifest import parse_manifest
from uploader.oci.presence import Existing, Keep, Refuse, existing_manifest, judge
from uploader.record import RecordedManifest
from uploader.service.journal import journal
from uploader.service.memory import Memory
from uploader.service.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from uploader.graph.plan import Closure
    from uploader.model.digest import Digest
    from uploader.model.events import Emit
    from uploader.model.package import Package, PackageId
    from uploader.oci.http import Body
    from uploader.record import Record
    from uploader.service.contents import Contents
    from uploader.service.destination import Destination
    from uploader.service.images import Image, ImageMaker
    from uploader.service.uploads import RepositoryUploads

MOST_LAYERS = 127
_MANIFEST_TRIES = 5
_FIRST_WAIT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class PushRules:
    """How a push works.

    `force`: what tags, manifests and the local record say is ignored. `remembers`: what was sent is put on record,
    which is wrong where the sending is only rehearsed. `resumed`: an earlier try, maybe on another
    machine, may have left blobs in a repository that has no tag yet.
    """

    force: bool = False
    remembers: bool = True
    resumed: bool = False


class RepositoryPusher:
    """Pushes packages to a destination; fits the engine's `Pusher`.

    Mutable: what was found at the tags, the uploads of this push, and the manifests being written.
    """

    def __init__(  # noqa: PLR0913 - all that a push is made of
        self,
        destination: Destination,
        where: str,
        *,
        contents: Contents,
        images: ImageMaker,
        record: Record,
        emit: Emit,
        rules: PushRules,
        uploads: RepositoryUploads | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        """`where` is the repository's name in the record; `uploads` are shared with other pushes that go there."""
        self._destination = destination
        self._where = where
        self._contents = contents
        self._record = record
        self._emit = emit
        self._images = images
        self._force = rules.force
        self._remembers = rules.remembers
        self._resumed = rules.resumed
        self._sleep = sleep
        self._empty = False
        self._tagged: dict[PackageId, Digest] = {}
        self._existing: dict[PackageId, Existing | None] = {}
        self._uploads = Uploads(uploads)
        self._owners: dict[Digest, Package] = {}
        self._writing: dict[PackageId, Tagged] = {}
        self._too_deep = 0
        self._kept_other = 0
        self._resent: dict[Digest, Resent] = {}

    async def prepare(self) -> None:
        """Learn whether the repository is empty: then no tag need be asked for. Also the first login."""
        with suppress(RegistryError):  # not to know is no proof: then each tag is asked for
            self._empty = await self._destination.is_empty()

    async def send_base_layer(self, descriptor: Descriptor, body: Body) -> None:
        """As any blob: once, and continued where an earlier push left it. That it is not there was just asked."""
        await self._send_once(descriptor, body, asked=True)

    def notes(self) -> tuple[str, ...]:
        """What the user should know of what was pushed."""
        notes = []
        if self._too_deep:
            notes.append(
                f"images with more than {MOST_LAYERS} layers: {self._too_deep}; they can be stored, not run, since "
                "overlay file systems take no more"
            )
        if self._kept_other:
            notes.append(
                f"tags that were kept although this push would make other manifests of the same layers (environment, "
                f"annotations, platform, or time): {self._kept_other}; --force replaces them"
            )
        if self._resent:
            count = sum(resent.bytes for resent in self._resent.values())
            notes.append(
                f"blobs that were sent again from the start: {len(self._resent)}, after {count} bytes that had "
                f"gone out for nothing; the last because {list(self._resent.values())[-1].why}"
            )
        return tuple(notes)

    # -- the engine's Pusher

    async def push_layer(self, package: Package) -> Done:
        """Find the layer, or send it: nothing is read that need not be, and nothing sent that is there."""
        await self._look_up_tag(package)
        if (proven := await self._proven_by_tag(package)) is not None:
            return Done(proven, "present")
        recalled = None if self._force else await self._contents.recall(package)
        if recalled is not None and (found := await self._find(package, recalled, ask=True)) is not None:
            self._owners.setdefault(recalled.descriptor.digest, package)
            return Done(found, "present")
        async with self._contents.open(package, afresh=self._force) as (layer, body):
            self._owners.setdefault(layer.descriptor.digest, package)
            if (found := await self._find(package, layer, ask=False)) is not None:
                return Done(found, "present")
            self._emit(Sending(package, layer.descriptor.size))
            how = await self._send_once(layer.descriptor, body)
            return Done(layer, how, self._resent.get(layer.descriptor.digest) if how == "uploaded" else None)

    async def push_manifest(self, package: Package, closure: Closure) -> Tagged:
        """Point the tag at the package's manifest, unless something as good or better is there."""
        image = await self._images.make(package, closure)
        self._too_deep += len(image.layers) > MOST_LAYERS
        tagged = self._tagged.pop(package.id, None)
        if closure.missing and not self._force:
            # What was found before the layer was sent may be hours old, and somebody else may have named more since.
            now = await self._destination.find_tag(package.tag)
            if now != tagged:
                self._existing.pop(package.id, None)
                tagged = now
        if tagged == image.descriptor.digest and not self._force:
            self._existing.pop(package.id, None)
            self._remember(package, closure, image)
            return Tagged(image.descriptor, pushed=False, missing=closure.missing)
        if tagged is not None and not self._force:
            existing = await self._read_existing(package, tagged, image.layers)
            del self._existing[package.id]
            match judge(existing, image.layers, closure.missing):
                case Keep() if existing is not None:
                    self._kept_other += len(existing.manifest.layers) == len(image.layers) and not closure.missing
                    return Tagged(existing.descriptor, pushed=False, missing=_named(existing, closure))
                case Refuse(reason):
                    raise RegistryError(f"push manifest {package.tag} to {self._where}: {reason}")
                case _:
                    pass
        return await self._write(package, closure, image)

    async def confirm_manifest(self, package: Package) -> Tagged | None:
        """One HEAD tells whether a write that we no longer wait for took effect."""
        writing = self._writing.get(package.id)
        if writing is None:
            return None
        with suppress(RegistryError, UnusableError):
            if await self._destination.find_tag(package.tag) == writing.manifest.digest:
                return writing
        return None

    # -- layers

    async def _look_up_tag(self, package: Package) -> None:
        if self._empty or self._force:
            return
        digest = await self._destination.find_tag(package.tag)
        if digest is not None:
            self._tagged[package.id] = digest

    async def _proven_by_tag(self, package: Package) -> Layer | None:
        """The own layer of what the tag points at, where the tag itself says that it is this package's.

        If the record knows the manifest and that layer, no request is needed, and no file is looked at.
        """
        tagged = self._tagged.get(package.id)
        if tagged is None or not self._contents.names_content(package):
            return None
        recorded = self._record.manifest(self._where, package.tag)
        layer = None
        if recorded is not None and recorded.digest == tagged:
            layer = self._contents.recall_as_it_was(package, recorded.layer)
        if layer is None:
            existing = await self._read_existing(package, tagged, ())
            layer = existing.own_layer if existing else None
        return layer if layer is not None and await self._is_still_there(layer.descriptor) else None

    async def _find(self, package: Package, layer: Layer, *, ask: bool) -> Layer | None:
        """The layer as the repository has it: by the record, by the manifest at the tag, or, with `ask`, by HEAD."""
        tagged = self._tagged.get(package.id)
        if tagged is not None:
            recorded = self._record.manifest(self._where, package.tag)
            if recorded == RecordedManifest(tagged, layer.descriptor.digest):
                return layer if await self._is_still_there(layer.descriptor) else None
            existing = await self._read_existing(package, tagged, [layer])
            place = existing.same_layer(layer) if existing else None
            if existing is not None and place is not None:
                found = Layer(existing.manifest.layers[place], layer.diff_id)
                return found if await self._is_still_there(found.descriptor) else None
        if ask and self._is_expected(layer.descriptor):
            if await self._destination.has_blob(layer.descriptor):
                return layer
            self._record.forget_blobs(self._where, [layer.descriptor.digest])
        return None

    async def _is_still_there(self, descriptor: Descriptor) -> bool:
        """A manifest that names it is taken for proof, save where looking costs no request."""
        return not self._destination.looking_is_free or await self._destination.has_blob(descriptor)

    def _is_expected(self, descriptor: Descriptor) -> bool:
        """Whether the blob may well be there: asked about only then."""
        digest = descriptor.digest
        may_be = self._resumed or not self._empty
        return may_be or self._uploads.has_seen(digest) or self._record.has_blob(self._where, digest)

    async def _read_existing(self, package: Package, tagged: Digest, layers: Sequence[Layer]) -> Existing | None:
        """What the tag points at; its config only where the manifest alone does not tell whether it names `layers`."""
        if package.id not in self._existing:
            self._existing[package.id] = await self._read_manifest(tagged)
        existing = self._existing[package.id]
        if existing is not None and not existing.diff_ids and not (layers and _tells(existing, layers)):
            config = await self._destination.read_blob(existing.manifest.config)
            existing = existing_manifest(existing.descriptor, existing.manifest, config or b"{}")
            self._existing[package.id] = existing
        return existing

    async def _read_manifest(self, digest: Digest) -> Existing | None:
        """The manifest, without its config; None for what is no image manifest."""
        stored = await self._destination.read_manifest(digest)
        manifest = parse_manifest(stored) if stored else None
        if stored is None or manifest is None:
            return None
        return existing_manifest(Descriptor(manifest.media_type, stored.digest, len(stored.content)), manifest, b"{}")

    async def _send_once(self, descriptor: Descriptor, body: Body, *, asked: bool = False) -> How:
        """Send the blob, unless somebody sends it already, or did so in this push."""

        async def send() -> How:
            expected = not asked and self._is_expected(descriptor)
            with journal(self._record, self._where, descriptor, body) as notes:
                how = await self._destination.push_blob(descriptor, notes, expected=expected, journal=notes)
            if notes.resent is not None:
                self._resent[descriptor.digest] = notes.resent
            if self._remembers:
                self._record.remember_blob(self._where, descriptor.digest, descriptor.size)
            return how

        return await self._uploads.once(descriptor.digest, send)

    # -- manifests

    async def _write(self, package: Package, closure: Closure, image: Image) -> Tagged:
        """Config, then manifest. A registry that does not know a blob (yet) is asked, and given what it lacks."""
        tagged = Tagged(image.descriptor, pushed=True, missing=closure.missing)
        for tries_left in reversed(range(_MANIFEST_TRIES)):
            await self._send_once(image.config_descriptor, Memory(image.config))
            self._writing[package.id] = tagged
            try:
                await self._destination.push_manifest(package.tag, image.manifest, image.descriptor.media_type)
                break
            except RegistryError as error:
                if not tries_left or BLOB_UNKNOWN.isdisjoint(error.codes):
                    raise
            await self._sleep(_FIRST_WAIT_SECONDS * 2 ** (_MANIFEST_TRIES - 1 - tries_left))
            await self._restore(closure, image)
        del self._writing[package.id]
        self._remember(package, closure, image)
        return tagged

    async def _restore(self, closure: Closure, image: Image) -> None:
        """The registry says that a blob of this manifest is missing: trust no memory of it, ask, and send again."""
        descriptors = [image.config_descriptor, *(layer.descriptor for layer in closure.layers)]
        self._record.forget_blobs(self._where, [descriptor.digest for descriptor in descriptors])
        for descriptor in descriptors:
            before = self._uploads.find(descriptor.digest)
            if await self._destination.has_blob(descriptor):
                continue
            # One that ended before we asked did not last; one that has begun since may be another manifest's repair.
            if before is not None:
                self._uploads.forget(descriptor.digest, before)
            owner = self._owners.get(descriptor.digest)
            if owner is not None:
                async with self._contents.open(owner) as (layer, body):
                    await self._send_once(layer.descriptor, body)

    def _remember(self, package: Package, closure: Closure, image: Image) -> None:
        if not self._remembers:
            return
        manifest = RecordedManifest(image.descriptor.digest, closure.layers[-1].descriptor.digest)
        if self._record.manifest(self._where, package.tag) != manifest:  # to write takes longer than to look
            self._record.remember_manifest(self._where, package.tag, manifest)


def _tells(existing: Existing, layers: Sequence[Layer]) -> bool:
    """Whether the manifest alone says that it is ours, and names the layers in just this compression."""
    digests = existing.manifest.layer_digests
    return existing.ours and all(layer.descriptor.digest in digests for layer in layers)


def _named(existing: Existing, closure: Closure) -> tuple[Missing, ...]:
    """What the existing manifest says that it lacks; its annotation holds no names, so they are ours."""
    names = {missing.id: missing.name for missing in closure.missing}
    return tuple(replace(missing, name=names.get(missing.id, missing.name)) for missing in existing.missing)
