"""Time as something that is handed in: the clocks, and how to sleep."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(frozen=True, slots=True)
class Timing:
    """`monotonic` and `wall` in seconds; `sleep` for so many seconds.

    By default the event loop's clock counts, by which `sleep` waits: a loop with a clock of its own has it everywhere.
    """

    monotonic: Callable[[], float] = anyio.current_time
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
