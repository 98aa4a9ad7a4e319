"""The compressions that a layer can be packed with.

A codec's output depends on the tar, the level and the library, on nothing else. `gzip` (isal) may choose other
matches on another kind of CPU; where the layers of several machines must agree byte for byte, take `gzip-zlib`, which
is what Spack writes too.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

import zstandard
from isal import isal_zlib

from uploader.errors import InputError
from uploader.oci.media_types import LAYER_TYPE, Compression

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_GZIP_WINDOW: Final = 31  # 15, and 16 for gzip's header and trailer
_RAW_WINDOW: Final = -15
_GZIP_HEADER: Final = bytes.fromhex("1f8b 0800 00000000 00 ff")  # deflate, no time, no name, unknown system


class Encoder(Protocol):
    """One compressed stream under way."""

    def compress(self, data: memoryview, /) -> bytes:
        """What is ready after `data`."""

    def flush(self) -> bytes:
        """The end of the stream."""


@dataclass(frozen=True, slots=True)
class Codec:
    """A compression by name, the levels it takes, and the level to be used. Without levels it copies."""

    name: str
    compression: Compression
    level: int
    levels: range
    start: Callable[[int], Encoder]

    @property
    def media_type(self) -> str:
        """Of the layers it makes."""
        return LAYER_TYPE[self.compression]

    def encoder(self) -> Encoder:
        """A new stream."""
        return self.start(self.level)


def find_codec(name: str, level: int | None = None) -> Codec:
    """The codec of that name, at `level` or at its default level; raises InputError."""
    codec = CODECS.get(name)
    if codec is None:
        raise InputError(f"codec {name!r} is not known; choose one of {', '.join(CODECS)}")
    if level is None:
        return codec
    if not codec.levels:
        raise InputError(f"level {level}: codec {name} has no levels; leave it out")
    if level not in codec.levels:
        raise InputError(f"level {level}: codec {name} takes {codec.levels[0]} to {codec.levels[-1]}")
    return Codec(codec.name, codec.compression, level, codec.levels, codec.start)


def _isal(level: int) -> Encoder:
    encoder: Encoder = isal_zlib.compressobj(level, isal_zlib.DEFLATED, _GZIP_WINDOW)
    return encoder


def _zstd(level: int) -> Encoder:
    return zstandard.ZstdCompressor(level=level).compressobj()


class _GzipZlib:
    """gzip with the header that Spack writes; zlib's own would name the system."""

    def __init__(self, level: int) -> None:
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, _RAW_WINDOW)
        self._header = _GZIP_HEADER
        self._checksum = 0
        self._size = 0

    def compress(self, data: memoryview, /) -> bytes:
        self._checksum = isal_zlib.crc32(data, self._checksum)  # zlib's takes five times as long
        self._size += len(data)
        return self._take_header() + self._deflate.compress(data)

    def flush(self) -> bytes:
        trailer = struct.pack("<LL", self._checksum, self._size & 0xFFFFFFFF)
        return self._take_header() + self._deflate.flush() + trailer

    def _take_header(self) -> bytes:
        header, self._header = self._header, b""
        return header


class _Copy:
    """No compression. (A plain tar is its own layer; `pack` does not even copy it.)"""

    def __init__(self, level: int) -> None:
        """Take a level, as the others do, and ignore it."""

    def compress(self, data: memoryview, /) -> bytes:
        return bytes(data)

    def flush(self) -> bytes:
        return b""


# isal's level 0 is not offered: with its fixed codes, content that is compressed already grows by a fifth.
CODECS: Final[Mapping[str, Codec]] = MappingProxyType(
    {
        codec.name: codec
        for codec in (
            Codec("gzip", "gzip", 2, range(1, 4), _isal),
            Codec("gzip-zlib", "gzip", 6, range(1, 10), _GzipZlib),
            Codec("zstd", "zstd", 3, range(1, 20), _zstd),
            Codec("none", "none", 0, range(0), _Copy),
        )
    }
)
