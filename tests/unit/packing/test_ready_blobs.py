from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tracemalloc
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import SourceError
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.model.package import Blob
from uploader.oci.media_types import DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from uploader.packing.cancelling import Cancelled
from uploader.packing.decoding import decoder
from uploader.packing.ready import FileBody, measure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from uploader.oci.http import Body
    from uploader.oci.media_types import Compression


def noise(size: int) -> bytes:
    """The same incompressible bytes every time."""
    return hashlib.shake_256(b"").digest(size)


def a_tar(size: int = 3_000_000) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("file")
        info.size = size
        archive.addfile(info, io.BytesIO(noise(size // 2) + bytes(size - size // 2)))
    return out.getvalue()


TAR = a_tar()
TAR_GZ = gzip.compress(TAR, 1)
TAR_ZST = zstandard.compress(TAR)
MEMBERS = b"".join(gzip.compress(TAR[at : at + 100_000], 1) for at in range(0, len(TAR), 100_000))
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0skip"
FRAMES = SKIPPABLE + b"".join(zstandard.compress(TAR[at : at + 100_000]) for at in range(0, len(TAR), 100_000))


def measured(folder: Path, content: bytes, *, check_diff_id: bool = False, **known: object) -> Layer:
    path = folder / "blob"
    path.write_bytes(content)
    file = FileBody.at(path)
    try:
        return measure(file, Blob(path, **known), check_diff_id=check_diff_id)  # type: ignore[arg-type]
    finally:
        file.close()


@pytest.mark.parametrize(
    ("content", "media_type", "tar"),
    [
        pytest.param(TAR, OCI_LAYER, TAR, id="tar"),
        pytest.param(bytes(10_240), OCI_LAYER, bytes(10_240), id="tar without entries"),
        pytest.param(TAR_GZ, OCI_LAYER_GZIP, TAR, id="gzip"),
        pytest.param(MEMBERS, OCI_LAYER_GZIP, TAR, id="gzip of many members"),
        pytest.param(TAR_GZ + bytes(100_000), OCI_LAYER_GZIP, TAR, id="gzip with padding"),
        pytest.param(TAR_ZST, OCI_LAYER_ZSTD, TAR, id="zstd"),
        pytest.param(FRAMES, OCI_LAYER_ZSTD, TAR, id="zstd of many frames"),
    ],
)
def test_what_is_not_known_is_found_out(tmp_path: Path, content: bytes, media_type: str, tar: bytes) -> None:
    expected = Layer(Descriptor(media_type, Digest.of(content), len(content)), Digest.of(tar))
    assert measured(tmp_path, content) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(gzip.compress(b""), "its gzip stream is empty", id="gzip of nothing"),
        pytest.param(zstandard.compress(b""), "its zstd stream is empty", id="zstd of nothing"),
    ],
)
def test_what_holds_no_tar_is_no_layer(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        measured(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TAR_GZ[:-1], id="gzip without its end"),
        pytest.param(TAR_GZ[:1000], id="gzip cut"),
        pytest.param(TAR_GZ[:11], id="gzip header only"),
        pytest.param(MEMBERS[:-1], id="last member cut"),
        pytest.param(TAR_GZ[:-6] + b"??" + TAR_GZ[-4:], id="gzip with a wrong checksum"),
        pytest.param(TAR_GZ + b"more", id="gzip with something behind"),
        pytest.param(TAR_GZ[:5000] + b"?" * 50 + TAR_GZ[5050:], id="gzip damaged"),
        pytest.param(TAR_ZST[:-1], id="zstd without its end"),
        pytest.param(TAR_ZST[:1000], id="zstd cut"),
        pytest.param(FRAMES[:-1], id="last frame cut"),
        pytest.param(TAR_ZST + b"more", id="zstd with something behind"),
        pytest.param(TAR_ZST[:4] + b"\xff" * 50 + TAR_ZST[54:], id="zstd damaged"),
    ],
)
def test_a_stream_that_is_not_intact_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceError, match=r"blob' is not intact: its (gzip|zstd) stream") as caught:
        measured(tmp_path, content)
    assert caught.value.stage == "read"


@pytest.mark.parametrize("content", [b"PK\3\4" + bytes(1000), b"text", bytes(511), b"\0" * 511 + b"x", b"\x1f"])
def test_what_is_no_layer_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceError, match="neither a tar nor a tar compressed by"):
        measured(tmp_path, content)


def test_an_unknown_format_is_taken_when_all_is_said_about_it(tmp_path: Path) -> None:
    layer = measured(tmp_path, b"BZh9", media_type="application/x-own", diff_id=Digest.of(TAR))
    assert layer == Layer(Descriptor("application/x-own", Digest.of(b"BZh9"), 4), Digest.of(TAR))


def test_a_given_media_type_is_kept(tmp_path: Path) -> None:
    layer = measured(tmp_path, TAR_GZ, media_type=DOCKER_LAYER_GZIP)
    assert (layer.descriptor.media_type, layer.diff_id) == (DOCKER_LAYER_GZIP, Digest.of(TAR))


def test_a_given_digest_and_size_that_fit_are_accepted(tmp_path: Path) -> None:
    layer = measured(tmp_path, TAR_GZ, digest=Digest.of(TAR_GZ), size=len(TAR_GZ))
    assert layer.descriptor == Descriptor(OCI_LAYER_GZIP, Digest.of(TAR_GZ), len(TAR_GZ))


def test_another_digest_than_the_given_one_is_an_error(tmp_path: Path) -> None:
    wrong = Digest.of(b"other")
    with pytest.raises(SourceError, match=f"has digest {Digest.of(TAR_GZ)}, expected {wrong}"):
        measured(tmp_path, TAR_GZ, digest=wrong, diff_id=Digest.of(TAR))


def test_another_size_than_the_given_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has 10240 bytes, expected 10241"):
        measured(tmp_path, bytes(10_240), size=10_241)


def test_sha512_is_checked_as_such_and_kept(tmp_path: Path) -> None:
    sha512 = Digest("sha512", hashlib.sha512(TAR).hexdigest())
    layer = measured(tmp_path, TAR, digest=sha512)
    assert layer == Layer(Descriptor(OCI_LAYER, sha512, len(TAR)), Digest.of(TAR))
    assert measured(tmp_path, TAR_GZ, diff_id=sha512, check_diff_id=True).diff_id == sha512


@pytest.mark.parametrize("content", [TAR, TAR_GZ, TAR_ZST])
def test_a_given_diff_id_is_trusted_unless_it_is_to_be_checked(tmp_path: Path, content: bytes) -> None:
    wrong = Digest.of(b"other")
    assert measured(tmp_path, content, diff_id=wrong).diff_id == wrong
    with pytest.raises(SourceError, match=f"diff ID {Digest.of(TAR)}, expected {wrong}"):
        measured(tmp_path, content, diff_id=wrong, check_diff_id=True)
    assert measured(tmp_path, content, diff_id=Digest.of(TAR), check_diff_id=True).diff_id == Digest.of(TAR)


def test_a_trusted_diff_id_saves_the_decompression(tmp_path: Path) -> None:
    layer = measured(tmp_path, TAR_GZ[:1000], diff_id=Digest.of(TAR))
    assert layer.descriptor == Descriptor(OCI_LAYER_GZIP, Digest.of(TAR_GZ[:1000]), 1000)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.truncate(path, 1_500_000),
        lambda path: path.write_bytes(TAR + bytes(512)),
        lambda path: os.utime(path, (5, 5)),
    ],
)
def test_a_file_that_changes_while_it_is_measured_is_an_error(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "blob"
    path.write_bytes(TAR)
    calls = iter([False])

    def change_in_the_middle() -> bool:
        if next(calls, True) and path.stat().st_size == len(TAR):
            change(path)
        return False

    file = FileBody.at(path)
    with pytest.raises(SourceError, match="changed"):
        measure(file, Blob(path), cancelled=change_in_the_middle)
    file.close()


def test_measuring_can_be_cancelled(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(TAR)
    file = FileBody.at(tmp_path / "blob")
    with pytest.raises(Cancelled):
        measure(file, Blob(tmp_path / "blob"), cancelled=lambda: True)
    file.close()


@pytest.mark.parametrize(
    ("bomb", "most"),
    [
        pytest.param(gzip.compress(bytes(300_000_000)), 8 * 2**20, id="gzip"),
        pytest.param(zstandard.compress(bytes(300_000_000)), 70 * 2**20, id="zstd"),
    ],
)
def test_memory_is_bounded_whatever_the_content_grows_to(tmp_path: Path, bomb: bytes, most: int) -> None:
    tracemalloc.start()
    try:
        assert measured(tmp_path, bomb).descriptor.size == len(bomb)
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@given(
    content=st.binary(max_size=2000), cut=st.integers(1, 300), damage=st.binary(max_size=3), place=st.integers(0, 99)
)
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_any_cut_gives_the_content_and_any_damage_ends(
    compression: Compression, content: bytes, cut: int, damage: bytes, place: int
) -> None:
    stream = gzip.compress(content) if compression == "gzip" else zstandard.compress(content)
    out = bytearray()
    decode = decoder(compression, out.extend, "blob")
    for at in range(0, len(stream), cut):
        decode.feed(memoryview(stream)[at : at + cut])
    decode.finish()
    assert bytes(out) == content
    damaged = stream[:place] + damage + stream[place + 1 :]
    decode = decoder(compression, lambda _: None, "blob")
    try:
        decode.feed(memoryview(damaged))
        decode.finish()
    except SourceError as error:
        assert "not intact" in str(error)  # noqa: PT017 (damage may also go unnoticed: in a time stamp, say)


def test_a_body_is_read_from_any_place_and_again(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(TAR)
    file = FileBody.at(tmp_path / "blob")
    body: Body = file
    assert body.size == len(TAR)
    assert body.read(700, 100_000) == TAR[700:100_700]
    assert body.read(0, len(TAR)) == TAR
    assert body.read(700, 10) == TAR[700:710]
    assert body.read(len(TAR), 0) == b""
    with pytest.raises(SourceError, match=f"ends after {len(TAR)} bytes"):
        body.read(len(TAR) - 10, 11)
    file.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.truncate(path, 100),
        lambda path: path.write_bytes(b"x" + TAR),
        lambda path: os.utime(path, (5, 5)),
    ],
)
def test_a_body_that_was_changed_is_not_sent(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "blob"
    path.write_bytes(TAR)
    file = FileBody.at(path)
    change(path)
    with pytest.raises(SourceError, match=r"blob.*changed"):
        file.read(50, 1000)
    file.close()


def test_a_body_outlives_the_name_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(TAR)
    file = FileBody.at(path)
    path.rename(tmp_path / "moved")
    (tmp_path / "moved").unlink()
    assert file.read(0, 512) == TAR[:512]
    file.close()


def test_a_temporary_file_can_be_a_body() -> None:
    temporary = TemporaryFile()  # noqa: SIM115
    temporary.write(b"content")
    temporary.flush()
    body = FileBody(temporary, "layer of p")
    assert (body.size, body.read(0, 7), temporary.tell()) == (7, b"content", 7)
    body.close()
    assert temporary.closed


def test_a_body_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "blob").open("wb") as write_only:
        body = FileBody(write_only, "blob")
        with pytest.raises(SourceError, match="read 'blob': Bad file descriptor"):
            body.read(0, 1)
        with pytest.raises(SourceError, match="read 'blob': Bad file descriptor"):
            body.read_into(memoryview(bytearray(1)), 0)


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (a_fifo, "not a regular file"),
    ],
)
def test_what_cannot_be_opened_is_an_error(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    make(tmp_path / "blob")
    with pytest.raises(SourceError, match=f"blob.*{reason}"):
        FileBody.at(tmp_path / "blob")


def test_measuring_can_be_cancelled_while_one_chunk_grows(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(gzip.compress(bytes(10_000_000)))
    file = FileBody.at(tmp_path / "blob")
    asked = iter([False, False, False, True])
    with pytest.raises(Cancelled):
        measure(file, Blob(tmp_path / "blob"), cancelled=lambda: next(asked))
    file.close()
