"""A limit of bytes per second over all that is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uploader.registry.timing import Timing

_PIECE_SECONDS: Final = 0.2


class Bandwidth:
    """First come, first served. Mutable: when what was let through will have been sent.

    A limit may lie `within` another one, which holds for others too: then both are kept.
    """

    def __init__(self, bytes_per_second: float, timing: Timing, *, within: Bandwidth | None = None) -> None:
        self._bytes_per_second = bytes_per_second
        self._timing = timing
        self._within = within
        self._free_at = timing.monotonic()

    def piece(self, most: int) -> int:
        """How much to send at once, so that it flows evenly: at most `most` bytes."""
        piece = max(1, min(most, int(self._bytes_per_second * _PIECE_SECONDS)))
        return self._within.piece(piece) if self._within else piece

    async def wait_for(self, count: int) -> None:
        """Wait until it is the turn of these bytes."""
        now = self._timing.monotonic()
        begin = max(now, self._free_at)
        self._free_at = begin + count / self._bytes_per_second
        while (wait := begin - self._timing.monotonic()) > 0:
            await self._timing.sleep(wait)
        if self._within is not None:
            await self._within.wait_for(count)
