"""The command `heal`."""

from __future__ import annotations

import sys
import time
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
from uploader.cli.tally import bytes_text, counted, duration_text
from uploader.errors import UploaderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anyio

    from uploader.service.heal_report import HealEntry, HealReport

_MOST: Final = 20
_OPTIONS = (
    *CHECKING,
    "base_image",
    "codec",
    "level",
    "check_diff_ids",
    "update_index",
    "source_date_epoch",
)

_HELP = """Complete the manifests of DEST whose missing layers are there now, from what they say themselves. With
SOURCE…, also push what of its packages is gone or damaged: give the options of the push that filled DEST.

\b
A completed manifest is byte for byte what a push without the gap would have made. Nothing is replaced by a
manifest that names fewer layers, and nothing that somebody else writes meanwhile is overwritten.
Whatever was touched is verified again. A registry that has damaged bytes under a digest keeps them:
such blobs are named, and must be deleted there first.
\b
Exit status: 0 nothing is damaged any more (gaps may be left); 1 damage is left, or something failed;
2 bad input; 3 the registry could not be used, or, without SOURCE…, there is no such repository;
130 and 143 interrupted.
"""


@click.command(help=_HELP, params=shared_parameters(_OPTIONS))
@click.argument("to", metavar="DEST")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("--deep", is_flag=True, help="Look for damage as `uploader verify --deep` does.")
def heal(to: str, sources: tuple[str, ...], *, dry_run: bool, deep: bool, **given: Any) -> None:
    """Heal, and exit with the status that says how it went."""
    report_file, style = given.pop("report"), given.pop("progress")
    progress = TagProgress(style, sys.stderr)
    began = time.monotonic()
    try:
        check_writable(report_file)
        options = as_push_options(given)

        async def work(stop: anyio.Event) -> tuple[HealReport, bool]:
            from uploader import api  # noqa: PLC0415

            report = await api.heal(to, sources, options, deep=deep, dry_run=dry_run, progress=progress.show, stop=stop)
            return report, write_report(report.to_json, report_file)  # a signal waits until it is there

        (report, written), signal_number = run(work)
    except UploaderError as error:
        progress.close()
        fail(error)
    progress.close()
    tell(*heal_summary(report, time.monotonic() - began))
    sys.exit(status_with(heal_status(report, signal_number), written=written))


def heal_status(report: HealReport, signal_number: int | None) -> int:
    """128 + signal, 3 unusable, 1 damage is left or something failed, 0; a dry run finds, and fails not."""
    if signal_number is not None:
        return 128 + signal_number
    if report.error is not None:
        return 3
    push_failed = report.push is not None and report.push.totals.failed
    return 1 if not report.dry_run and (report.totals.damaged or report.totals.failed or push_failed) else 0


def heal_summary(report: HealReport, seconds: float) -> Iterator[str]:
    """The lines: what is wrong still, then what was done."""
    wrong = [entry for entry in report.tags if entry.outcome in {"damaged", "failed"}]
    for entry in wrong[:_MOST]:
        yield _wrong(entry)
    if len(wrong) > _MOST:
        yield f"        and {len(wrong) - _MOST} more: see --report"
    for entry in [entry for entry in report.tags if entry.outcome == "left"][:_MOST]:
        yield f"left incomplete: {entry.tag}: {entry.why}"
    if report.push is not None:
        known = {entry.tag for entry in wrong}
        failed = [one for one in report.push.packages if one.error and one.tag not in known]
        for one in failed[:_MOST]:
            yield f"failed: {one.name}: {one.error.message if one.error else ''}"
    if report.error:
        yield f"ended early: {report.error}"
    yield from _done(report)
    sent = f", {bytes_text(report.push.totals.bytes_sent)} pushed" if report.push and not report.dry_run else ""
    yield f"{counted(report.found.tags, 'tag')} looked at in {duration_text(seconds)}{sent}"


def _wrong(entry: HealEntry) -> str:
    why = f" ({entry.why})" if entry.why and entry.damage else entry.why or ""
    if entry.outcome == "failed":
        return f"failed: {entry.tag}: {why}"
    return f"damaged: {entry.tag}: {some(one.message for one in entry.damage)}{why}"


def _done(report: HealReport) -> Iterator[str]:
    would = "would be " if report.dry_run else ""
    totals = report.totals
    completed = [entry.tag for entry in report.tags if entry.outcome in {"completed", "would-complete"}]
    repaired = [entry.tag for entry in report.tags if entry.outcome in {"repaired", "would-repair"}]
    if repaired:
        yield f"{totals.repaired} {would}repaired: {some(repaired)}"
    if completed:
        yield f"{totals.completed} {would}completed: {some(completed)}"
    if not repaired and not completed:
        could = not (report.error or totals.damaged or totals.failed)
        yield "nothing to do" if could else "nothing could be done"
