"""A tree, packed into a layer in one pass: each file is read once, hashed, compressed and hashed again."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Protocol

from uploader.errors import SourceError, source_kind
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.packing import tarball
from uploader.packing.cancelling import IsCancelled, never, stop_if
from uploader.packing.tree import entries, folders_above, name_of, native, root_of, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from uploader.model.package import Tree
    from uploader.packing.codecs import Codec
    from uploader.packing.tree import Entry, Fingerprint

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY  # a fifo put there meanwhile must not block


class Extra(Protocol):
    """A regular file that is not in the tree; `path` is relative to its root."""

    @property
    def path(self) -> str: ...

    @property
    def mode(self) -> int: ...

    @property
    def content(self) -> bytes: ...


class Inspector(Protocol):
    """Sees what goes into a layer while it is read, so that a source need not read the files again.

    One inspector serves one tree, in one thread.
    """

    def skip(self, status: os.stat_result, /) -> bool:
        """Whether to leave out the file of this status, under all its names; asked before `start`, not of folders."""

    def start(self, entry: Entry, /) -> None:
        """The next entry, in the order of the layer; the entry before it has ended."""

    def feed(self, chunk: memoryview, /) -> None:
        """The next bytes of the regular file that was started; valid during the call only."""

    def trailer(self) -> Sequence[Extra]:
        """The layer's last entries, once all others were seen."""


def pack(
    tree: Tree,
    codec: Codec,
    out: BinaryIO,
    *,
    inspector: Inspector | None = None,
    seen: Fingerprint | None = None,
    parents: bool = True,
    cancelled: IsCancelled = never,
) -> Layer:
    """Write the layer of `tree` to `out`, a buffered binary file, and flush it. `seen` takes in all its entries.

    Memory: one batch of the tar (256 KiB), what it is compressed to, and the encoder's state: below 2 MiB for gzip,
    4 MiB for zstd at its default level, growing to 90 MiB at level 19; and the names of the folder at hand and of
    those still to come. Files of any size are streamed.

    Raises SourceError when a file cannot be read or is changed meanwhile, or `out` cannot be written; Cancelled.
    """
    sink = _Sink(codec, out, cancelled)
    writer = tarball.TarWriter(sink.take)
    root = root_of(tree)
    for name in folders_above(tree) if parents else ():
        writer.write(tarball.header(name + "/", tarball.DIRECTORY, 0o755))
    for entry in entries(tree):
        if seen is not None:
            seen.add(entry)
        if entry.kind == "directory":  # a folder of empty files fills no batch for a long time
            stop_if(cancelled)
        elif inspector is not None and inspector.skip(entry.status):
            continue
        if inspector is not None:
            inspector.start(entry)
        _write_entry(writer, entry)
        if entry.size:
            _write_file(writer, native(root, entry.path), entry, inspector.feed if inspector else None)
    for extra in inspector.trailer() if inspector else ():
        _write_extra(writer, name_of(tree), extra)
    writer.close()
    return sink.finish()


class _Sink:
    """Where the tar ends up: hashed, compressed, hashed, written."""

    def __init__(self, codec: Codec, out: BinaryIO, cancelled: IsCancelled) -> None:
        self._codec = codec
        self._out = out
        self._cancelled = cancelled
        self._encoder = codec.encoder() if codec.compression != "none" else None
        self._tar_hash = hashlib.sha256()
        self._blob_hash = hashlib.sha256() if self._encoder else self._tar_hash
        self._size = 0

    def take(self, batch: memoryview) -> None:
        stop_if(self._cancelled)
        self._tar_hash.update(batch)
        if self._encoder is None:
            self._write(batch)
        else:
            self._write_compressed(self._encoder.compress(batch))

    def finish(self) -> Layer:
        if self._encoder is not None:
            self._write_compressed(self._encoder.flush())
        try:
            self._out.flush()
        except OSError as error:
            raise _unwritable(error) from error
        blob = Digest("sha256", self._blob_hash.hexdigest())
        descriptor = Descriptor(self._codec.media_type, blob, self._size)
        return Layer(descriptor, Digest("sha256", self._tar_hash.hexdigest()))

    def _write_compressed(self, data: bytes) -> None:
        if data:
            self._blob_hash.update(data)
            self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        try:
            self._out.write(data)
        except OSError as error:
            raise _unwritable(error) from error
        self._size += len(data)


def _write_entry(writer: tarball.TarWriter, entry: Entry) -> None:
    match entry.kind:
        case "file":
            header = tarball.header(entry.name, tarball.REGULAR, entry.mode, entry.size)
        case "directory":
            header = tarball.header(entry.name + "/", tarball.DIRECTORY, entry.mode)
        case "symlink":
            header = tarball.header(entry.name, tarball.SYMLINK, entry.mode, 0, entry.target)
        case "hardlink":
            header = tarball.header(entry.name, tarball.HARD_LINK, entry.mode, 0, entry.target)
    writer.write(header)


def _write_file(
    writer: tarball.TarWriter, path: bytes, entry: Entry, feed: Callable[[memoryview], None] | None
) -> None:
    try:
        descriptor = os.open(path, _OPEN_FILE)
        try:
            missing = writer.read_from(descriptor, entry.size, feed)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable(path, error) from error
    if missing or _state(after) != _state(entry.status):
        raise SourceError(
            f"pack {os.fsdecode(path)!r}: it was changed while it was read; "
            "try again when nothing writes to it any more",
        )
    writer.write(tarball.padding(entry.size))


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What differs when it is another file, or was written to, or replaced, since."""
    return (status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _write_extra(writer: tarball.TarWriter, base: str, extra: Extra) -> None:
    name = f"{base}/{extra.path}" if base else extra.path
    writer.write(tarball.header(name, tarball.REGULAR, extra.mode, len(extra.content)))
    writer.write(extra.content)
    writer.write(tarball.padding(len(extra.content)))


def _unwritable(error: OSError) -> SourceError:
    return SourceError(
        f"write the packed layer: {os.strerror(error.errno or 0)}; free space, or choose another folder for "
        "temporary files",
        stage="pack",
        kind=source_kind(error),
    )
