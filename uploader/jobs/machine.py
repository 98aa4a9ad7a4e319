"""The state machine of a job, as plain decisions: what becomes of it when a lease ends, and when a lease has ended.

    ready (scheduled while it waits) -> leased -> succeeded | failed | dead | cancelled
    leased -> ready        after a failure that may pass, a release, or the death of its holder
    failed | dead | cancelled -> ready        by retry, and only so

The SQL around it is in `transitions.py`. There a lease is a row, and whoever deletes the row has ended the lease: so
of all that would end it at the same time exactly one gets to ask `after`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from uploader.jobs.base import SUSPECT_LOSSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uploader.jobs.base import Ended


LOSSES_PER_ATTEMPT: Final = 2
"""A job is dead after so many lost leases in a row, for each of its attempts, in which nothing got done."""


def most_losses(max_attempts: int) -> int:
    """How many lost leases in a row leave a job dead: not before it was a suspect, with nobody else to blame."""
    return max(LOSSES_PER_ATTEMPT * max_attempts, SUSPECT_LOSSES + 1)


@dataclass(frozen=True, slots=True)
class Completed:
    """The holder did all of the work."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The holder gave up: for good, or until `retry_in` seconds from now."""

    retry_in: float | None


@dataclass(frozen=True, slots=True)
class Released:
    """The holder gave it back, for another to take `delay` seconds from now."""

    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Lost:
    """The holder died, or said nothing for too long."""


Ending = Completed | Failed | Released | Lost


@dataclass(frozen=True, slots=True)
class Standing:
    """What counts for a leased job; its attempts count the lease that ends, `losses` are those before it in a row."""

    attempts: int
    max_attempts: int
    losses: int
    settled: bool
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class Next:
    """What becomes of the job; `delay` seconds pass before its next lease, where there is to be one."""

    ended: Ended
    attempts: int
    losses: int
    delay: float = 0.0

    @property
    def final(self) -> bool:
        """Whether the job is over, until somebody asks for a retry."""
        return self.ended not in {"again", "released"}


def after(ending: Ending, standing: Standing) -> Next:
    """What becomes of the job.

    Work that is done counts, even if somebody asked for a cancel meanwhile; anything else ends a job that is to be
    cancelled. A lease that got something done, that was released, or that was lost, was no attempt: who is killed did
    not try and fail. Lost leases are counted apart, until one gets something done: so a daemon that is killed again
    and again during one long push gets to its end, and a job that kills its daemon before anything is done does not.
    """
    spent = standing.attempts - (1 if standing.settled or isinstance(ending, Released | Lost) else 0)
    losses = 0 if standing.settled else standing.losses + isinstance(ending, Lost)
    match ending:
        case Completed():
            return Next("succeeded", standing.attempts, losses)
        case _ if standing.cancel_requested:
            return Next("cancelled", spent, losses)
        case Failed(retry_in=None):
            return Next("failed", standing.attempts, losses)
        case Released(delay):
            return Next("released", spent, losses, delay)
        case Lost() if losses >= most_losses(standing.max_attempts):
            return Next("dead", spent, losses)
        case Failed() if spent >= standing.max_attempts:
            return Next("dead", spent, losses)
        case Failed(retry_in=float() | int() as delay):
            return Next("again", spent, losses, delay)
        case _:
            return Next("again", spent, losses)


def may_have_led_to(ending: Ending, ended: Ended | Literal["lost"] | None) -> bool:
    """Whether a holder that asks for `ending`, and finds its lease ended like this, may have done so itself before.

    It asks twice when the connection broke over the first time, and is then to get the same answer.
    """
    match ending:
        case Completed():
            return ended == "succeeded"
        case Failed(retry_in=None):
            return ended in {"failed", "cancelled"}
        case Failed():
            return ended in {"again", "dead", "cancelled"}
        case Released():
            return ended in {"released", "cancelled"}
        case Lost():
            return False


class Watch:
    """Finds what gave no sign of life for too long, by our own clock alone.

    A sign of life is a number that changes. Nobody's wall clock takes part, so one that jumps expires nothing and
    keeps nothing; what this process has not watched for the whole time is not expired by it.
    """

    def __init__(self) -> None:
        self._since: dict[str, tuple[float, float]] = {}

    def observe(self, signs: Mapping[str, tuple[float, float]], now: float) -> set[str]:
        """What to take for dead. `signs` holds all that there is: its sign, and how long that may stay the same."""
        since = {}
        for key, (sign, _) in signs.items():
            known = self._since.get(key)
            since[key] = known if known is not None and known[0] == sign else (sign, now)
        self._since = since
        return {key for key, (_, seconds) in signs.items() if now - since[key][1] >= seconds}
