"""The pusher over a destination in memory, whose every upload is held: who shares what, and who is cancelled when."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import anyio
import anyio.abc
import pytest

from uploader.errors import RegistryError, SourceError, UnusableError, UploaderError
from uploader.graph.plan import Closure
from uploader.model.digest import Digest
from uploader.model.outcome import Done, How, Traffic
from uploader.model.package import Blob, Package, Tree
from uploader.oci.manifest import StoredManifest
from uploader.packing.codecs import find_codec
from uploader.record import NoRecord, Record
from uploader.service.contents import Contents, PackingRules
from uploader.service.images import ImageMaker
from uploader.service.push import PushRules, RepositoryPusher
from uploader.testing.packages import a_package, a_tar

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable

    from uploader.model.descriptor import Descriptor, Layer
    from uploader.model.events import Event
    from uploader.model.reference import Destination, Tag
    from uploader.oci.http import Body
    from uploader.oci.journal import Journal
    from uploader.sources.base import AddedFile, SeenEntry

CREATED = "1970-01-01T00:00:00Z"
LAYER = Digest.of(a_tar("same"))


@dataclass
class Held:
    """A destination in memory. While `hold` is set, uploads of the shared layer wait, and so do writes of manifests."""

    hold: bool = False
    layer_problems: list[UploaderError] = field(default_factory=list)
    manifest_problem: RegistryError | None = None
    question_problem: UploaderError | None = None
    blobs: set[Digest] = field(default_factory=set)
    manifests: dict[Tag, StoredManifest] = field(default_factory=dict)
    uploads: list[Digest] = field(default_factory=list)
    asked: list[Tag] = field(default_factory=list)
    release: anyio.Event = field(default_factory=anyio.Event)
    questions: list[anyio.Event] = field(default_factory=list)
    """The answers to these are on their way until each is set."""

    async def is_empty(self) -> bool:
        self._answer()
        return not self.manifests

    async def find_tag(self, tag: Tag) -> Digest | None:
        self.asked.append(tag)
        self._answer()
        return self.manifests[tag].digest if tag in self.manifests else None

    async def read_manifest(self, reference: Tag | Digest) -> StoredManifest | None:
        return next((one for tag, one in self.manifests.items() if reference in {tag, one.digest}), None)

    async def read_blob(self, descriptor: Descriptor) -> bytes | None:  # noqa: ARG002
        return None

    looking_is_free = False

    async def has_blob(self, descriptor: Descriptor) -> bool:
        answer = descriptor.digest in self.blobs
        if descriptor.digest == LAYER and self.questions:
            await self.questions.pop(0).wait()
        return answer

    async def copy_blob(self, descriptor: Descriptor, file: BinaryIO | None) -> bool:  # noqa: ARG002
        return descriptor.digest in self.blobs

    async def mount_blob(self, descriptor: Descriptor, source: Destination) -> bool:  # noqa: ARG002
        return False

    async def push_blob(
        self,
        descriptor: Descriptor,
        body: Body,  # noqa: ARG002
        *,
        expected: bool,  # noqa: ARG002
        journal: Journal | None = None,  # noqa: ARG002
    ) -> How:
        self.uploads.append(descriptor.digest)
        if descriptor.digest == LAYER:
            problem = self.layer_problems.pop(0) if self.layer_problems else None
            await self._wait()
            if problem is not None:
                raise problem
        self.blobs.add(descriptor.digest)
        return "uploaded"

    async def push_manifest(self, tag: Tag, content: bytes, media_type: str) -> None:
        if self.manifest_problem is not None:
            raise self.manifest_problem
        if LAYER not in self.blobs:
            raise RegistryError("no such blob", status=404, codes=["BLOB_UNKNOWN"])
        await self._wait()
        self.manifests[tag] = StoredManifest(content, media_type, Digest.of(content))

    def traffic(self) -> Traffic:
        return Traffic()

    async def tags(self) -> AsyncIterator[Tag]:
        for tag in self.manifests:
            yield tag

    async def _wait(self) -> None:
        if self.hold:
            await self.release.wait()

    def _answer(self) -> None:
        if self.question_problem is not None:
            raise self.question_problem


class Trio:
    """Three packages with files of their own and equal content, pushed at once, each in a scope of its own."""

    def __init__(self, folder: Path, destination: Held) -> None:
        self.destination = destination
        self.slept: list[float] = []
        self.events: list[Event] = []
        self.pusher = RepositoryPusher(
            destination,
            "somewhere",
            contents=Contents(NoRecord(), PackingRules(find_codec("gzip", None), "1")),
            record=NoRecord(),
            emit=self.events.append,
            images=ImageMaker(CREATED),
            rules=PushRules(),
            sleep=self._sleep,
        )
        self.packages = [self._package(folder, key) for key in ("one", "two", "three")]
        self.scopes = [anyio.CancelScope() for _ in self.packages]
        self.outcomes: list[Done | UploaderError | None] = [None, None, None]

    @staticmethod
    def _package(folder: Path, key: str) -> Package:
        path = folder / f"{key}.tar"
        path.write_bytes(a_tar("same"))
        blank = a_package(key)
        return Package(blank.id, key, "1", blank.tag, Blob(path))

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def push(self, which: int) -> None:
        with self.scopes[which]:
            try:
                self.outcomes[which] = await self.pusher.push_layer(self.packages[which])
            except UploaderError as error:
                self.outcomes[which] = error

    async def start(self, group: anyio.abc.TaskGroup) -> None:
        """The first one sends, the others wait for it."""
        for which in range(3):
            group.start_soon(self.push, which)
            await wait_until(lambda: len(self.events) > which)  # noqa: B023  (it has read its file)
            await anyio.wait_all_tasks_blocked()

    async def closure(self) -> Closure:
        done = await self.pusher.push_layer(self.packages[0])
        return Closure((done.layer,), ())


async def wait_until(condition: Callable[[], bool]) -> None:
    """Files are read in threads, which `wait_all_tasks_blocked` does not wait for."""
    with anyio.fail_after(30):
        while not condition():
            await anyio.wait_all_tasks_blocked()


def kinds(trio: Trio) -> list[type]:
    return [type(outcome) for outcome in trio.outcomes]


# -- equal content


@pytest.mark.asyncio
async def test_all_wait_for_one_upload(tmp_path: Path) -> None:
    trio = Trio(tmp_path, Held(hold=True))
    async with anyio.create_task_group() as group:
        await trio.start(group)
        assert kinds(trio) == [type(None)] * 3
        trio.destination.release.set()
    assert kinds(trio) == [Done, Done, Done]
    assert trio.destination.uploads == [LAYER]


@pytest.mark.asyncio
async def test_when_the_one_that_sends_is_cancelled_another_takes_over(tmp_path: Path) -> None:
    trio = Trio(tmp_path, Held(hold=True))
    async with anyio.create_task_group() as group:
        await trio.start(group)
        trio.scopes[0].cancel()
        await wait_until(lambda: trio.destination.uploads == [LAYER, LAYER])
        trio.destination.release.set()
    assert kinds(trio) == [type(None), Done, Done]
    assert trio.destination.uploads == [LAYER, LAYER]


@pytest.mark.asyncio
async def test_one_that_waits_may_be_cancelled_and_changes_nothing(tmp_path: Path) -> None:
    trio = Trio(tmp_path, Held(hold=True))
    async with anyio.create_task_group() as group:
        await trio.start(group)
        trio.scopes[1].cancel()
        await anyio.wait_all_tasks_blocked()
        trio.destination.release.set()
    assert kinds(trio) == [Done, type(None), Done]
    assert trio.destination.uploads == [LAYER]


@pytest.mark.asyncio
async def test_when_all_are_cancelled_nobody_is_left_waiting_and_the_next_one_sends(tmp_path: Path) -> None:
    trio = Trio(tmp_path, Held(hold=True))
    async with anyio.create_task_group() as group:
        await trio.start(group)
        group.cancel_scope.cancel()
    trio.destination.hold = False
    assert await trio.pusher.push_layer(trio.packages[0])
    assert LAYER in trio.destination.blobs


@pytest.mark.asyncio
@pytest.mark.parametrize("problem", [RegistryError("denied", status=403), UnusableError("gone")])
async def test_a_failure_of_the_upload_is_shared(tmp_path: Path, problem: UploaderError) -> None:
    trio = Trio(tmp_path, Held(hold=True, layer_problems=[problem]))
    async with anyio.create_task_group() as group:
        await trio.start(group)
        trio.destination.release.set()
    assert trio.outcomes == [problem, problem, problem]
    assert trio.destination.uploads == [LAYER]


@pytest.mark.asyncio
async def test_a_file_that_changes_while_it_is_sent_is_its_package_s_own_failure(tmp_path: Path) -> None:
    problem = SourceError("it was changed")
    trio = Trio(tmp_path, Held(hold=True, layer_problems=[problem]))
    async with anyio.create_task_group() as group:
        await trio.start(group)
        trio.destination.release.set()
    assert trio.outcomes[0] is problem
    assert kinds(trio)[1:] == [Done, Done]
    assert trio.destination.uploads == [LAYER, LAYER]


# -- manifests


@pytest.mark.asyncio
async def test_a_manifest_that_is_refused_for_its_blobs_is_tried_with_growing_waits(tmp_path: Path) -> None:
    unknown = RegistryError("no such blob", status=404, codes=["MANIFEST_BLOB_UNKNOWN"])
    trio = Trio(tmp_path, Held(manifest_problem=unknown))
    with pytest.raises(RegistryError, match="no such blob"):
        await trio.pusher.push_manifest(trio.packages[0], await trio.closure())
    assert trio.slept == [0.2, 0.4, 0.8, 1.6]


@pytest.mark.asyncio
async def test_a_manifest_that_is_refused_for_another_reason_is_not_tried_again(tmp_path: Path) -> None:
    trio = Trio(tmp_path, Held(manifest_problem=RegistryError("invalid", status=400, codes=["MANIFEST_INVALID"])))
    with pytest.raises(RegistryError, match="invalid"):
        await trio.pusher.push_manifest(trio.packages[0], await trio.closure())
    assert trio.slept == []


@pytest.mark.asyncio
@pytest.mark.parametrize("arrived", ["yes", "no", "another", "nobody knows"])
async def test_only_a_manifest_that_is_there_is_confirmed(tmp_path: Path, arrived: str) -> None:
    trio = Trio(tmp_path, Held())
    package, destination = trio.packages[0], trio.destination
    closure = await trio.closure()
    assert await trio.pusher.confirm_manifest(package) is None
    destination.hold = True
    async with anyio.create_task_group() as group:
        group.start_soon(trio.pusher.push_manifest, package, closure)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    destination.hold = False
    if arrived == "yes":
        await Trio(tmp_path, destination).pusher.push_manifest(package, closure)
    if arrived == "another":
        destination.manifests[package.tag] = StoredManifest(b"{}", "", Digest.of(b"{}"))
    if arrived == "nobody knows":
        destination.question_problem = RegistryError("500")
    confirmed = await trio.pusher.confirm_manifest(package)
    assert (confirmed is not None) == (arrived == "yes")
    assert confirmed is None or confirmed.pushed


@pytest.mark.asyncio
async def test_two_manifests_that_lack_a_blob_share_its_second_upload(tmp_path: Path) -> None:
    trio = Trio(tmp_path, Held())
    closure, destination = await trio.closure(), trio.destination
    destination.blobs.clear()
    destination.hold = True
    async with anyio.create_task_group() as group:
        for package in trio.packages[:2]:
            group.start_soon(trio.pusher.push_manifest, package, closure)
            await wait_until(lambda: destination.uploads.count(LAYER) == 2)
        await anyio.wait_all_tasks_blocked()
        destination.release.set()
    assert destination.uploads.count(LAYER) == 2
    assert len(destination.manifests) == 2


@pytest.mark.asyncio
async def test_an_answer_from_before_the_second_upload_does_not_cause_a_third(tmp_path: Path) -> None:
    trio = Trio(tmp_path, Held())
    closure, destination = await trio.closure(), trio.destination
    destination.blobs.clear()
    first, second = anyio.Event(), anyio.Event()
    destination.questions = [first, second]
    async with anyio.create_task_group() as group:
        for package in trio.packages[:2]:
            group.start_soon(trio.pusher.push_manifest, package, closure)
        await wait_until(lambda: not destination.questions)
        first.set()
        await wait_until(lambda: len(destination.manifests) == 1)
        second.set()
    assert destination.uploads.count(LAYER) == 2
    assert len(destination.manifests) == 2


# -- the beginning


@pytest.mark.asyncio
@pytest.mark.parametrize("problem", [None, RegistryError("cannot list")])
async def test_tags_are_asked_for_unless_the_repository_is_known_to_be_empty(
    tmp_path: Path, problem: RegistryError | None
) -> None:
    trio = Trio(tmp_path, Held(question_problem=problem))
    await trio.pusher.prepare()
    trio.destination.question_problem = None
    await trio.pusher.push_layer(trio.packages[0])
    assert trio.destination.asked == ([] if problem is None else [trio.packages[0].tag])


@pytest.mark.asyncio
async def test_a_tag_that_cannot_be_asked_for_fails_the_package_and_sends_nothing(tmp_path: Path) -> None:
    """Rule 10: nothing is taken for absent because asking failed."""
    trio = Trio(tmp_path, Held(question_problem=RegistryError("500")))
    with pytest.raises(RegistryError, match="500"):
        await trio.pusher.push_layer(trio.packages[0])
    assert trio.destination.uploads == []


# -- a tag that proves its package


@dataclass(frozen=True)
class Proven:
    """A format whose tags hold the package's hash; its layers are like any others."""

    name = "a format"
    library = "1"
    codecs = frozenset({"gzip"})
    tag_proves_content = True

    def inspector(self) -> Proven:
        return self

    def config(self, layer: Layer, /) -> dict[str, object]:  # noqa: ARG002
        return {}

    def skip(self, status: os.stat_result, /) -> bool:  # noqa: ARG002
        return False

    def start(self, entry: SeenEntry, /) -> None: ...

    def feed(self, chunk: memoryview, /) -> None: ...

    def trailer(self) -> tuple[AddedFile, ...]:
        return ()


@pytest.mark.asyncio
async def test_what_the_record_knows_of_a_tag_that_proves_its_package_needs_no_look_at_its_files(
    tmp_path: Path,
) -> None:
    """To look at the files of some hundred prefixes took longer than to ask for their tags."""
    prefix = tmp_path / "prefix"
    prefix.symlink_to(Path(json.__file__).parent)  # at rest for long, so that its layer is put on record
    blank = a_package("proven")
    package = Package(blank.id, "proven", "1", blank.tag, Tree(prefix, "/opt/proven"))
    destination, rules = Held(blobs={LAYER}), PackingRules(find_codec("gzip", None), "1", formats={blank.id: Proven()})
    with Record(tmp_path / "record") as record:

        async def push() -> tuple[Done, bool]:
            contents, images = Contents(record, rules), ImageMaker(CREATED)
            pusher = RepositoryPusher(
                destination, "here", contents=contents, images=images, record=record, emit=print, rules=PushRules()
            )
            await pusher.prepare()
            done = await pusher.push_layer(package)
            return done, (await pusher.push_manifest(package, Closure((done.layer,), ()))).pushed

        first, is_written = await push()
        assert (first.how, is_written) == ("uploaded", True)
        prefix.unlink()
        assert await push() == (Done(first.layer, "present"), False)
        destination.manifests[package.tag] = StoredManifest(b"{}", "of somebody else", Digest.of(b"{}"))
        with pytest.raises(SourceError, match="prefix"):
            await push()
