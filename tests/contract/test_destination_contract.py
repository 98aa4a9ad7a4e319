"""What every destination does, whatever it is made of.

A *place* is one repository for the length of a test, which gives sessions with it: what the first one pushed,
the next one finds. Another destination is one more place in `PLACES`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import pytest

from uploader.errors import AbsentError, RegistryError, SourceError
from uploader.layout.folder import LayoutDestination
from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.model.reference import Registry, Repository, Tag
from uploader.oci.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from uploader.oci.profile import DEFAULT, Profile
from uploader.registry.asking import Asker, ClientSettings
from uploader.registry.client import RegistryClient
from uploader.registry.learnt import Limits, NoFacts
from uploader.registry.pace import Pace
from uploader.registry.timing import Timing
from uploader.registry.transport import Transport
from uploader.service.destination import Destination
from uploader.testing import DISTRIBUTION_2_8, SPEC, FakeRegistry, Quirks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Session = Callable[[], AbstractAsyncContextManager[Destination]]
Place = AbstractAsyncContextManager[Session]

ZLIB, CURL = Tag("zlib-1.3.1"), Tag("curl-8.9.0")
MORE_THAN_A_CHUNK = bytes(range(256)) * 9000


@asynccontextmanager
async def layout(test: pytest.FixtureRequest) -> AsyncIterator[Session]:
    folder: Path = test.getfixturevalue("tmp_path")

    def session() -> AbstractAsyncContextManager[Destination]:
        return LayoutDestination(folder / "layout")

    yield session


def fake(quirks: Quirks, profile: Profile = DEFAULT) -> Callable[[pytest.FixtureRequest], Place]:
    @asynccontextmanager
    async def place(_: pytest.FixtureRequest) -> AsyncIterator[Session]:
        async with FakeRegistry(quirks=quirks) as registry:
            yield registry_session(registry.host, "contract/cache", profile)

    return place


@asynccontextmanager
async def real(test: pytest.FixtureRequest) -> AsyncIterator[Session]:
    host: str = test.getfixturevalue("docker_registry_host")
    name = f"destination/{hashlib.sha256(test.node.name.encode()).hexdigest()[:20]}"
    yield registry_session(host, name, DEFAULT)


def registry_session(host: str, name: str, profile: Profile) -> Session:
    """Sessions with one repository: each is a client of its own."""
    timing, settings = Timing(), ClientSettings()

    def session() -> AbstractAsyncContextManager[Destination]:
        transport = Transport(
            f"http://{host}",
            connections=16,
            user_agent="uploader/test",
            timeouts=settings.timeouts,
            ca_file=None,
        )
        asker = Asker(
            Repository(Registry("http", host), name),
            transport=transport,
            pace=Pace(host, 16, timing=timing, emit=lambda _: None),
            credentials=None,
            limits=Limits(host, profile, NoFacts(), timing.wall),
            settings=settings,
            timing=timing,
        )
        return RegistryClient(asker)

    return session


PLACES: dict[str, Callable[[pytest.FixtureRequest], Place]] = {
    "layout": layout,
    "fake registry": fake(SPEC),
    "fake registry like distribution": fake(DISTRIBUTION_2_8),
    "fake registry, in chunks": fake(SPEC, Profile(chunk_bytes=1_000_000, self_mount=False)),
    "docker-registry": real,
}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest) -> Place:
    return PLACES[request.param](request)


@dataclass(frozen=True, slots=True)
class Bytes:
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


def described(content: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    return Descriptor(media_type, Digest.of(content), len(content))


async def pushed_manifest(destination: Destination, tag: Tag, name: str) -> bytes:
    """Push a small manifest with its config and layer; give its bytes.

    None of its blobs is another's: docker-registry does not know a blob for a moment while it is pushed once more.
    """
    config = json.dumps({"architecture": "amd64", "os": "linux", "author": name, "rootfs": {"type": "layers"}}).encode()
    layer = name.encode()
    for content in (config, layer):
        await destination.push_blob(described(content), Bytes(content), expected=False)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
            "layers": [{"mediaType": OCI_LAYER, "digest": str(Digest.of(layer)), "size": len(layer)}],
        },
        indent=1,
    ).encode()
    await destination.push_manifest(tag, manifest, OCI_MANIFEST)
    return manifest


async def tags(destination: Destination) -> list[Tag]:
    return sorted([tag async for tag in destination.tags()])


@pytest.mark.asyncio
async def test_a_new_repository_is_empty(place: Place) -> None:
    async with place as session, session() as destination:
        assert await destination.is_empty()
        with pytest.raises(AbsentError, match="list the tags of"):
            await tags(destination)


@pytest.mark.asyncio
async def test_what_is_not_there_is_none_or_false(place: Place) -> None:
    absent = described(b"never pushed")
    async with place as session, session() as destination:
        assert await destination.find_tag(ZLIB) is None
        assert await destination.read_manifest(ZLIB) is None
        assert await destination.read_manifest(absent.digest) is None
        assert await destination.read_blob(absent) is None
        assert not await destination.has_blob(absent)


@pytest.mark.asyncio
@pytest.mark.parametrize("expected", [False, True])
@pytest.mark.parametrize("content", [b"", b"small", MORE_THAN_A_CHUNK], ids=["empty", "small", "large"])
async def test_a_pushed_blob_is_there(place: Place, content: bytes, expected: bool) -> None:
    blob = described(content)
    async with place as session, session() as destination:
        assert await destination.push_blob(blob, Bytes(content), expected=expected) == "uploaded"
        assert await destination.has_blob(blob)
        assert await destination.read_blob(blob) == content


@pytest.mark.asyncio
async def test_a_blob_that_is_there_is_not_sent_again(place: Place) -> None:
    blob = described(b"layer")
    async with place as session:
        async with session() as destination:
            await destination.push_blob(blob, Bytes(b"layer"), expected=False)
        async with session() as destination:
            assert await destination.push_blob(blob, Bytes(b"layer"), expected=True) == "present"


@pytest.mark.asyncio
async def test_a_blob_that_is_there_unexpectedly_is_no_trouble(place: Place) -> None:
    """A destination may send it again rather than ask."""
    blob = described(b"layer")
    async with place as session, session() as destination:
        await destination.push_blob(blob, Bytes(b"layer"), expected=False)
        assert await destination.push_blob(blob, Bytes(b"layer"), expected=False) in {"uploaded", "present"}
        assert await destination.read_blob(blob) == b"layer"


@pytest.mark.asyncio
@pytest.mark.parametrize("content", [b"xxxxx", b"shrt", b"longer than it was"])
async def test_content_that_changed_is_refused(place: Place, content: bytes) -> None:
    blob = described(b"layer")
    async with place as session, session() as destination:
        with pytest.raises((SourceError, RegistryError)):
            await destination.push_blob(blob, Bytes(content), expected=False)
        assert not await destination.has_blob(blob)
        assert await destination.push_blob(blob, Bytes(b"layer"), expected=False) == "uploaded"


@pytest.mark.asyncio
async def test_the_same_blob_may_be_pushed_twice_at_once(place: Place) -> None:
    blob = described(MORE_THAN_A_CHUNK)

    async with place as session, session() as destination:

        async def push() -> None:
            await destination.push_blob(blob, Bytes(MORE_THAN_A_CHUNK), expected=False)

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(push)
        assert await destination.read_blob(blob) == MORE_THAN_A_CHUNK


@pytest.mark.asyncio
async def test_a_manifest_is_found_at_once_by_tag_and_by_digest(
    place: Place,
) -> None:
    async with place as session, session() as destination:
        manifest = await pushed_manifest(destination, ZLIB, "zlib")
        by_tag = await destination.read_manifest(ZLIB)
        by_digest = await destination.read_manifest(Digest.of(manifest))

        assert await destination.find_tag(ZLIB) == Digest.of(manifest)
        assert by_tag == by_digest
        assert by_tag is not None
        assert (by_tag.content, by_tag.media_type, by_tag.digest) == (manifest, OCI_MANIFEST, Digest.of(manifest))


@pytest.mark.asyncio
async def test_an_index_keeps_its_media_type(place: Place) -> None:
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    async with place as session, session() as destination:
        await destination.push_manifest(ZLIB, index, OCI_INDEX)
        stored = await destination.read_manifest(ZLIB)
        assert stored is not None
        assert stored.media_type == OCI_INDEX


@pytest.mark.asyncio
async def test_the_next_session_finds_what_was_pushed(place: Place) -> None:
    async with place as session:
        async with session() as destination:
            zlib = await pushed_manifest(destination, ZLIB, "zlib")
            curl = await pushed_manifest(destination, CURL, "curl")
        async with session() as destination:
            assert not await destination.is_empty()
            assert await tags(destination) == [CURL, ZLIB]
            assert await destination.find_tag(ZLIB) == Digest.of(zlib)
            assert await destination.find_tag(CURL) == Digest.of(curl)


@pytest.mark.asyncio
async def test_a_tag_can_be_moved(place: Place) -> None:
    async with place as session:
        async with session() as destination:
            first = await pushed_manifest(destination, ZLIB, "first")
            second = await pushed_manifest(destination, ZLIB, "second")
        async with session() as destination:
            assert await destination.find_tag(ZLIB) == Digest.of(second)
            assert await tags(destination) == [ZLIB]
            old = await destination.read_manifest(Digest.of(first))
            assert old is not None
            assert old.content == first


@pytest.mark.asyncio
async def test_manifests_pushed_at_once_all_arrive(place: Place) -> None:
    wanted = [Tag(f"package-{number:02}") for number in range(30)]
    async with place as session:
        async with session() as destination, anyio.create_task_group() as group:
            for tag in wanted:
                group.start_soon(pushed_manifest, destination, tag, str(tag))
        async with session() as destination:
            assert await tags(destination) == wanted
