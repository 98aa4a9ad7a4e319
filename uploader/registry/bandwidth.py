"""A limit of bytes per second over all that is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uploader.registry.timing import Timing

_PIECE_SECONDS: Final = 0.2


class Bandwidth:
    """First come, first served. Mutable: when what was let through will have been sent."""

    def __init__(self, bytes_per_second: float, timing: Timing) -> None:
        self._bytes_per_second = bytes_per_second
        self._timing = timing
        self._free_at = timing.monotonic()

    def piece(self, most: int) -> int:
        """How much to send at once, so that it flows evenly: at most `most` bytes."""
        return max(1, min(most, int(self._bytes_per_second * _PIECE_SECONDS)))

    async def wait_for(self, count: int) -> None:
        """Wait until it is the turn of these bytes."""
        now = self._timing.monotonic()
        begin = max(now, self._free_at)
        self._free_at = begin + count / self._bytes_per_second
        while (wait := begin - self._timing.monotonic()) > 0:
            await self._timing.sleep(wait)
