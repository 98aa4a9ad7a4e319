"""The image layout folder: its files, its errors, and who else may be at work in it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from uploader.errors import InputError, RegistryError, SourceError, UnusableError
from uploader.layout.folder import LayoutDestination
from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.model.reference import Tag
from uploader.oci.media_types import OCI_LAYER, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable

REF_NAME = "org.opencontainers.image.ref.name"
LAYER = Descriptor(OCI_LAYER, Digest.of(b"layer"), 5)
MANIFEST = b'{"schemaVersion":2}'
A_DAY = 24 * 3600


class Content:
    """A body that calls `before` ahead of each read."""

    def __init__(self, content: bytes, before: Callable[[], None] = lambda: None) -> None:
        self._content = content
        self._before = before
        self.size = len(content)

    def read(self, offset: int, length: int) -> bytes:
        self._before()
        return self._content[offset : offset + length]


def ticking() -> Callable[[], float]:
    """A clock on which a second passes at each look: writing the index takes one, so nine follow without."""
    ticks = count()
    return lambda: float(next(ticks))


async def push(path: Path, *tags: str, content: bytes = MANIFEST) -> None:
    async with LayoutDestination(path) as destination:
        for tag in tags:
            await destination.push_manifest(Tag(tag), content, OCI_MANIFEST)


def index_of(path: Path) -> Any:
    return json.loads((path / "index.json").read_bytes())


def tags_of(path: Path) -> list[str | None]:
    return [entry.get("annotations", {}).get(REF_NAME) for entry in index_of(path)["manifests"]]


def files_below(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def a_layout(path: Path, index: object = None) -> Path:
    (path / "blobs" / "sha256").mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    content = index if isinstance(index, str) else json.dumps(index or {"schemaVersion": 2, "manifests": []})
    (path / "index.json").write_text(content)
    return path


@pytest.mark.asyncio
async def test_the_files_are_an_image_layout(tmp_path: Path) -> None:
    path = tmp_path / "new" / "layout"
    async with LayoutDestination(path) as destination:
        await destination.push_blob(LAYER, Content(b"layer"), expected=False)
        await destination.push_manifest(Tag("zlib"), MANIFEST, OCI_MANIFEST)

    digest = Digest.of(MANIFEST)
    assert json.loads((path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert index_of(path)["manifests"] == [
        {
            "mediaType": OCI_MANIFEST,
            "digest": str(digest),
            "size": len(MANIFEST),
            "annotations": {REF_NAME: "zlib"},
        }
    ]
    blobs = {f"blobs/sha256/{LAYER.digest.hex}", f"blobs/sha256/{digest.hex}"}
    assert files_below(path) == {".uploader-lock", "oci-layout", "index.json", *blobs}


@pytest.mark.asyncio
async def test_reading_makes_nothing(tmp_path: Path) -> None:
    async with LayoutDestination(tmp_path / "layout") as destination:
        assert await destination.is_empty()
        assert not await destination.has_blob(LAYER)
    assert not (tmp_path / "layout").exists()


@pytest.mark.asyncio
async def test_an_empty_folder_is_made_a_layout(tmp_path: Path) -> None:
    await push(tmp_path, "zlib")
    assert tags_of(tmp_path) == ["zlib"]


@pytest.mark.asyncio
async def test_entries_and_keys_of_others_are_kept(tmp_path: Path) -> None:
    nameless = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{'a' * 64}", "size": 7, "platform": {"os": "linux"}}
    named = {**nameless, "annotations": {REF_NAME: "docker.io/library/alpine:3"}}
    old = {**nameless, "annotations": {REF_NAME: "zlib", "x": "y"}}
    path = a_layout(tmp_path, {"schemaVersion": 2, "annotations": {"k": "v"}, "manifests": [old, nameless, named]})

    await push(path, "zlib")

    index = index_of(path)
    assert index["annotations"] == {"k": "v"}
    assert index["manifests"][:2] == [nameless, named]
    assert [entry["digest"] for entry in index["manifests"][2:]] == [str(Digest.of(MANIFEST))]


@pytest.mark.asyncio
@pytest.mark.parametrize("index", ['{"schemaVersion": 2, "manifests": null}', '{"schemaVersion": 2}'])
async def test_an_index_without_manifests_is_empty(tmp_path: Path, index: str) -> None:
    async with LayoutDestination(a_layout(tmp_path, index)) as destination:
        assert await destination.is_empty()


@pytest.mark.asyncio
async def test_a_lost_index_is_made_anew(tmp_path: Path) -> None:
    (a_layout(tmp_path) / "index.json").unlink()
    await push(tmp_path, "zlib")
    assert tags_of(tmp_path) == ["zlib"]


@pytest.mark.asyncio
async def test_sha512_has_a_folder_of_its_own(tmp_path: Path) -> None:
    blob = Descriptor(OCI_LAYER, Digest("sha512", hashlib.sha512(b"layer").hexdigest()), 5)
    async with LayoutDestination(tmp_path) as destination:
        assert await destination.push_blob(blob, Content(b"layer"), expected=False) == "uploaded"
        assert await destination.read_blob(blob) == b"layer"
    assert (tmp_path / "blobs" / "sha512" / blob.digest.hex).read_bytes() == b"layer"


@pytest.mark.asyncio
async def test_other_writers_tags_are_kept_and_ours_win(tmp_path: Path) -> None:
    async with LayoutDestination(tmp_path) as destination:
        await push(tmp_path, "theirs", "both", content=b"{}")
        await destination.push_manifest(Tag("ours"), MANIFEST, OCI_MANIFEST)
        await destination.push_manifest(Tag("both"), MANIFEST, OCI_MANIFEST)
    async with LayoutDestination(tmp_path) as destination:
        assert await destination.find_tag(Tag("theirs")) == Digest.of(b"{}")
        assert await destination.find_tag(Tag("ours")) == Digest.of(MANIFEST)
        assert await destination.find_tag(Tag("both")) == Digest.of(MANIFEST)


@pytest.mark.asyncio
async def test_a_tag_that_another_writer_moved_later_is_theirs(tmp_path: Path) -> None:
    async with LayoutDestination(tmp_path, clock=lambda: 0.0) as destination:
        await destination.push_manifest(Tag("both"), MANIFEST, OCI_MANIFEST)
        await push(tmp_path, "both", content=b"{}")
        await destination.push_manifest(Tag("ours"), MANIFEST, OCI_MANIFEST)
        assert await destination.find_tag(Tag("both")) == Digest.of(b"{}")
    assert tags_of(tmp_path) == ["both", "ours"]


WRITER = """
import sys
from pathlib import Path
import anyio
from uploader.layout.folder import LayoutDestination

async def main(path, name):
    async with LayoutDestination(Path(path), clock=lambda: 0.0) as destination:  # writes after every tag
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(40):
            await destination.push_manifest(f"{name}-{number:02}", b"{}", "application/vnd.oci.image.manifest.v1+json")

anyio.run(main, *sys.argv[1:])
"""


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "layout"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sorted(map(str, tags_of(path))) == [f"{name}-{number:02}" for name in "ab" for number in range(40)]


@pytest.mark.asyncio
async def test_what_others_wrote_meanwhile_is_seen(tmp_path: Path) -> None:
    async with LayoutDestination(tmp_path / "cache") as destination:
        assert await destination.is_empty()
        await push(tmp_path / "cache", "theirs")
        assert not await destination.is_empty()
        assert await destination.find_tag(Tag("theirs")) == Digest.of(MANIFEST)
        await push(tmp_path / "cache", "theirs", content=b'{"schemaVersion": 2}')
        assert await destination.find_tag(Tag("theirs")) == Digest.of(b'{"schemaVersion": 2}')
        assert [tag async for tag in destination.tags()] == ["theirs"]


@pytest.mark.asyncio
async def test_of_two_that_look_for_each_others_tags_the_second_finds_them(tmp_path: Path) -> None:
    """Each may have tags that its index.json does not have yet."""
    async with (
        LayoutDestination(tmp_path, clock=ticking()) as one,
        LayoutDestination(tmp_path, clock=ticking()) as other,
    ):
        for destination, name in ((one, "a"), (other, "b")):
            for number in range(3):
                await destination.push_manifest(Tag(f"{name}{number}"), MANIFEST, OCI_MANIFEST)
        assert {tag async for tag in one.tags()} >= {"a0", "a1", "a2"}
        assert {tag async for tag in other.tags()} == {"a0", "a1", "a2", "b0", "b1", "b2"}


@pytest.mark.asyncio
async def test_the_index_is_not_rewritten_for_every_tag(tmp_path: Path) -> None:
    writings = set()
    async with LayoutDestination(tmp_path, clock=ticking()) as destination:
        for number in range(50):
            await destination.push_manifest(Tag(f"tag-{number}"), MANIFEST, OCI_MANIFEST)
            assert await destination.find_tag(Tag(f"tag-{number}")) == Digest.of(MANIFEST)
            writings.add((tmp_path / "index.json").read_bytes())
        assert 4 <= len(writings) <= 6
    assert len(tags_of(tmp_path)) == 50


@pytest.mark.asyncio
async def test_a_cancelled_push_still_writes_its_tags(tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with LayoutDestination(tmp_path, clock=ticking()) as destination:
            await destination.push_manifest(Tag("first"), MANIFEST, OCI_MANIFEST)
            await destination.push_manifest(Tag("second"), MANIFEST, OCI_MANIFEST)
            assert tags_of(tmp_path) == ["first"]
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert tags_of(tmp_path) == ["first", "second"]


@pytest.mark.asyncio
async def test_a_cancelled_copy_ends_and_leaves_nothing(tmp_path: Path) -> None:
    content = bytes(5 << 20)
    reading, go_on = threading.Event(), threading.Event()
    reads = count()

    def before_read() -> None:
        next(reads)
        reading.set()
        go_on.wait(10)

    async with LayoutDestination(tmp_path) as destination, anyio.create_task_group() as group:
        blob = Descriptor(OCI_LAYER, Digest.of(content), len(content))

        async def copy() -> None:
            await destination.push_blob(blob, Content(content, before_read), expected=False)

        group.start_soon(copy)
        await anyio.to_thread.run_sync(reading.wait, 10)
        group.cancel_scope.cancel()
        go_on.set()
    assert next(reads) < 5
    assert files_below(tmp_path) == {".uploader-lock", "oci-layout", "index.json"}


@pytest.mark.asyncio
async def test_content_that_changed_is_the_sources_failure(tmp_path: Path) -> None:
    async with LayoutDestination(tmp_path) as destination:
        with pytest.raises(SourceError, match=r"changed since it was hashed"):
            await destination.push_blob(LAYER, Content(b"other"), expected=False)
    assert files_below(tmp_path) == {".uploader-lock", "oci-layout", "index.json"}


@pytest.mark.asyncio
async def test_a_truncated_blob_is_written_again(tmp_path: Path) -> None:
    blob = a_layout(tmp_path) / "blobs" / "sha256" / LAYER.digest.hex
    blob.write_bytes(b"la")
    async with LayoutDestination(tmp_path) as destination:
        assert not await destination.has_blob(LAYER)
        assert await destination.push_blob(LAYER, Content(b"layer"), expected=True) == "uploaded"
    assert blob.read_bytes() == b"layer"


@pytest.mark.asyncio
async def test_damaged_content_is_told_and_a_damaged_manifest_replaced(tmp_path: Path) -> None:
    await push(tmp_path, "zlib")
    stored = tmp_path / "blobs" / "sha256" / Digest.of(MANIFEST).hex
    stored.write_bytes(MANIFEST.upper())
    async with LayoutDestination(tmp_path) as destination:
        with pytest.raises(RegistryError, match="damaged"):
            await destination.read_manifest(Tag("zlib"))
        await destination.push_manifest(Tag("zlib"), MANIFEST, OCI_MANIFEST)
    assert stored.read_bytes() == MANIFEST


@pytest.mark.asyncio
async def test_a_large_blob_is_not_read_whole(tmp_path: Path) -> None:
    blob = a_layout(tmp_path) / "blobs" / "sha256" / LAYER.digest.hex
    with blob.open("wb") as file:
        file.truncate((16 << 20) + 1)
    async with LayoutDestination(tmp_path) as destination:
        with pytest.raises(RegistryError, match="too large"):
            await destination.read_blob(LAYER)


@pytest.mark.asyncio
async def test_temporary_files_of_dead_processes_are_swept(tmp_path: Path) -> None:
    blobs = a_layout(tmp_path) / "blobs" / "sha256"
    stale, young = blobs / ".uploader-tmp-1", blobs / ".uploader-tmp-2"
    for file in (stale, young, tmp_path / ".uploader-tmp-3", blobs / "foreign"):
        file.touch()
    for file in (stale, tmp_path / ".uploader-tmp-3", blobs / "foreign"):
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - A_DAY - 60))
    async with LayoutDestination(tmp_path):
        pass
    below_blobs = {f"blobs/sha256/{name}" for name in (young.name, "foreign")}
    assert files_below(tmp_path) == {"oci-layout", "index.json", *below_blobs}


@pytest.mark.asyncio
async def test_a_file_is_no_destination(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is not a folder"):
        await push(tmp_path / "file", "zlib")


@pytest.mark.asyncio
async def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds other things \(thesis.tex\)"):
        await push(tmp_path, "zlib")
    assert files_below(tmp_path) == {"thesis.tex"}


@pytest.mark.asyncio
@pytest.mark.parametrize("content", ['{"imageLayoutVersion": "2.0.0"}', "{}", "not JSON"])
async def test_an_unknown_layout_version_is_refused(tmp_path: Path, content: str) -> None:
    (a_layout(tmp_path) / "oci-layout").write_text(content)
    with pytest.raises(InputError, match="says version"):
        await push(tmp_path, "zlib")


BROKEN_ENTRY = json.dumps({"manifests": [{"digest": "sha256:12", "annotations": {REF_NAME: "zlib"}}]})


@pytest.mark.asyncio
@pytest.mark.parametrize("index", ["", "not JSON", "[]", '{"manifests": 3}', "[" * 100_000, BROKEN_ENTRY])
async def test_a_broken_index_is_not_an_empty_one(tmp_path: Path, index: str) -> None:
    (a_layout(tmp_path) / "index.json").write_text(index)
    with pytest.raises(UnusableError, match=r"index\.json is broken"):
        await push(tmp_path, "zlib")
    assert (tmp_path / "index.json").read_text() == index


@pytest.mark.asyncio
@pytest.mark.parametrize("size", ["1e999", "NaN", "-5", "true", "null", '"12"', "1.5", "[]"])
async def test_an_index_with_a_size_that_is_no_whole_number_is_broken(tmp_path: Path, size: str) -> None:
    entry = f'"mediaType": "{OCI_MANIFEST}", "digest": "sha256:{"a" * 64}", "size": {size}'
    a_layout(tmp_path, f'{{"manifests": [{{{entry}, "annotations": {{"{REF_NAME}": "zlib"}}}}]}}')
    with pytest.raises(UnusableError, match=r"the entry of tag 'zlib' is no descriptor"):
        await push(tmp_path, "zlib")


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
async def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    fifo = a_layout(tmp_path) / name
    fifo.unlink()
    os.mkfifo(fifo)
    writer = threading.Thread(target=_write_once_read, args=(fifo,))  # a reader that waits gets this, and not the error
    writer.start()
    try:
        with pytest.raises(UnusableError, match=f"{name} is not a regular file"):
            await push(tmp_path, "zlib")
    finally:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(reader)


def _write_once_read(fifo: Path) -> None:
    with suppress(BrokenPipeError):
        fifo.write_bytes(b"not JSON")


@pytest.mark.asyncio
async def test_an_index_that_broke_meanwhile_is_told_at_the_end(tmp_path: Path) -> None:
    async def push_while_it_breaks() -> None:
        async with LayoutDestination(a_layout(tmp_path)) as destination:
            (tmp_path / "index.json").write_text("not JSON")
            await destination.push_manifest(Tag("zlib"), MANIFEST, OCI_MANIFEST)

    with pytest.raises(UnusableError, match=r"1 tags are not in .*index\.json is broken"):
        await push_while_it_breaks()


@pytest.mark.asyncio
async def test_a_held_lock_delays_only_the_writing_of_the_index(tmp_path: Path) -> None:
    with (a_layout(tmp_path) / ".uploader-lock").open("ab") as lock:
        async with LayoutDestination(tmp_path) as destination:
            await destination.push_blob(LAYER, Content(b"layer"), expected=False)  # finds the layout complete
            fcntl.flock(lock, fcntl.LOCK_EX)
            await destination.push_manifest(Tag("zlib"), MANIFEST, OCI_MANIFEST)
            assert tags_of(tmp_path) == []
            fcntl.flock(lock, fcntl.LOCK_UN)
    assert tags_of(tmp_path) == ["zlib"]


@pytest.mark.asyncio
async def test_a_full_disk_is_one_blobs_failure(tmp_path: Path) -> None:
    def fill() -> None:
        """Fail in the middle of the copy as a full disk does."""
        assert len(list(tmp_path.glob("blobs/sha256/.uploader-tmp-*"))) == 1
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    async with LayoutDestination(tmp_path) as destination:
        with pytest.raises(RegistryError, match=r"No space left.*make room") as caught:
            await destination.push_blob(LAYER, Content(b"layer", fill), expected=False)
        assert caught.value.kind == "quota"
        assert not await destination.has_blob(LAYER)
        await destination.push_manifest(Tag("zlib"), MANIFEST, OCI_MANIFEST)
    assert tags_of(tmp_path) == ["zlib"]


@pytest.mark.asyncio
async def test_a_folder_that_may_not_be_written_is_unusable() -> None:
    """Below /sys nobody makes folders, root neither."""
    with pytest.raises(UnusableError, match="check owner and mode"):
        await push(Path("/sys/layout"), "zlib")
