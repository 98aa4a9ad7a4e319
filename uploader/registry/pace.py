"""How fast one host is spoken to: requests in flight, and requests per second.

`PaceRules` decides, from what was answered and a clock that it is handed. In flight grows by one after a window (as
many answers as may be in flight) without pushback, and halves when the host pushes back; it is halved once for all
the requests that were in flight together. A window alone cannot hold a limit of requests per second, since one request
in flight on a fast network is already hundreds a second: for that there are the ceilings (`ceiling.py`).

`Pace` waits: a request enters, and leaves with what came back. A wait that the host asked for holds everybody back.
Requests with a small body go first, save for every fourth place; large bodies leave two places for them.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio

from uploader.model.events import Waiting
from uploader.oci.profile import EVERY_REQUEST
from uploader.registry.ceiling import OwnBoard, RateCeiling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from uploader.model.events import Emit
    from uploader.oci.profile import Quota, RequestKind
    from uploader.registry.ceiling import Board, Bucket, HostPace
    from uploader.registry.timing import Timing

_FIRST_IN_FLIGHT = 16
_KEPT_FOR_SMALL = 2
_SMALL_BYTES = 1024 * 1024
_SMALL_IN_A_ROW = 3
_SAID_FROM_SECONDS = 1.0


class PaceRules:
    """Mutable: the window; the rest stands on the board, for all who talk to the host."""

    def __init__(self, most_in_flight: int, quotas: Sequence[Quota] = (), board: Board | None = None) -> None:
        self._most = most_in_flight
        self.in_flight_limit = min(most_in_flight, _FIRST_IN_FLIGHT)
        self._board = board or OwnBoard()
        self._ceilings = [RateCeiling(quota.name, quota.kinds, quota) for quota in quotas]
        rest = EVERY_REQUEST.difference(*(quota.kinds for quota in quotas))
        if rest:
            self._ceilings.append(RateCeiling("rest" if quotas else "all", rest))
        self._good = 0
        self._halved_at = -1.0

    def reserve(self, now: float, kind: RequestKind = "read") -> float:
        """Take a time for one request; gives it as seconds from now."""
        pace = self._board.read(now)
        concerned = self._concerned(kind)
        if all(ceiling.bucket(pace, now).rate is None for ceiling in concerned):
            return max(0.0, pace.held_until - now)
        waits: list[float] = []

        def take(pace: HostPace) -> HostPace:
            taken = {c.name: c.take(c.bucket(pace, now), now, pace.held_until) for c in concerned}
            waits[:] = [pace.held_until - now, *(wait for _, wait in taken.values())]
            return pace.with_buckets({name: bucket for name, (bucket, _) in taken.items()})

        self._board.change(now, take)
        return max(0.0, *waits)

    def held_for(self, now: float) -> float:
        """How long the host still wants to be left alone."""
        return max(0.0, self._board.read(now).held_until - now)

    def is_void(self, reserved_at: float, now: float) -> bool:
        """Whether a time that was taken then counts no more: the host wants to be left alone."""
        return self._board.read(now).held_at > reserved_at

    def rate(self, now: float, kind: RequestKind = "read") -> float | None:
        """How many requests per second are allowed; None while no limit is known."""
        pace = self._board.read(now)
        rates = [rate for c in self._concerned(kind) if (rate := c.bucket(pace, now).rate) is not None]
        return min(rates, default=None)

    def accepted(self, now: float, kind: RequestKind = "read") -> None:
        """The host answered without pushing back."""
        pace = self._board.read(now)
        for ceiling in self._concerned(kind):
            bucket = ceiling.bucket(pace, now)
            ceiling.note(bucket, now, good=True)
            if ceiling.grown(bucket, now) is not bucket:
                self._board.change(now, partial(_changed, ceiling, now, ceiling.grown))
        self._good += 1
        if self._good >= self.in_flight_limit:
            self._good = 0
            self.in_flight_limit = min(self.in_flight_limit + 1, self._most)

    def pushed_back(
        self,
        sent_at: float,
        now: float,
        retry_after: float | None,
        *,
        limits_rate: bool,
        kind: RequestKind = "read",
    ) -> None:
        """The host refused a request that was sent at `sent_at`; `limits_rate`: because of too many of them."""
        pace = self._board.read(now)
        if retry_after and now + retry_after > pace.held_until:
            pace = self._board.change(now, lambda pace: pace.held(now, now + retry_after))
        if limits_rate:
            self._rate_refused(sent_at, now, kind, pace)
        if sent_at <= self._halved_at:
            return  # sent before we slowed down: the same pushback
        self._halved_at = now
        self._good = 0
        self.in_flight_limit = max(1, self.in_flight_limit // 2)

    def _rate_refused(self, sent_at: float, now: float, kind: RequestKind, pace: HostPace) -> None:
        """It is the tightest limit that was run into."""
        ceiling = min(self._concerned(kind), key=lambda ceiling: len(ceiling.kinds))
        bucket = ceiling.bucket(pace, now)
        if sent_at <= bucket.lowered_at:
            return  # it belongs to the rate before
        ceiling.note(bucket, now, good=False)
        ceiling.note_hold(now, pace.held_until)
        if not ceiling.exceeded(bucket):
            if pace.held_until > now and ceiling.eased(bucket, now) is not bucket:
                self._board.change(now, partial(_changed, ceiling, now, ceiling.eased))
            return

        def lower(pace: HostPace) -> HostPace:
            bucket = ceiling.bucket(pace, now)
            if sent_at <= bucket.lowered_at:
                return pace  # somebody else did so meanwhile
            lowered = pace.with_buckets({ceiling.name: ceiling.lowered(bucket, now, pace.held_until)})
            return replace(lowered, held_at=now)

        self._board.change(now, lower)
        ceiling.forget_answers()

    def _concerned(self, kind: RequestKind) -> list[RateCeiling]:
        return [ceiling for ceiling in self._ceilings if kind in ceiling.kinds]


def _changed(ceiling: RateCeiling, now: float, change: Callable[[Bucket, float], Bucket], pace: HostPace) -> HostPace:
    return pace.with_buckets({ceiling.name: change(ceiling.bucket(pace, now), now)})


class Visit:
    """One request's stay at the host. Mutable: how it went."""

    def __init__(self, sent_at: float, kind: RequestKind) -> None:
        self.sent_at = sent_at
        self.kind = kind
        self.pushed_back = False
        self.retry_after: float | None = None
        self.limits_rate = False

    def push_back(self, retry_after: float | None, *, limits_rate: bool) -> None:
        """Say that the host refused this one for its number."""
        self.pushed_back, self.retry_after, self.limits_rate = True, retry_after, limits_rate


class Pace:
    """The queue before one host. Mutable: who is inside, and who waits.

    What is on the board is for other processes too, so its times are the wall's; but within a process they never jump.
    """

    def __init__(
        self,
        host: str,
        most_in_flight: int,
        *,
        timing: Timing,
        emit: Emit,
        quotas: Sequence[Quota] = (),
        board: Board | None = None,
    ) -> None:
        self.rules = PaceRules(most_in_flight, quotas, board)
        self._host = host
        self._monotonic = timing.monotonic
        self._began = timing.wall() - timing.monotonic()
        self._turn = {kind: anyio.Lock(fast_acquire=True) for kind in EVERY_REQUEST}
        self._sleep = timing.sleep
        self.emit = emit
        self._inside = 0
        self._large_inside = 0
        self._small: deque[anyio.Event] = deque()
        self._large: deque[anyio.Event] = deque()
        self._small_in_a_row = 0
        self._said_until = 0.0

    @asynccontextmanager
    async def visit(self, size: int, kind: RequestKind = "read") -> AsyncIterator[Visit]:
        """Wait for a place, and hold it while a request with a body of `size` bytes is in flight."""
        large = size > _SMALL_BYTES
        await self._wait_for_place(large=large)
        try:
            await self._wait_for_turn(kind)
            visit = Visit(self._clock(), kind)
            yield visit
            self._learn(visit)
        finally:
            self._inside -= 1
            self._large_inside -= large
            self._wake()

    @asynccontextmanager
    async def visit_for_others(self, kind: RequestKind) -> AsyncIterator[Visit]:
        """For a login, which those wait for who hold the places: it counts, and only waits where the host said so."""
        while (wait := self.rules.held_for(self._clock())) > 0:
            await self._sleep(wait)
        self.rules.reserve(self._clock(), kind)
        visit = Visit(self._clock(), kind)
        yield visit
        self._learn(visit)

    def _clock(self) -> float:
        return self._began + self._monotonic()

    async def _wait_for_turn(self, kind: RequestKind) -> None:
        """Until the time that it was given; a new one is asked for where the host wants to be left alone meanwhile.

        One at a time takes one, so that none are handed out far ahead at a rate that may change.
        """
        async with self._turn[kind]:
            while (wait := self.rules.reserve(reserved_at := self._clock(), kind)) > 0:
                await self._sleep(wait)
                if not self.rules.is_void(reserved_at, self._clock()):
                    return

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
            self.rules.accepted(now, visit.kind)
            return
        self.rules.pushed_back(visit.sent_at, now, visit.retry_after, limits_rate=visit.limits_rate, kind=visit.kind)
        wait = visit.retry_after or 0.0
        if wait >= _SAID_FROM_SECONDS and now + wait > self._said_until + _SAID_FROM_SECONDS:
            self._said_until = now + wait
            self.emit(Waiting(self._host, wait, "asks to wait"))
