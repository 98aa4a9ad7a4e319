"""The command `verify`."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import click

from uploader.cli.checking import (
    CHECKING,
    TagProgress,
    shared_parameters,
    some,
)
from uploader.cli.push import as_push_options
from uploader.cli.report_file import check_writable, status_with, write_report
from uploader.cli.running import fail, run
from uploader.cli.streams import tell
from uploader.cli.tally import counted, duration_text
from uploader.errors import UploaderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anyio

    from uploader.service.verify_report import LackingEntry, VerifyReport

_MOST: Final = 20

_HELP = """Verify that what the tags of DEST point at is there and agrees: every tag, or, with SOURCE…, the packages of
the sources, which must be there then. Works for whatever `uploader push` or Spack has filled; nothing local is needed.

\b
For each tag: the manifest is there, and is what its digest says; so is its config; the
diff_ids in it match the layers one for one; every layer is there, in its size. --deep
reads all layers, and compares digests and diff_ids.
\b
Gaps (what a manifest says that it lacks) are said, and are no damage; layers that were not selected
are not even gaps. What neither uploader nor Spack made is counted, and not looked at.
\b
Exit status: 0 no damage; 1 damage, or some tags could not be asked about; 2 bad input;
3 nothing could be asked, or, without SOURCE…, there is no such repository; 130 and 143 interrupted:
the report is written then, too.
"""


@click.command(help=_HELP, params=shared_parameters(CHECKING))
@click.argument("to", metavar="DEST")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--deep", is_flag=True, help="Read every layer: digests and diff_ids are compared with the bytes.")
def verify(to: str, sources: tuple[str, ...], *, deep: bool, **given: Any) -> None:
    """Verify, and exit with the status that says how it went."""
    report_file, style = given.pop("report"), given.pop("progress")
    progress = TagProgress(style, sys.stderr)
    began = time.monotonic()
    try:
        check_writable(report_file)
        options = as_push_options(given)

        async def work(stop: anyio.Event) -> tuple[VerifyReport, bool]:
            from uploader import api  # noqa: PLC0415

            report = await api.verify(to, sources, options, deep=deep, progress=progress.show, stop=stop)
            return report, write_report(report.to_json, report_file)  # a signal waits until it is there

        (report, written), signal_number = run(work)
    except UploaderError as error:
        progress.close()
        fail(error)
    progress.close()
    tell(*verify_summary(report, time.monotonic() - began))
    sys.exit(status_with(verify_status(report, signal_number), written=written))


def verify_status(report: VerifyReport, signal_number: int | None) -> int:
    """128 + signal, 3 nothing could be asked, 1 damage or something could not be asked, 0."""
    totals = report.totals
    if signal_number is not None:
        return 128 + signal_number
    if report.error is not None or 0 < totals.unknown == totals.tags:
        return 3
    return 1 if totals.damaged or totals.unknown else 0


def verify_summary(report: VerifyReport, seconds: float) -> Iterator[str]:
    """The lines: damage first, then what could not be asked, then gaps."""
    damaged = [entry for entry in report.tags if entry.state == "damaged"]
    unknown = [entry for entry in report.tags if entry.state == "unknown"]
    for entry in damaged[:_MOST]:
        yield f"damaged: {entry.tag}: {some(one.message for one in entry.damage)}"
    for entry in unknown[: _MOST - len(damaged[:_MOST])]:
        yield f"could not be asked: {entry.tag}: {entry.error}"
    if len(damaged) + len(unknown) > _MOST:
        yield f"        and {len(damaged) + len(unknown) - _MOST} more: see --report"
    yield from _gaps(report)
    if foreign := [entry.tag for entry in report.tags if entry.state == "foreign"]:
        yield f"neither uploader's nor Spack's, not looked at: {some(foreign)}"
    yield from report.notes
    if report.error:
        yield f"ended early: {report.error}"
    yield totals_line(report)
    how = "read" if report.deep else "asked about"
    layers, requests = counted(report.totals.blobs, "layer"), counted(report.totals.requests, "request")
    yield f"{layers} {how} in {duration_text(seconds)}, {requests}"


def totals_line(report: VerifyReport) -> str:
    """The counts, in one line."""
    totals = report.totals
    parts = [
        (totals.damaged, "damaged"),
        (totals.unknown, "could not be asked"),
        (totals.whole, "whole"),
        (totals.incomplete, "incomplete"),
        (totals.completable, "of them completable by heal"),
        (totals.foreign, "foreign"),
        (totals.unchecked, "not reached"),
    ]
    nothing = "not known what is there" if report.error else "nothing there"
    counts = ", ".join(f"{count} {word}" for count, word in parts if count)
    return f"{counted(totals.tags, 'tag')}: {counts or nothing}"


def _gaps(report: VerifyReport) -> Iterator[str]:
    """A line for each layer that is missing somewhere, the most missed first."""
    lacking: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for entry in report.tags:
        for gap in entry.gaps:
            lacking[_what(gap)].append(entry.tag)
    ordered = sorted(lacking.items(), key=lambda one: (-len(one[1]), one[0]))
    for (key, why, completable), tags in ordered[:_MOST]:
        now = "; it is there now, heal adds it" if completable else ""
        yield f"gap: {key} ({why}{now}) in {some(tags)}"
    if len(ordered) > _MOST:
        yield f"        and {len(ordered) - _MOST} more missing layers: see --report"


def _what(gap: LackingEntry) -> tuple[str, str, bool]:
    return gap.id, gap.why, gap.completable
