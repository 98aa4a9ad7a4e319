from __future__ import annotations

import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uploader.packing import tarball
from uploader.packing.tarball import BATCH_BYTES, DIRECTORY, HARD_LINK, REGULAR, SYMLINK, TarWriter, header

if TYPE_CHECKING:
    from pathlib import Path

MODES = {REGULAR: 0o644, HARD_LINK: 0o755, SYMLINK: 0o755, DIRECTORY: 0o755}
raw_names = st.one_of(
    st.binary(min_size=1, max_size=220),
    st.text(min_size=1, max_size=220).map(lambda text: text.encode("utf-8", "ignore")),
    st.integers(1, 300).map(lambda length: b"n" * length),
).map(lambda raw: raw.replace(b"\0", b"").strip(b"/") or b"x")
names = raw_names.map(lambda raw: raw.decode("utf-8", "surrogateescape"))
sizes = st.one_of(st.integers(0, 2**20), st.integers(8**11 - 2, 8**11 + 2), st.integers(0, 2**70))


def by_tarfile(name: str, kind: bytes, mode: int, size: int, target: str) -> bytes:
    info = tarfile.TarInfo(name.removesuffix("/"))
    info.type, info.mode, info.size, info.linkname = kind, mode, size, target
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@given(names, sizes)
@example("x" * 100, 8**11 - 1)
@example("x" * 101, 8**11)
@example("\udcff", 0)
@example("é" * 60, 0)
def test_a_file_header_is_what_tarfile_writes(name: str, size: int) -> None:
    assert header(name, REGULAR, 0o644, size) == by_tarfile(name, REGULAR, 0o644, size, "")


@given(names)
@example("d" * 99)
@example("d" * 100)
def test_a_directory_header_is_what_tarfile_writes(name: str) -> None:
    assert header(name + "/", DIRECTORY, 0o755) == by_tarfile(name, DIRECTORY, 0o755, 0, "")


@given(names, names, st.sampled_from([SYMLINK, HARD_LINK]))
@example("\udcff", "t" * 101, SYMLINK)
@example("n" * 101, "\udc80" * 101, HARD_LINK)
def test_a_link_header_is_what_tarfile_writes(name: str, target: str, kind: tarball.Type) -> None:
    assert header(name, kind, 0o755, 0, target) == by_tarfile(name, kind, 0o755, 0, target)


@pytest.mark.parametrize("length", [*range(80, 110), *range(970, 1010), *range(9_960, 10_010)])
def test_a_pax_record_counts_its_own_length(length: int) -> None:
    name = "n" * (length - 20) + "é"
    assert header(name, REGULAR, 0o644) == by_tarfile(name, REGULAR, 0o644, 0, "")


def written(*parts: bytes) -> tuple[bytes, list[int]]:
    batches: list[bytes] = []
    writer = TarWriter(lambda batch: batches.append(bytes(batch)))
    for part in parts:
        writer.write(part)
    writer.close()
    return b"".join(batches), [len(batch) for batch in batches]


@pytest.mark.parametrize("length", [0, 1, 19, 20, 511, 512, 513, 1024])
def test_the_end_is_padded_as_tarfile_does(length: int) -> None:
    files = [(f"f{index}", b"x" * 300) for index in range(length)]
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    parts = [header(name, REGULAR, 0o644, 300) + content + tarball.padding(300) for name, content in files]
    assert written(*parts)[0] == expected.getvalue()


@given(st.lists(st.integers(0, 3 * BATCH_BYTES), max_size=4))
@example([BATCH_BYTES, 1, BATCH_BYTES - 1])
def test_batches_are_full_however_the_content_comes(lengths: list[int]) -> None:
    parts = [bytes([index + 1]) * length for index, length in enumerate(lengths)]
    content, batches = written(*parts)
    assert content.startswith(b"".join(parts))
    assert set(batches[:-1]) <= {BATCH_BYTES}
    assert written(b"".join(parts)) == (content, batches)


def test_a_file_is_read_over_the_ends_of_batches(tmp_path: Path) -> None:
    content = os.urandom(2 * BATCH_BYTES + 17)
    (tmp_path / "file").write_bytes(content)
    seen = bytearray()
    out = bytearray()
    writer = TarWriter(out.extend)
    writer.write(b"h" * 512)
    with (tmp_path / "file").open("rb") as file:
        missing = writer.read_from(file.fileno(), len(content) + 5, seen.extend)
    writer.close()
    assert (missing, bytes(seen), bytes(out[512 : 512 + len(content)])) == (5, content, content)


def test_gnu_tar_reads_every_kind_of_name(tmp_path: Path) -> None:
    names = ["plain", "l" * 255, "/".join(["deep"] * 60), "ünïcode-名前", "latin-\udcfc"]
    stream = b"".join(header(name, REGULAR, 0o644, 3) + b"abc" + tarball.padding(3) for name in names)
    stream += header("link", SYMLINK, 0o755, 0, "t" * 300)
    archive = tmp_path / "archive.tar"
    archive.write_bytes(written(stream)[0])
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "out"], check=True, capture_output=True)
    assert all((tmp_path / "out" / name).read_bytes() == b"abc" for name in names)
    assert (tmp_path / "out" / "link").readlink().name == "t" * 300


def test_gnu_tar_reads_the_size_of_a_huge_file(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    archive.write_bytes(header("huge", REGULAR, 0o644, 9 * 2**30))
    listing = subprocess.run(["tar", "-tvf", archive], check=False, capture_output=True).stdout
    assert str(9 * 2**30).encode() in listing
