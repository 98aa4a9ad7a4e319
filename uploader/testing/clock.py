"""Clock: time that passes only when somebody sleeps, for code that is handed its clock and its sleep."""

from __future__ import annotations

import anyio.lowlevel

from uploader.registry.timing import Timing


class Clock:
    """A clock that stands still until it is moved. `sleeps` are the waits that were asked for, in order."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.sleeps: list[float] = []

    def time(self) -> float:
        """The time in seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Return at once, with the clock moved on."""
        self.sleeps.append(seconds)
        self.now += seconds
        await anyio.lowlevel.checkpoint()

    @property
    def timing(self) -> Timing:
        """As the registry client wants it."""
        return Timing(monotonic=self.time, wall=self.time, sleep=self.sleep)
