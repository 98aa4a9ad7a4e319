"""Ready blobs: layers that somebody else packed; measured by reading them once, and read again to be sent."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

from uploader.errors import SourceError, source_kind
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.oci.media_types import LAYER_TYPE, Compression
from uploader.packing.cancelling import IsCancelled, never, stop_if
from uploader.packing.decoding import decoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from uploader.model.package import Blob

_READ_BYTES: Final = 1024 * 1024  # a hash lets go of the interpreter's lock, and waits for it again, once for each
_HEAD_BYTES: Final = 512  # a tar's first block
_NOTHING: Final = Digest.of(b"")
_SKIPPABLE = range(0x50, 0x60)  # zstd frames that hold no content begin with one of these


class FileBody:
    """An open regular file as content to send (`oci.http.Body`); it owns the file.

    It is read by offset, so the file's own position plays no part. A file that was written to since it was opened
    is noticed by size and time of change, and refused.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file
        self._opened = os.fstat(file.fileno())

    @classmethod
    def at(cls, path: Path) -> FileBody:
        """Open the file at `path`; raises SourceError."""
        try:
            file = io.FileIO(path, opener=_open_without_waiting)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise _unreadable(str(path), error) from error
        body = cls(file, str(path))
        if not stat.S_ISREG(body._opened.st_mode):
            body.close()
            raise SourceError(f"read {str(path)!r}: it is not a regular file")
        return body

    @property
    def size(self) -> int:
        """Its length in bytes when it was opened."""
        return self._opened.st_size

    @property
    def status(self) -> os.stat_result:
        """Its state when it was opened."""
        return self._opened

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; raises SourceError when the file no longer has them."""
        data = b""
        while len(data) < length:
            try:
                part = os.pread(self._file.fileno(), length - len(data), offset + len(data))
            except OSError as error:
                raise _unreadable(self.name, error) from error
            data = data + part if data else part
            if not part:
                raise self._too_short(offset + len(data))
        self.check_unchanged()
        return data

    def read_into(self, place: memoryview, offset: int) -> int:
        """Fill `place`, or the first part of it; returns how many bytes, at least one."""
        try:
            count = os.preadv(self._file.fileno(), [place], offset)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        if not count:
            raise self._too_short(offset)
        return count

    def check_unchanged(self) -> None:
        """Raise SourceError when the file was written to since it was opened."""
        now = os.fstat(self._file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise SourceError(
                f"read {self.name!r}: it was changed while it was in use; try again when nothing writes to it any more"
            )

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _too_short(self, end: int) -> SourceError:
        return SourceError(
            f"read {self.name!r}: it ends after {end} bytes, {self.size} were there when it was opened; "
            "it was changed meanwhile"
        )


def measure(file: FileBody, blob: Blob, *, check_diff_id: bool = False, cancelled: IsCancelled = never) -> Layer:
    """What layer `file` is: its digest, size, media type and diff ID, found in one reading.

    What `blob` says of digest and size is verified; its media type is kept; its diff ID is trusted unless
    `check_diff_id`. Holds less than 4 MiB; to decompress zstd, the frame's window too (128 MiB at most) and at the
    very worst 64 MiB. Raises SourceError; Cancelled.
    """
    if not file.size:
        raise SourceError(f"{file.name!r} is empty: even a layer without files is a tar of 1,024 zeros")
    if blob.size not in {None, file.size}:
        raise SourceError(f"{file.name!r} has {file.size} bytes, expected {blob.size}: it is not the file meant")
    wants_diff_id = blob.diff_id is None or check_diff_id
    compression = _sniff(file) if wants_diff_id or blob.media_type is None else "none"
    blob_hash = hashlib.new(_algorithm(blob.digest))
    tar_hash = blob_hash
    decode = None
    if wants_diff_id and (compression != "none" or _algorithm(blob.diff_id) != blob_hash.name):
        tar_hash = hashlib.new(_algorithm(blob.diff_id))

        def take(tar: bytes | memoryview) -> None:
            stop_if(cancelled)  # a chunk may hold a thousand times its size
            tar_hash.update(tar)

        decode = decoder(compression, take, file.name)
    for chunk in _chunks(file, cancelled):
        blob_hash.update(chunk)
        if decode is not None:
            decode.feed(chunk)
    file.check_unchanged()
    digest = _verified(f"{file.name!r} has digest", blob.digest, Digest(blob_hash.name, blob_hash.hexdigest()))
    if decode is not None:
        decode.finish()
    diff_id = blob.diff_id
    if diff_id is None or check_diff_id:
        found = Digest(tar_hash.name, tar_hash.hexdigest())
        if found == _NOTHING:
            raise SourceError(f"{file.name!r} holds no tar: its {compression} stream is empty")
        diff_id = _verified(f"the tar in {file.name!r} has diff ID", blob.diff_id, found)
    media_type = blob.media_type or LAYER_TYPE[compression]
    return Layer(Descriptor(media_type, digest, file.size), diff_id)


def _chunks(file: FileBody, cancelled: IsCancelled) -> Iterator[memoryview]:
    """The file's content, in a buffer that is used again."""
    buffer = memoryview(bytearray(min(_READ_BYTES, file.size)))
    offset = 0
    while offset < file.size:
        stop_if(cancelled)
        count = file.read_into(buffer[: file.size - offset], offset)
        yield buffer[:count]
        offset += count


def _sniff(file: FileBody) -> Compression:
    head = file.read(0, min(_HEAD_BYTES, file.size))
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] in _SKIPPABLE):
        return "zstd"
    if head[257:262] == b"ustar" or (len(head) == _HEAD_BYTES and not any(head)):
        return "none"
    raise SourceError(
        f"{file.name!r} is neither a tar nor a tar compressed by gzip or zstd (it begins with {head[:4].hex(' ')}); "
        "give a layer, or both its media_type and its diff_id"
    )


def _algorithm(digest: Digest | None) -> str:
    return digest.algorithm if digest is not None else "sha256"


def _verified(what: str, expected: Digest | None, found: Digest) -> Digest:
    if expected not in {None, found}:
        raise SourceError(f"{what} {found}, expected {expected}: the file is damaged, or not the one meant")
    return found


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)  # a fifo would wait for a writer


def _unreadable(name: str, error: OSError | ValueError) -> SourceError:
    if isinstance(error, OSError):
        return SourceError(f"read {name!r}: {error.strerror}", kind=source_kind(error))
    return SourceError(f"read {name!r}: {error}")
