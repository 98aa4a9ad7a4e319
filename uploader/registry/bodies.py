"""Bodies on their way out and in, and the watch over both: it ends a transfer that does not move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from aiohttp import payload

from uploader.errors import SourceError
from uploader.registry.timing import loop_time

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import AbstractStreamWriter

    from uploader.oci.http import Sink, Slice
    from uploader.registry.meter import Meter

_PIECE_BYTES = 256 * 1024
_QUICK_PIECE_BYTES = 1024 * 1024
_QUICK_SECONDS = 0.1
_PIECE_IN_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits in seconds. `answer`: after the body, plus a second per 10 MB of it.

    `stall`: so long may a piece of a body take (256 KiB on its way out, 1 MiB where that took no time; 64 KiB on its
    way in): a transfer that is slower than that, 1 to 4 kB/s, counts as stalled although some bytes still move.
    """

    connect: float = 8.0
    stall: float = 60.0
    answer: float = 120.0


class Watch:
    """Ends a request that makes no progress: its scope's deadline moves with every piece that goes out or comes in."""

    def __init__(self, timeouts: Timeouts, size: int) -> None:
        self._timeouts = timeouts
        self._left = size
        self._came_in = 0
        self._answer = timeouts.answer + size / 10e6
        self.scope = anyio.CancelScope(deadline=loop_time() + (timeouts.stall if size else self._answer))

    @property
    def complete(self) -> bool:
        """Whether the whole body has gone out."""
        return self._left <= 0

    def pause(self) -> None:
        """It is we who make it wait."""
        self.scope.deadline = math.inf

    def received(self, count: int) -> None:
        """A single byte now and then is no progress."""
        self._came_in += count
        if self._came_in >= _PIECE_IN_BYTES:
            self._came_in = 0
            self.scope.deadline = loop_time() + self._timeouts.stall

    def sent(self, count: int) -> float:
        """So many bytes more have gone out, now: the loop's time."""
        now = loop_time()
        self._left -= count
        self.scope.deadline = now + (self._timeouts.stall if self._left > 0 else self._answer)
        return now


class SliceBody(payload.Payload):
    """A request body that is read from its place in pieces, each handed on before the next is read."""

    def __init__(self, piece: Slice, watch: Watch, meter: Meter) -> None:
        super().__init__(piece, content_type="application/octet-stream")
        self._piece = piece
        self._watch = watch
        self._meter = meter
        self._size = piece.length

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 (aiohttp's signature)
        raise TypeError("a layer is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        offset, end = self._piece.offset, self._piece.offset + self._piece.length
        limit = self._meter.limit
        most = limit.piece(_PIECE_BYTES) if limit else _PIECE_BYTES
        began = loop_time()
        if limit is not None:
            writer.send_headers()  # before the wait for the body's turn, or a token may have ended when they arrive
        while offset < end:
            length = min(most, end - offset)
            content = self._piece.body.read(offset, length)
            if len(content) != length:
                raise SourceError(f"the content ended after {offset + len(content)} bytes: it became shorter")
            if limit is not None:
                self._watch.pause()
                await limit.wait_for(length)
                self._watch.sent(0)
            await writer.write(content)
            await writer.drain()
            offset += length
            now = self._watch.sent(length)
            self._meter.sent(length)
            if limit is None:  # what a piece costs us counts only where the network costs less
                most = _QUICK_PIECE_BYTES if now - began < _QUICK_SECONDS else _PIECE_BYTES
                began = now


async def read_body(response: aiohttp.ClientResponse, most: int, watch: Watch) -> bytes:
    """At most `most` bytes; a longer body costs the connection, not the memory."""
    if response.content_length == 0:
        return b""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        watch.received(len(chunk))
        if len(content) > most:
            response.close()
            break
    return bytes(content[:most])


async def pour(response: aiohttp.ClientResponse, sink: Sink, watch: Watch) -> None:
    """All of it into the sink, however long it is."""
    sink.begin()
    watch.received(_PIECE_IN_BYTES)  # it has begun
    async for chunk in response.content.iter_any():
        sink.write(chunk)
        watch.received(len(chunk))
