"""What a push that has ended means for its job: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from uploader.errors import InputError

if TYPE_CHECKING:
    from uploader.errors import Kind, UploaderError
    from uploader.service.report import Report

_FIRST_SECONDS: Final = 5.0
_MOST_SECONDS: Final = 900.0
_PASSING: Final[frozenset[Kind]] = frozenset({"network", "quota", "registry"})


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Everything that was asked for is there."""


@dataclass(frozen=True, slots=True)
class Again:
    """What failed may pass: the next try sends only what lacks."""

    why: str


@dataclass(frozen=True, slots=True)
class ForGood:
    """Another try would end the same way."""

    why: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """It was told to stop before it was done."""


Verdict = Succeeded | Again | ForGood | Stopped


def judge(report: Report, *, strict: bool, stopped: bool) -> Verdict:
    """By the report; `stopped`: somebody told the push to stop, which it may have been too far to do."""
    if report.totals.interrupted and stopped:
        return Stopped()
    if report.error is not None:
        return Again(report.error)
    failures = [entry for entry in report.packages if entry.error is not None]
    if failures:
        passing = [entry for entry in failures if entry.error is not None and entry.error.kind in _PASSING]
        first = (passing or failures)[0]
        error = first.error
        why = f"{len(failures)} of {report.totals.packages} packages failed"
        if error is not None:
            why += f"; {first.name} ({error.stage}, {error.kind}): {error.message}"
        return Again(why) if passing else ForGood(why)
    if report.totals.interrupted:
        return Again(f"{report.totals.interrupted} packages were interrupted")
    if report.index is not None and report.index.error is not None:
        return Again(f"the index: {report.index.error}")
    if strict and report.totals.incomplete:
        return ForGood(f"{report.totals.incomplete} packages are incomplete, which --strict does not allow")
    return Succeeded()


def judge_error(error: UploaderError) -> Verdict:
    """Of a push that came to no report: bad input stays bad, anything else may pass."""
    return ForGood(str(error)) if isinstance(error, InputError) else Again(str(error))


def backoff_seconds(attempts: int, chance: float) -> float:
    """Full jitter over min(15 min, 5 s * 2^attempts); `chance` is from 0 to 1."""
    return chance * min(_MOST_SECONDS, _FIRST_SECONDS * 2.0 ** min(attempts, 20))
