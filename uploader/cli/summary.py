"""The few lines at the end of a push: failures first, each with its cause and what it left incomplete."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from uploader.cli.tally import bytes_text, counted, duration_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from uploader.service.report import IndexEntry, PackageEntry, Report

_MOST_FAILURES = 20
_MOST_NAMES = 3


def summary(report: Report, seconds: float, *, planned: bool = False) -> Iterator[str]:
    """The lines; `planned`: nothing was sent, the report says what would be."""
    lacking = _lacking(report)
    failed = [entry for entry in report.packages if entry.error is not None]
    for entry in failed[:_MOST_FAILURES]:
        if entry.error is not None:
            yield f"failed: {_name(entry)} ({entry.error.stage}, {entry.error.kind}): {entry.error.message}"
        if names := lacking.get(entry.id):
            yield f"        left incomplete: {_some(names)}"
    if len(failed) > _MOST_FAILURES:
        yield f"        and {len(failed) - _MOST_FAILURES} more failures: see --report"
    yield from _left_out(report, lacking)
    if report.index is not None:
        yield from _index(report.index)
    if report.error:
        yield f"ended early: {report.error}"
    yield _totals(report, planned=planned)
    if not planned:
        totals = report.totals
        rate = f", {bytes_text(totals.bytes_sent / seconds)}/s" if seconds > 0 and totals.bytes_sent else ""
        retries = f", {counted(totals.retries, 'retry', 'retries')}" if totals.retries else ""
        requests = counted(totals.requests, "request")
        yield f"{bytes_text(totals.bytes_sent)} in {duration_text(seconds)}{rate}, {requests}{retries}"
    else:
        requests = counted(report.totals.requests, "request")
        yield f"a push would send {bytes_text(report.totals.bytes_sent)} in {requests}"


def _index(index: IndexEntry) -> Iterator[str]:
    if index.error:
        yield f"failed: the index: {index.error}"
        return
    yield f"the index lists {index.specs} specs" + (", written anew" if index.outcome == "written" else "")
    for skipped in index.skipped[:_MOST_FAILURES]:
        yield f"        not in it: {skipped.tag}: {skipped.why}"


def _totals(report: Report, *, planned: bool) -> str:
    totals = report.totals
    parts = [
        (totals.failed, "failed" if not planned else "would fail"),
        (totals.pushed, "pushed" if not planned else "to push"),
        (totals.present, "present"),
        (totals.left_out, "left out"),
        (totals.incomplete, "incomplete"),
        (totals.interrupted, "interrupted"),
    ]
    return f"{counted(totals.packages, 'package')}: " + ", ".join(f"{count} {word}" for count, word in parts if count)


def _left_out(report: Report, lacking: dict[str, list[str]]) -> Iterator[str]:
    """Gaps that no failure explains, a line for each reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for entry in report.packages:
        if entry.outcome == "left-out" and entry.why not in {None, "not-selected"}:
            by_reason[str(entry.why)].append(_name(entry))
    for reason, names in sorted(by_reason.items()):
        yield f"left out, {reason}: {_some(names)}"
    known = {entry.id for entry in report.packages}
    unknown = sorted(key for key in lacking if key not in known)
    if unknown:
        yield f"left out, unknown-id: {_some(unknown)}"


def _lacking(report: Report) -> dict[str, list[str]]:
    """For each missing layer, the packages whose manifests lack it."""
    lacking: dict[str, list[str]] = defaultdict(list)
    for entry in report.packages:
        for gap in entry.gaps:
            lacking[gap.id].append(_name(entry))
    return lacking


def _name(entry: PackageEntry) -> str:
    return entry.name if entry.name == entry.id else f"{entry.name} [{entry.id}]"


def _some(names: list[str]) -> str:
    unique = list(Counter(names))
    more = f" and {len(unique) - _MOST_NAMES} more" if len(unique) > _MOST_NAMES else ""
    return ", ".join(unique[:_MOST_NAMES]) + more
