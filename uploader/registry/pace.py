"""How fast one host is spoken to: requests in flight, and requests per second.

`PaceRules` decides, from what was answered and a clock that it is handed. In flight grows by one after a window (as
many answers as may be in flight) without pushback, and halves when the host pushes back; it is halved once for all
the requests that were in flight together. A window alone cannot hold a limit of requests per second, since one request
in flight on a fast network is already hundreds a second: for that there is the `RateCeiling`.

`Pace` waits: a request enters, and leaves with what came back. A wait that the host asked for holds everybody back.
Requests with a small body go first, save for every fourth place; large bodies leave two places for them.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from uploader.model.events import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from uploader.model.events import Emit
    from uploader.registry.timing import Timing

_FIRST_IN_FLIGHT = 16
_KEPT_FOR_SMALL = 2
_SMALL_BYTES = 1024 * 1024
_SMALL_IN_A_ROW = 3
_ANSWERS = 200
_SHORTEST_SPAN_SECONDS = 1.0
_REFUSED_SHARE = 0.02
_REFUSED_LEAST = 3
_CEILING_SHARE = 0.9
_SAFE_SHARE = 0.7
_FAST_GROWTH, _FAST_SECONDS = 1.2, 0.5
_PROBE_GROWTH, _PROBE_SECONDS = 1.05, 20.0
_SMALLEST_RATE = 0.5
_WHOLE_CREDIT = 1.0 - 1e-6  # sums of fractions fall a little short of one
_BURST_SECONDS = 0.1
_SAID_FROM_SECONDS = 1.0


class RateCeiling:
    """How many requests per second a host takes, found out from its refusals; none until it refuses some.

    A refusal now and then says nothing of a rate: only when more than a fiftieth of the last requests were refused does
    nine tenths of what was accepted meanwhile become the ceiling. Far below the rate that was refused it grows quickly
    again, so that a wrong guess costs seconds; near it, by a twentieth every 20 s.

    Mutable: the ceiling, the rate that was refused, the last answers, and the credit to send.
    """

    def __init__(self, now: float) -> None:
        self.rate: float | None = None
        self._safe_rate = 0.0
        self._answers: deque[tuple[float, bool]] = deque(maxlen=_ANSWERS)
        self._held_until = now
        self._held_seconds = 0.0
        self._credit = 0.0
        self._credit_at = now
        self._grown_at = now
        self._lowered_at = -1.0

    def wait_before(self, now: float) -> float:
        """Seconds until the next request may go out."""
        if self.rate is None:
            return 0.0
        burst = max(1.0, self.rate * _BURST_SECONDS)
        self._credit = min(burst, self._credit + max(0.0, now - self._credit_at) * self.rate)
        self._credit_at = max(now, self._credit_at)
        return 0.0 if self._credit >= _WHOLE_CREDIT else (1.0 - self._credit) / self.rate

    def went_out(self) -> None:
        """A request was sent."""
        if self.rate is not None:
            self._credit -= 1.0

    def accepted(self, now: float) -> None:
        """A request was answered."""
        self._answers.append((self._active(now), True))
        if self.rate is None:
            return
        if self.rate < self._safe_rate:
            if now - self._grown_at >= _FAST_SECONDS:
                self.rate, self._grown_at = min(self.rate * _FAST_GROWTH, self._safe_rate), now
        elif now - self._grown_at >= _PROBE_SECONDS:
            self.rate, self._grown_at = self.rate * _PROBE_GROWTH, now

    def refused(self, sent_at: float, now: float, again_at: float) -> None:
        """A request that was sent at `sent_at` was refused for its rate; none goes out before `again_at`."""
        if sent_at <= self._lowered_at:
            return  # it belongs to the rate before
        self._answers.append((self._active(now), False))
        self._held_seconds += max(0.0, again_at - max(now, self._held_until))
        self._held_until = max(self._held_until, again_at)
        accepted = sum(good for _, good in self._answers)
        refused = len(self._answers) - accepted
        if refused < _REFUSED_LEAST or refused < len(self._answers) * _REFUSED_SHARE:
            return
        span = self._answers[-1][0] - self._answers[0][0]
        seen = accepted / max(span, _SHORTEST_SPAN_SECONDS)
        asked = len(self._answers) / max(span, _SHORTEST_SPAN_SECONDS / 1000)
        self._safe_rate = _SAFE_SHARE * (asked if self.rate is None else self.rate)
        self.rate = max(_CEILING_SHARE * (seen if self.rate is None else min(seen, self.rate)), _SMALLEST_RATE)
        self._credit, self._credit_at, self._grown_at = 0.0, self._held_until, self._held_until
        self._lowered_at = now
        self._answers.clear()  # what follows is another rate

    def _active(self, now: float) -> float:
        """The time without that in which the host wanted to be left alone."""
        return max(now - self._held_seconds, self._answers[-1][0] if self._answers else 0.0)


class PaceRules:
    """Mutable: the window, and until when the host is left alone."""

    def __init__(self, most_in_flight: int, now: float) -> None:
        self._most = most_in_flight
        self.in_flight_limit = min(most_in_flight, _FIRST_IN_FLIGHT)
        self.ceiling = RateCeiling(now)
        self.held_until = now
        self._good = 0
        self._halved_at = -1.0

    def wait_before(self, now: float) -> float:
        """Seconds until the next request may go out, apart from the places in flight."""
        return max(0.0, self.held_until - now, self.ceiling.wait_before(now))

    def went_out(self) -> None:
        """A request was sent."""
        self.ceiling.went_out()

    def accepted(self, now: float) -> None:
        """The host answered without pushing back."""
        self.ceiling.accepted(now)
        self._good += 1
        if self._good >= self.in_flight_limit:
            self._good = 0
            self.in_flight_limit = min(self.in_flight_limit + 1, self._most)

    def pushed_back(self, sent_at: float, now: float, retry_after: float | None, *, limits_rate: bool) -> None:
        """The host refused a request that was sent at `sent_at`; `limits_rate`: because of too many of them."""
        if retry_after:
            self.held_until = max(self.held_until, now + retry_after)
        if limits_rate:
            self.ceiling.refused(sent_at, now, self.held_until)
        if sent_at <= self._halved_at:
            return  # sent before we slowed down: the same pushback
        self._halved_at = now
        self._good = 0
        self.in_flight_limit = max(1, self.in_flight_limit // 2)


class Visit:
    """One request's stay at the host. Mutable: how it went."""

    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.pushed_back = False
        self.retry_after: float | None = None
        self.limits_rate = False

    def push_back(self, retry_after: float | None, *, limits_rate: bool) -> None:
        """Say that the host refused this one for its number."""
        self.pushed_back, self.retry_after, self.limits_rate = True, retry_after, limits_rate


class Pace:
    """The queue before one host. Mutable: who is inside, and who waits."""

    def __init__(self, host: str, most_in_flight: int, *, timing: Timing, emit: Emit) -> None:
        self.rules = PaceRules(most_in_flight, timing.monotonic())
        self._host = host
        self._clock = timing.monotonic
        self._sleep = timing.sleep
        self.emit = emit
        self._inside = 0
        self._large_inside = 0
        self._small: deque[anyio.Event] = deque()
        self._large: deque[anyio.Event] = deque()
        self._small_in_a_row = 0
        self._said_until = 0.0

    @asynccontextmanager
    async def visit(self, size: int) -> AsyncIterator[Visit]:
        """Wait for a place, and hold it while a request with a body of `size` bytes is in flight."""
        large = size > _SMALL_BYTES
        await self._wait_for_place(large=large)
        try:
            while (wait := self.rules.wait_before(self._clock())) > 0:
                await self._sleep(wait)
            self.rules.went_out()
            visit = Visit(self._clock())
            yield visit
            self._learn(visit)
        finally:
            self._inside -= 1
            self._large_inside -= large
            self._wake()

    async def _wait_for_place(self, *, large: bool) -> None:
        if not self._has_place(large=large):
            queue = self._large if large else self._small
            turn = anyio.Event()
            queue.append(turn)
            try:
                await turn.wait()
            except BaseException:
                if turn.is_set():
                    self._give_back(large=large)
                else:
                    queue.remove(turn)
                raise
        else:
            self._take(large=large)

    def _has_place(self, *, large: bool) -> bool:
        limit = self.rules.in_flight_limit
        if self._inside >= limit:
            return False
        return not large or self._large_inside < max(1, limit - _KEPT_FOR_SMALL)

    def _take(self, *, large: bool) -> None:
        self._inside += 1
        self._large_inside += large

    def _give_back(self, *, large: bool) -> None:
        self._inside -= 1
        self._large_inside -= large
        self._wake()

    def _wake(self) -> None:
        """Hand free places on: the place is taken for the one who is woken."""
        while (queue := self._next_in_turn()) is not None:
            large = queue is self._large
            self._take(large=large)
            self._small_in_a_row = 0 if large else self._small_in_a_row + 1
            queue.popleft().set()

    def _next_in_turn(self) -> deque[anyio.Event] | None:
        """Small requests first, and every fourth place to a large body, which would starve otherwise."""
        large = bool(self._large) and self._has_place(large=True)
        if large and (not self._small or self._small_in_a_row >= _SMALL_IN_A_ROW):
            return self._large
        return self._small if self._small and self._has_place(large=False) else None

    def _learn(self, visit: Visit) -> None:
        now = self._clock()
        if not visit.pushed_back:
            self.rules.accepted(now)
            return
        self.rules.pushed_back(visit.sent_at, now, visit.retry_after, limits_rate=visit.limits_rate)
        wait = visit.retry_after or 0.0
        if wait >= _SAID_FROM_SECONDS and now + wait > self._said_until + _SAID_FROM_SECONDS:
            self._said_until = now + wait
            self.emit(Waiting(self._host, wait, "asks to wait"))
