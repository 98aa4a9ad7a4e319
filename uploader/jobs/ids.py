"""Ids of jobs: UUIDs of version 7, which sort by time."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING, Final

from uploader.jobs.base import JobId

if TYPE_CHECKING:
    from collections.abc import Callable

_RANDOM_BITS: Final = 74


class Ids:
    """Makes ids that only grow, also within a millisecond and when the clock is put back."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> JobId:
        """An id above all that were made here."""
        fresh = int(self._clock() * 1000) << _RANDOM_BITS | int.from_bytes(os.urandom(10)) >> 6
        self._last = max(fresh, self._last + 1)
        return _written(self._last)


def _written(number: int) -> JobId:
    """48 bits of time and 74 of chance, around the fixed bits of RFC 9562."""
    time_bits, a_bits, b_bits = number >> _RANDOM_BITS, number >> 62 & 0xFFF, number & (1 << 62) - 1
    return JobId(str(uuid.UUID(int=time_bits << 80 | 0x7 << 76 | a_bits << 64 | 0b10 << 62 | b_bits)))
