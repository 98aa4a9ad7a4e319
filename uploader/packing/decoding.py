"""Decompression of ready layers piece by piece, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import zstandard
from isal import igzip_lib

from uploader.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploader.oci.media_types import Compression

    Take = Callable[[bytes | memoryview], object]

_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_OUTPUT: Final = 64 * 1024  # from 128 KiB on, malloc takes fresh pages at each call: twice the time in all
_GZIP_PIECE: Final = 64 * 1024  # what follows the end of a member is copied: small, as some layers have many members
# zstandard gives all that a piece decompresses to at once, and each byte of it may become 32 KiB.
_ZSTD_PIECE: Final = 1024


class Decoder(Protocol):
    """Takes a compressed stream, gives what is in it to the function that it was made with."""

    def feed(self, chunk: memoryview, /) -> None:
        """Raises SourceError when the stream is corrupt."""

    def finish(self) -> None:
        """Raises SourceError when the stream has not ended."""


def decoder(compression: Compression, take: Take, name: str) -> Decoder:
    """A decoder that gives to `take`; `name` is the file's, for messages."""
    match compression:
        case "gzip":
            return _Gzip(take, name)
        case "zstd":
            return _Zstd(take, name)
        case "none":
            return _Plain(take)


class _Plain:
    def __init__(self, take: Take) -> None:
        self._take = take

    def feed(self, chunk: memoryview, /) -> None:
        self._take(chunk)

    def finish(self) -> None:
        """Any end is good."""


class _Gzip:
    """One or more members (RFC 1952); zeros behind them are padding, as for gzip(1)."""

    def __init__(self, take: Take, name: str) -> None:
        self._take = take
        self._name = name
        self._member = _new_member()

    def feed(self, chunk: memoryview, /) -> None:
        try:
            for start in range(0, len(chunk), _GZIP_PIECE):
                self._feed(bytes(chunk[start : start + _GZIP_PIECE]))
        except igzip_lib.error as error:  # type: ignore[misc]  # its stub declares an instance
            raise _corrupt("gzip", self._name, error) from error

    def finish(self) -> None:
        if not self._member.eof:
            raise _truncated("gzip", self._name)

    def _feed(self, data: bytes) -> None:
        while data:
            if self._member.eof:
                data = data.lstrip(b"\0")
                if not data:
                    return
                if data[0] != _GZIP_MAGIC[0]:
                    raise SourceError(f"{self._name!r} is not intact: its gzip stream is followed by something else")
                self._member = _new_member()
            self._take(self._member.decompress(data, _GZIP_OUTPUT))
            while not (self._member.eof or self._member.needs_input):
                self._take(self._member.decompress(b"", _GZIP_OUTPUT))
            data = self._member.unused_data if self._member.eof else b""


class _Zstd:
    """One or more frames (RFC 8878)."""

    def __init__(self, take: Take, name: str) -> None:
        self._take = take
        self._name = name
        self._context = zstandard.ZstdDecompressor()
        self._frame = self._context.decompressobj()

    def feed(self, chunk: memoryview, /) -> None:
        try:
            for start in range(0, len(chunk), _ZSTD_PIECE):
                self._feed(chunk[start : start + _ZSTD_PIECE])
        except zstandard.ZstdError as error:
            raise _corrupt("zstd", self._name, error) from error

    def finish(self) -> None:
        if not self._frame.eof:
            raise _truncated("zstd", self._name)

    def _feed(self, data: bytes | memoryview) -> None:
        while data:
            if self._frame.eof:
                self._frame = self._context.decompressobj()
            self._take(self._frame.decompress(data))
            data = self._frame.unused_data if self._frame.eof else b""


def _new_member() -> igzip_lib.IgzipDecompressor:
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


def _corrupt(format_name: str, name: str, error: Exception) -> SourceError:
    return SourceError(f"{name!r} is not intact: its {format_name} stream cannot be decompressed ({error})")


def _truncated(format_name: str, name: str) -> SourceError:
    return SourceError(f"{name!r} is not intact: its {format_name} stream ends in the middle")
