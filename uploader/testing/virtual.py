"""Virtual time: an event loop whose clock jumps when everybody waits, and one whose clock runs faster."""

from __future__ import annotations

import asyncio
import selectors
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_T = TypeVar("_T")


def run_in_virtual_time(
    function: Callable[..., Awaitable[_T]], *arguments: object, patience: float = 0.0
) -> tuple[_T, float]:
    """Run an async function; gives its result, and how many virtual seconds it took.

    All that waits by the loop's clock (`anyio.sleep`, deadlines, `anyio.current_time`) takes no real time, and
    the same program takes the same virtual time to the last digit. What works in threads, or waits for sockets, is out
    of place here: the clock does not know of it. With `patience` it may: so many real seconds are waited for them
    before the clock moves, and a hundred times that before it moves by more than a minute.
    """

    async def timed() -> tuple[_T, float]:
        began = anyio.current_time()
        result = await function(*arguments)
        return result, anyio.current_time() - began

    return anyio.run(timed, backend_options={"loop_factory": partial(_VirtualLoop, patience)})


class _VirtualLoop(asyncio.SelectorEventLoop):
    """Mutable: its clock, in seconds since it was made."""

    def __init__(self, patience: float) -> None:
        self.now = 0.0
        super().__init__(_VirtualSelector(partial(setattr, self, "now"), self.time, patience))

    def time(self) -> float:
        return self.now


class _VirtualSelector(selectors.SelectSelector):
    """Where a loop would wait for the next timer, it moves the clock there instead."""

    def __init__(self, set_clock: Callable[[float], None], clock: Callable[[], float], patience: float) -> None:
        super().__init__()
        self._patience = patience
        self._set_clock = set_clock
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Whatever is ready; raises RuntimeError when nothing ever will be."""
        ready = super().select(0)
        if not ready and timeout != 0 and self._patience:
            ready = super().select(self._patience * (1 if timeout is not None and timeout < 60 else 100))
        if not ready and timeout is None:
            raise RuntimeError("everything waits for something that never happens, or happens outside virtual time")
        if not ready and timeout:
            self._set_clock(self._clock() + timeout)
        return ready


def run_hurried(function: Callable[..., Awaitable[_T]], *arguments: object, speed: float) -> _T:
    """Run an async function whose waits and time limits take `speed` times less time than they say.

    Sockets and threads work as always. What waits for them has its limits shortened too: mind a slow machine.
    """
    return anyio.run(function, *arguments, backend_options={"loop_factory": lambda: HurriedLoop(speed)})


def set_speed(speed: float) -> None:
    """From now on the running loop, which must be one of `run_hurried`, is so fast; 1 is real time."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, HurriedLoop)
    loop.set_speed(speed)


class HurriedLoop(asyncio.SelectorEventLoop):
    """Mutable: how fast its clock runs, and what both clocks showed when that was set."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._ours = self._real = time.monotonic()
        super().__init__(_HurriedSelector(lambda: self._speed))

    def time(self) -> float:
        """Seconds, on its own clock."""
        return self._ours + (time.monotonic() - self._real) * self._speed

    def set_speed(self, speed: float) -> None:
        """Change it from now on."""
        self._ours, self._real = self.time(), time.monotonic()
        self._speed = speed


class _HurriedSelector(selectors.DefaultSelector):
    def __init__(self, speed: Callable[[], float]) -> None:
        super().__init__()
        self._faster_by = speed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout / self._faster_by() if timeout and timeout > 0 else timeout)
