"""What was learnt of a host, kept in the local record: for later pushes, and for others at the same time.

A value has the time at which it was learnt, and counts for a while only: then the registry is tried again. Whatever the
record holds that makes no sense (an older version's, a damaged one) is as good as nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from uploader.registry.ceiling import FARTHEST_SECONDS, Bucket, HostPace

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploader.oci.profile import Profile

_FORGET_SECONDS: Final = 7 * 24 * 3600.0
_READ_AGAIN_SECONDS: Final = 0.2
_LARGEST_RATE: Final = 100_000.0
_CLOCK_SECONDS: Final = 5.0  # by which the clocks of two processes may differ
_MOST_WAITING: Final = 64
_PACE: Final = "pace"


class HostFacts(Protocol):
    """Where facts about hosts are kept; the local record is one."""

    def fact(self, host: str, name: str) -> object:
        """What is known; None when nothing is."""

    def change_fact(self, host: str, name: str, change: Callable[[object], object]) -> bool:
        """Change it, with no other process between; False when nothing can be kept."""


class NoFacts:
    """Keeps nothing."""

    def fact(self, host: str, name: str) -> object:  # noqa: ARG002 - as HostFacts has it
        """Nothing is known."""
        return None

    def change_fact(self, host: str, name: str, change: Callable[[object], object]) -> bool:  # noqa: ARG002
        """Nothing is kept."""
        return False


class Limits:
    """A host's profile, with what its answers taught. Mutable: the profile."""

    def __init__(self, host: str, profile: Profile, facts: HostFacts, wall: Callable[[], float]) -> None:
        self._host = host
        self._facts = facts
        self._wall = wall
        self.profile = profile
        if (largest := self._recall("largest body")) is not None:
            self._largest(largest)
        if (least := self._recall("least piece")) is not None:
            self._least(least)
        if self._recall("mounts") == 0:
            self.profile = replace(self.profile, self_mount=False)
        if self._recall("streams") == 0:
            self.profile = replace(self.profile, resumes=False)

    def body_limit(self, size: int) -> None:
        """A larger body was refused, and one of `size` bytes taken."""
        if size < (self.profile.largest_body or math.inf):
            self._largest(size)
            self._keep("largest body", size)

    def least_piece(self, size: int) -> None:
        """It says that no piece but the last may be smaller."""
        if size != self.profile.chunk_min:
            self._least(size)
            self._keep("least piece", size)

    def no_mount(self) -> None:
        """It does not mount from the repository itself, and takes the blob otherwise."""
        self.profile = replace(self.profile, self_mount=False)
        self._keep("mounts", 0)

    def no_stream(self) -> None:
        """It takes no PATCH of a whole blob, so that none can be continued."""
        self.profile = replace(self.profile, resumes=False)
        self._keep("streams", 0)

    def _largest(self, size: int) -> None:
        known = self.profile.largest_body
        self.profile = replace(self.profile, largest_body=min(size, known or size))

    def _least(self, size: int) -> None:
        self.profile = replace(self.profile, chunk_min=size)

    def _recall(self, name: str) -> int | None:
        match self._facts.fact(self._host, name):
            case [int(value), int() | float() as at] if value >= 0 and 0 <= self._wall() - at < _FORGET_SECONDS:
                return value
        return None

    def _keep(self, name: str, value: int) -> None:
        self._facts.change_fact(self._host, name, lambda _: [value, self._wall()])


class RecordedBoard:
    """The host's pace in the local record; where that keeps nothing, in this process. Mutable: what was read last."""

    def __init__(self, host: str, facts: HostFacts) -> None:
        self._host = host
        self._facts = facts
        self._pace = HostPace()
        self._read_at = -math.inf

    def read(self, now: float) -> HostPace:
        """As it was a fifth of a second ago at the most."""
        if not 0 <= now - self._read_at < _READ_AGAIN_SECONDS:
            self._read_at = now
            if (kept := self._facts.fact(self._host, _PACE)) is not None:
                self._pace = parse_pace(kept, now)
        return self._pace

    def change(self, now: float, update: Callable[[HostPace], HostPace]) -> HostPace:
        """Change it in one transaction."""
        changed: list[HostPace] = []

        def change(kept: object) -> object:
            changed.append(update(parse_pace(kept, now)))
            return render_pace(changed[-1])

        kept = self._facts.change_fact(self._host, _PACE, change)
        self._pace = changed[-1] if kept else update(self._pace)
        self._read_at = now
        return self._pace


def render_pace(pace: HostPace) -> object:
    """As JSON: what is not finite is left out."""
    return {
        "held": [_finite(pace.held_until), _finite(pace.held_at)],
        "buckets": {
            name: [_finite(x) for x in (b.rate, b.proven, b.step, b.free_at, b.taken, b.grown_at, b.lowered_at)]
            for name, b in pace.buckets.items()
        },
    }


def parse_pace(kept: object, now: float) -> HostPace:
    """The inverse. What makes no sense is left out, and what was written at a clock that has been set back since."""
    match kept:
        case {"held": [held_until, held_at], "buckets": dict() as buckets}:
            since = _number(held_at, -1.0, now + _CLOCK_SECONDS, -math.inf)
            until = _number(held_until, -math.inf, since + FARTHEST_SECONDS, -math.inf)
            read = {
                name: _bucket(values, now, max(now, until))
                for name, values in list(buckets.items())[:16]
                if isinstance(name, str)
            }
            return HostPace(until, max(since, -1.0), MappingProxyType(read))
    return HostPace()


def _bucket(values: object, now: float, begin: float) -> Bucket:
    """`begin`: from when on requests may go out."""
    match values:
        case [rate, proven, step, free_at, taken, grown_at, lowered_at]:
            known = _number(rate, 0.01, _LARGEST_RATE, 0.0)
            return Bucket(
                known or None,
                _number(proven, 0.0, _LARGEST_RATE, 0.0),
                _number(step, 1.0, 10.0, 1.05),
                _number(free_at, -math.inf, begin + _MOST_WAITING / known, -math.inf) if known else -math.inf,
                int(_number(taken, 0.0, 2.0**53, 0.0)),
                _number(grown_at, 0.0, begin, begin),
                _number(lowered_at, -1.0, now, now),
            )
    return Bucket()


def _number(value: object, least: float, most: float, otherwise: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        return otherwise  # also what is not a number
    return float(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
