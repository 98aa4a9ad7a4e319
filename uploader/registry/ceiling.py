"""How many requests per second a host takes: by a quota that is known, or found out from its refusals.

What is decided is a value, `HostPace`, which all who talk to the host share: the requests of one push, of several in
one process, and, where it is kept in the local record, of all processes of this machine. So two pushes together keep
to one limit, and a later one begins with what an earlier one found out. A `Board` holds it; each `RateCeiling` changes
its own bucket there, and keeps for itself how its own requests were answered. Times are seconds of one clock, the
wall's.

A request reserves its place: the bucket hands out times in turn, so nobody asks twice, and nobody is overtaken.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from uploader.oci.profile import Quota, RequestKind

_ANSWERS: Final = 200
_SPAN_SECONDS: Final = 1.0
_REFUSED_SHARE: Final = 0.02
_REFUSED_LEAST: Final = 3
_CEILING_SHARE: Final = 0.9
_PROVEN_SHARE: Final = 0.97
_TRIED_SHARE: Final = 0.95
_EASED_SHARE: Final = 0.95
_SAMPLE: Final = 10
_STEP, _LARGE_STEP, _SMALL_STEP = 1.25, 2.0, 1.05
_STEP_SECONDS, _SMALL_STEP_SECONDS = 1.0, 20.0
_SMALLEST_RATE: Final = 0.5
_BURST, _BURST_SECONDS = 2.0, 0.02  # what is made up for when a timer went off late
_QUOTA_SHARE: Final = 0.9
_QUOTA_BURST: Final = 0.05  # together below the quota in every span of its length, with room for uneven travel
_FORGET_SECONDS: Final = 24 * 3600.0
FARTHEST_SECONDS: Final = 2 * 3600.0
"""A wait that ends later than that was written down at a clock that went wrong."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests per second of some kinds; no `rate`: no limit is known.

    `proven`: a rate that was used up for a while without a refusal; 0 = none yet. `step`: the factor by which it grows
    next. `free_at`: the next time that is free. `taken`: how many were handed out. `grown_at`: since when the rate
    holds.
    """

    rate: float | None = None
    proven: float = 0.0
    step: float = _SMALL_STEP
    free_at: float = -math.inf
    taken: int = 0
    grown_at: float = 0.0
    lowered_at: float = -1.0


_NEW: Final = Bucket()


@dataclass(frozen=True, slots=True)
class HostPace:
    """What everybody knows of a host: until when it is left alone, since when that is known, and the buckets."""

    held_until: float = -math.inf
    held_at: float = -1.0
    buckets: Mapping[str, Bucket] = field(default_factory=lambda: MappingProxyType({}))

    def bucket(self, name: str) -> Bucket:
        """The bucket of that name; a new one if there is none."""
        return self.buckets.get(name, _NEW)

    def with_buckets(self, buckets: Mapping[str, Bucket]) -> HostPace:
        """The same with these."""
        return replace(self, buckets=MappingProxyType({**self.buckets, **buckets}))

    def held(self, now: float, until: float) -> HostPace:
        """Leave the host alone until then: times that were handed out before are void."""
        if until <= self.held_until:
            return self
        buckets = {name: replace(bucket, free_at=until) for name, bucket in self.buckets.items()}
        return replace(self, held_until=until, held_at=now).with_buckets(buckets)


class Board(Protocol):
    """Where the host's pace stands."""

    def read(self, now: float) -> HostPace:
        """It, as it was a moment ago at the most."""

    def change(self, now: float, update: Callable[[HostPace], HostPace]) -> HostPace:
        """Change it, with nobody between; gives what it is then. `update` may be called more than once."""


class OwnBoard:
    """A board for one process alone. Mutable: the pace."""

    def __init__(self) -> None:
        self._pace = HostPace()

    def read(self, now: float) -> HostPace:  # noqa: ARG002 - it is always up to date
        """It, as it is."""
        return self._pace

    def change(self, now: float, update: Callable[[HostPace], HostPace]) -> HostPace:  # noqa: ARG002
        """Change it."""
        self._pace = update(self._pace)
        return self._pace


class RateCeiling:
    """One limit of requests per second on requests of some kinds.

    A refusal now and then says nothing of a rate. Where no limit is known, more than a fiftieth of the last requests
    must be refused: nine tenths of what was accepted in a second becomes the ceiling. From there it grows every second,
    by a step that every refusal makes smaller, until it is probed by a twentieth every 20 s; and only while it is used
    up. A refusal at such a probe leads back to the rate that has proven itself; at one that has, it takes many again,
    and the first that makes everybody wait only takes a little off. A quota that is known is a ceiling from the
    beginning, which it never outgrows.

    Mutable: how the last requests of this process were answered.
    """

    def __init__(self, name: str, kinds: frozenset[RequestKind], quota: Quota | None = None) -> None:
        self.name = name
        self.kinds = kinds
        self._most = _QUOTA_SHARE * quota.requests / quota.seconds if quota else None
        self._quota_burst = max(1.0, _QUOTA_BURST * quota.requests) if quota else 1.0
        self._answers: deque[tuple[float, bool, int]] = deque(maxlen=_ANSWERS)
        self._held_until = 0.0
        self._held_seconds = 0.0

    def bucket(self, pace: HostPace, now: float) -> Bucket:
        """Its bucket; what was learnt long ago, or at a clock that went wrong, is forgotten."""
        bucket = pace.bucket(self.name)
        learnt = bucket.lowered_at >= 0
        if (learnt and bucket.lowered_at < now - _FORGET_SECONDS) or bucket.free_at > now + FARTHEST_SECONDS:
            bucket = _NEW
        if self._most is not None and (bucket.rate is None or bucket.rate > self._most):
            bucket = replace(bucket, rate=self._most)
        return bucket

    def take(self, bucket: Bucket, now: float, held_until: float) -> tuple[Bucket, float]:
        """The next free time is taken; gives it as seconds from now."""
        if bucket.rate is None:
            return bucket, 0.0
        burst = self._quota_burst if bucket.rate == self._most else max(_BURST, bucket.rate * _BURST_SECONDS)
        at = max(bucket.free_at, now - (burst - 1.0) / bucket.rate, held_until)
        return replace(bucket, free_at=at + 1.0 / bucket.rate, taken=bucket.taken + 1), max(0.0, at - now)

    def note(self, bucket: Bucket, now: float, *, good: bool) -> None:
        """A request was answered."""
        self._answers.append((self._active(now), good, bucket.taken))

    def note_hold(self, now: float, until: float) -> None:
        """The host is left alone until then: that time says nothing of its rate."""
        self._held_seconds += max(0.0, until - max(now, self._held_until))
        self._held_until = max(self._held_until, until)

    def grown(self, bucket: Bucket, now: float) -> Bucket:
        """After a good answer: a little more, where it is time for that, and all that is allowed is used."""
        if bucket.rate is None or bucket.rate == self._most or bucket.free_at <= now:
            return bucket
        small = bucket.step <= _SMALL_STEP
        if now - bucket.grown_at < (_SMALL_STEP_SECONDS if small else _STEP_SECONDS):
            return bucket
        rate = min(bucket.rate * bucket.step, self._most or math.inf)
        return replace(bucket, rate=rate, proven=bucket.rate, grown_at=now)

    def eased(self, bucket: Bucket, now: float) -> Bucket:
        """After a refusal that made everybody wait: a little below the rate that has proven itself, until it grows.

        So near to the limit, a host or a machine that is busy for a moment makes two seconds' requests of one; each
        wait costs more than that little. Once only, since it may have been chance.
        """
        if bucket.rate is None or bucket.rate == self._most or not 0 < bucket.proven <= bucket.rate:
            return bucket
        return replace(bucket, rate=_EASED_SHARE * bucket.rate, grown_at=now)

    def exceeded(self, bucket: Bucket) -> bool:
        """Whether it must be the rate for which the host refused the last one."""
        probes = bucket.proven > 0 or self._most is not None  # a rate that was just lowered is no probe
        if probes and bucket.rate is not None and bucket.rate > bucket.proven:
            return True
        refused = sum(not good for _, good, _ in self._answers)
        return refused >= _REFUSED_LEAST and refused >= len(self._answers) * _REFUSED_SHARE

    def lowered(self, bucket: Bucket, now: float, held_until: float) -> Bucket:
        """The bucket at the rate that has proven itself, or else that was accepted."""
        since = max(now, held_until)
        if bucket.rate is not None and 0 < bucket.proven < bucket.rate:
            # What went well for a second only, before it was too much, may have been too much as well.
            tried = max(_TRIED_SHARE * self._accepted_in_a_second(bucket), _CEILING_SHARE * bucket.proven)
            rate, step = _PROVEN_SHARE * bucket.proven, math.sqrt(bucket.step)
            rate = min(rate, tried) if bucket.step > _SMALL_STEP else rate
            proven = rate = max(rate, _SMALLEST_RATE)
            step = step if step > _SMALL_STEP + 0.01 else _SMALL_STEP
        else:
            accepted = self._accepted_in_a_second(bucket)
            rate, proven = max(_CEILING_SHARE * accepted, _SMALLEST_RATE), 0.0
            step = _STEP if accepted >= _SAMPLE else _LARGE_STEP
        return Bucket(rate, proven, step, since + 1.0 / rate, bucket.taken, since, now)

    def _accepted_in_a_second(self, bucket: Bucket) -> float:
        """By the last answers; of others who take from the bucket too we know how many they took, not how it went."""
        end = self._answers[-1][0]
        last = [answer for answer in self._answers if answer[0] > end - _SPAN_SECONDS]
        accepted = sum(good for _, good, _ in last)
        return max(len(last), bucket.taken - last[0][2]) * accepted / len(last)

    def forget_answers(self) -> None:
        """What follows is another rate."""
        self._answers.clear()

    def _active(self, now: float) -> float:
        """The time without that in which the host wanted to be left alone."""
        return max(now - self._held_seconds, self._answers[-1][0] if self._answers else -math.inf)
