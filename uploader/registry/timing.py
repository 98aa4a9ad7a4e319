"""Time as something that is handed in: the clocks, and how to sleep."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def loop_time() -> float:
    """The running event loop's clock; `anyio.current_time` finds out which library runs first, each time."""
    return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class Timing:
    """`monotonic` and `wall` in seconds; `sleep` for so many seconds.

    By default the event loop's clock counts, by which `sleep` waits: a loop with a clock of its own has it everywhere.
    """

    monotonic: Callable[[], float] = loop_time
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
