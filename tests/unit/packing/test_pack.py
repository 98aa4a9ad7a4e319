from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from uploader.errors import SourceError
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.model.package import Tree
from uploader.packing.cancelling import Cancelled
from uploader.packing.codecs import CODECS, Codec, find_codec
from uploader.packing.pack import pack
from uploader.packing.tarball import BATCH_BYTES
from uploader.packing.tree import Entry, Fingerprint, entries, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PLAIN = find_codec("none")


def noise(size: int) -> bytes:
    """The same incompressible bytes every time."""
    return hashlib.shake_256(b"").digest(size)


def layer_of(root: Path, codec: Codec = PLAIN, *, at: str = "/opt/p") -> tuple[Layer, bytes]:
    out = io.BytesIO()
    layer = pack(Tree(root, at), codec, out)
    return layer, out.getvalue()


def members(tar: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getmembers()


@dataclass(frozen=True)
class Extra:
    path: str
    mode: int
    content: bytes


@dataclass
class Recorder:
    """An inspector that writes down what it sees."""

    events: list[tuple[str, object]] = field(default_factory=list)
    extras: Sequence[Extra] = ()
    skipped: Path | None = None
    on_start: Callable[[Entry], object] = lambda _: None

    def skip(self, status: os.stat_result, /) -> bool:
        return self.skipped is not None and os.path.samestat(status, self.skipped.stat())

    def start(self, entry: Entry, /) -> None:
        self.events.append((entry.path, entry.target if entry.kind == "symlink" else entry.kind))
        self.on_start(entry)

    def feed(self, chunk: memoryview, /) -> None:
        self.events.append(("", bytes(chunk)))

    def trailer(self) -> Sequence[Extra]:
        return self.extras


def write_a_mixed_tree(root: Path, *, backwards: bool = False, umask: int = 0o022, mtime: int = 1) -> Path:
    """The same content, made in another order, under another umask, at another time."""
    files = {"bin/tool": b"#!", "a": b"x" * 700, "lib/deep/er/file": b"", "z é": b"\0" * 512, "n" * 120: b"long"}
    before = os.umask(umask)
    try:
        for name, content in sorted(files.items(), reverse=backwards):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
            os.utime(root / name, (mtime, mtime))
        (root / "bin" / "tool").chmod(0o777 & ~umask)
        (root / "empty").mkdir()
        names = ["hard", "lib/zz"]
        for name in names:
            (root / name).hardlink_to(root / "a")
        (root / "link").symlink_to("bin/tool")
    finally:
        os.umask(before)
    return root


@pytest.mark.parametrize("codec", [pytest.param(codec, id=name) for name, codec in CODECS.items()])
def test_the_same_content_makes_the_same_layer(tmp_path: Path, codec: Codec) -> None:
    one = write_a_mixed_tree(tmp_path / "one")
    other = write_a_mixed_tree(tmp_path / "other", backwards=True, umask=0o077, mtime=10**9)
    shutil.copytree(one, tmp_path / "copy" / "tree", symlinks=True)
    (tmp_path / "copy" / "tree" / "hard").unlink()
    (tmp_path / "copy" / "tree" / "hard").hardlink_to(tmp_path / "copy" / "tree" / "a")
    (tmp_path / "copy" / "tree" / "lib" / "zz").unlink()
    (tmp_path / "copy" / "tree" / "lib" / "zz").hardlink_to(tmp_path / "copy" / "tree" / "a")
    assert layer_of(one, codec) == layer_of(other, codec) == layer_of(tmp_path / "copy" / "tree", codec)


@pytest.mark.parametrize(
    ("parents", "expected"),
    [(True, ["opt", "opt/soft", "opt/soft/p", "opt/soft/p/file"]), (False, ["opt/soft/p", "opt/soft/p/file"])],
)
def test_folders_above_the_tree_come_first_or_not_at_all(tmp_path: Path, parents: bool, expected: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"x")
    out = io.BytesIO()
    pack(Tree(tmp_path, "/opt/soft/p"), PLAIN, out, parents=parents)
    assert [member.name for member in members(out.getvalue())] == expected


def test_a_changed_byte_makes_another_layer(tmp_path: Path) -> None:
    root = write_a_mixed_tree(tmp_path / "tree")
    before, _ = layer_of(root)
    (root / "z é").write_bytes(b"\1" + b"\0" * 511)
    assert layer_of(root)[0].diff_id != before.diff_id


@pytest.mark.parametrize("codec", [pytest.param(codec, id=name) for name, codec in CODECS.items()])
def test_digests_and_size_are_those_of_what_was_written(tmp_path: Path, codec: Codec) -> None:
    root = write_a_mixed_tree(tmp_path / "tree")
    (root / "large").write_bytes(noise(3 * BATCH_BYTES + 1))
    layer, blob = layer_of(root, codec)
    match codec.compression:
        case "gzip":
            tar = gzip.decompress(blob)
        case "zstd":
            tar = zstandard.ZstdDecompressor().decompressobj().decompress(blob)
        case _:
            tar = blob
    assert layer == Layer(Descriptor(codec.media_type, Digest.of(blob), len(blob)), Digest.of(tar))
    assert tar == layer_of(root)[1]


names = st.binary(min_size=1, max_size=40).filter(
    lambda name: not set(name) & set(b"\0/") and name not in {b".", b".."}
)
leaves = st.one_of(st.binary(max_size=1500), names.map(os.fsdecode), st.none())
trees = st.recursive(
    st.dictionaries(names, leaves, max_size=4), lambda below: st.dictionaries(names, below, max_size=4)
)


def write(root: bytes, content: object) -> None:
    """A dict is a folder, bytes are a file, text is a symlink, None is a fifo."""
    match content:
        case dict():
            Path(os.fsdecode(root)).mkdir()
            for name, below in content.items():
                write(root + b"/" + name, below)
        case bytes():
            Path(os.fsdecode(root)).write_bytes(content)
        case str():
            Path(os.fsdecode(root)).symlink_to(content)
        case None:
            os.mkfifo(root)


def a_folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.type = 0o755, tarfile.DIRTYPE
    return info


def by_tarfile(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.name)
    info.mode, info.size, info.linkname = entry.mode, entry.size, entry.target
    info.type = {
        "file": tarfile.REGTYPE,
        "directory": tarfile.DIRTYPE,
        "symlink": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE,
    }[entry.kind]
    return info


@settings(max_examples=60)
@given(trees.filter(lambda tree: isinstance(tree, dict)))
def test_any_tree_is_packed_as_tarfile_would(content: dict[bytes, object]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder) / "tree"
        write(os.fsencode(root), content)
        expected = io.BytesIO()
        with tarfile.open(
            fileobj=expected, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            archive.addfile(a_folder("opt"))
            for entry in entries(Tree(root, "/opt/p")):
                path = root / entry.path
                data = io.BytesIO(path.read_bytes()) if entry.kind == "file" else None
                archive.addfile(by_tarfile(entry), data)
        assert layer_of(root)[1] == expected.getvalue()


def test_gnu_tar_unpacks_what_was_packed(tmp_path: Path) -> None:
    root = write_a_mixed_tree(tmp_path / "tree")
    layer, blob = layer_of(root, find_codec("gzip"))
    assert layer.descriptor.size == len(blob)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xz", "-C", tmp_path / "out"], input=blob, check=True, capture_output=True)
    compared = subprocess.run(
        ["diff", "-r", "--no-dereference", root, tmp_path / "out" / "opt" / "p"], check=False, capture_output=True
    )
    assert (compared.returncode, compared.stdout) == (0, b"")
    assert (tmp_path / "out/opt/p/hard").samefile(tmp_path / "out/opt/p/a")


def test_a_sparse_file_is_streamed(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(40 * BATCH_BYTES)
    layer, blob = layer_of(tmp_path, find_codec("zstd"))
    assert layer.descriptor.size == len(blob) < BATCH_BYTES
    digest = hashlib.sha256()
    for chunk in zstandard.ZstdDecompressor().read_to_iter(blob):
        digest.update(chunk)
    assert layer.diff_id.hex == digest.hexdigest()


def test_an_inspector_sees_every_inode_once_in_order(tmp_path: Path) -> None:
    for name, content in {"a": b"one", "b/c": b"x" * 1000, "b/empty": b""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "link").symlink_to("to/where")
    recorder = Recorder()
    pack(Tree(tmp_path, "/opt/p"), PLAIN, io.BytesIO(), inspector=recorder)
    assert recorder.events == [
        ("", "directory"),
        ("a", "file"),
        ("", b"one"),
        ("hard", "hardlink"),
        ("link", "to/where"),
        ("b", "directory"),
        ("b/c", "file"),
        ("", b"x" * 1000),
        ("b/empty", "file"),
    ]


def test_an_inspector_gets_a_large_file_whole(tmp_path: Path) -> None:
    content = noise(3 * BATCH_BYTES)
    (tmp_path / "large").write_bytes(content)
    recorder = Recorder()
    pack(Tree(tmp_path, "/p"), PLAIN, io.BytesIO(), inspector=recorder)
    assert b"".join(chunk for _, chunk in recorder.events if isinstance(chunk, bytes)) == content


def test_an_inspector_replaces_a_file_by_one_at_the_end(tmp_path: Path) -> None:
    (tmp_path / ".meta").mkdir()
    for name in (".meta/made", ".meta/kept", "zz"):
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "aa").hardlink_to(tmp_path / ".meta/made")
    extras = [Extra(".meta/made", 0o644, b"fresh" * 200), Extra("tool", 0o755, b"#!")]
    out = io.BytesIO()
    seen = Fingerprint()
    layer = pack(
        Tree(tmp_path, "/p"), PLAIN, out, seen=seen, inspector=Recorder(skipped=tmp_path / ".meta/made", extras=extras)
    )
    assert seen.text == fingerprint(Tree(tmp_path, "/p")).text
    found = members(out.getvalue())
    assert [member.name for member in found] == ["p", "p/zz", "p/.meta", "p/.meta/kept", "p/.meta/made", "p/tool"]
    assert [(member.mode, member.size, member.isreg()) for member in found[-2:]] == [
        (0o644, 1000, True),
        (0o755, 2, True),
    ]
    assert layer.diff_id == Digest.of(out.getvalue())


def test_an_extra_file_of_a_tree_at_the_root_of_the_image_lies_there(tmp_path: Path) -> None:
    out = io.BytesIO()
    pack(Tree(tmp_path, "/"), PLAIN, out, inspector=Recorder(extras=[Extra("etc/made", 0o644, b"x")]))
    assert [member.name for member in members(out.getvalue())] == ["etc/made"]


def on_file(change: Callable[[Path], object], root: Path) -> Recorder:
    """Does something to the file between the walk and the reading of it."""
    return Recorder(on_start=lambda entry: change(root / "file") if entry.path == "file" else None)


def same_size_same_mtime(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"y" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap_for_link(path: Path) -> None:
    path.rename(path.with_name("original"))
    path.symlink_to("original")


def swap_for_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def swap_for_twin(path: Path) -> None:
    status = path.stat()
    path.rename(path.with_name("original"))
    path.write_bytes(b"y" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.write_bytes(b"longer than it was"), "was changed while"),
        (lambda path: path.write_bytes(b"short"), "was changed while"),
        (lambda path: os.utime(path, (5, 5)), "was changed while"),
        (same_size_same_mtime, "was changed while"),
        (swap_for_fifo, "was changed while"),
        (swap_for_twin, "was changed while"),
        (swap_for_link, "symbolic link"),
        (lambda path: path.unlink(), "vanished"),
    ],
)
def test_a_file_that_changes_meanwhile_is_an_error(
    tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(b"x" * 10)
    let_the_clock_move_on(root / "file", tmp_path / "clock")
    with pytest.raises(SourceError, match=f"file.*{reason}"):
        pack(Tree(root, "/p"), PLAIN, io.BytesIO(), inspector=on_file(change, root))


def let_the_clock_move_on(path: Path, clock: Path) -> None:
    """Until a file written now gets another time than `path` has; the grain of these times is some milliseconds."""
    clock.touch()
    while clock.stat().st_ctime_ns == path.stat().st_ctime_ns:
        clock.touch()


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3 * BATCH_BYTES)

    class Shrinks(Recorder):
        def feed(self, chunk: memoryview, /) -> None:
            os.truncate(tmp_path / "file", len(chunk))

    with pytest.raises(SourceError, match="was changed while") as caught:
        pack(Tree(tmp_path, "/p"), PLAIN, io.BytesIO(), inspector=Shrinks())
    assert caught.value.stage == "read"


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * BATCH_BYTES)
    full_disk = "write the packed layer: No space left"
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(SourceError, match=full_disk) as caught:
        pack(Tree(tmp_path, "/p"), PLAIN, full)
    assert (caught.value.stage, caught.value.kind) == ("pack", "quota")  # it passes: a job comes back


def test_a_disk_that_is_full_at_the_last_byte_is_told_too(tmp_path: Path) -> None:
    out = Path("/dev/full").open("wb")  # noqa: SIM115 (closing it fails, too)
    with pytest.raises(SourceError, match="No space left"):
        pack(Tree(tmp_path, "/p"), find_codec("gzip"), out)
    with pytest.raises(OSError, match="No space left"):
        out.close()


def test_packing_stops_between_batches_when_cancelled(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(20 * BATCH_BYTES))
    out = io.BytesIO()
    with pytest.raises(Cancelled):
        pack(Tree(tmp_path, "/p"), PLAIN, out, cancelled=lambda: out.tell() >= 2 * BATCH_BYTES)
    assert out.tell() == 2 * BATCH_BYTES


def test_packing_stops_between_folders_when_cancelled(tmp_path: Path) -> None:
    for index in range(5):
        (tmp_path / str(index)).mkdir()
    seen = Recorder()
    with pytest.raises(Cancelled):
        pack(Tree(tmp_path, "/p"), PLAIN, io.BytesIO(), inspector=seen, cancelled=lambda: len(seen.events) > 2)
    assert len(seen.events) == 3


@pytest.mark.parametrize("change", [swap_for_link, swap_for_twin])
def test_no_file_is_left_open_after_a_failure(tmp_path: Path, change: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_bytes(b"x")
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(SourceError):
        pack(Tree(tmp_path, "/p"), PLAIN, io.BytesIO(), inspector=on_file(change, tmp_path))
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
