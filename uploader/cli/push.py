"""The commands `push` and `plan`."""

# ruff: noqa: E501  (the table of options)

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uploader.cli.report_file import check_writable, status_with, write_report
from uploader.cli.running import exit_status, fail, run
from uploader.cli.settings import (
    Commas,
    Size,
    auth_realms_option,
    config_option,
    default_state,
    flatten,
    limit_requests_option,
    setting,
)
from uploader.cli.streams import tell
from uploader.errors import UploaderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anyio

    from uploader.cli.progress import Style
    from uploader.model.events import Emit, Event
    from uploader.service.options import PushOptions
    from uploader.service.report import Report

_CODECS = ("gzip", "gzip-zlib", "zstd", "none")
_Command = Callable[..., Any]

_SOURCES = """
\b
SOURCE is one of, and may be repeated:
  graph.json, graph.jsonl   a graph file (see `uploader schema graph`); - for standard input
  python:PREFIX             the distributions installed in a Python environment
  spack:ROOT[#SPEC,…]       an installed Spack store; SPEC is a name, name@version, or /hash
\b
DEST is one of:
  oci://HOST[:PORT]/REPOSITORY    a registry, by https
  oci+http://HOST/REPOSITORY      a registry, by plain http
  oci-layout:PATH                 an OCI image layout folder; needs no server
"""

_PUSH_HELP = f"""Push the packages of SOURCE… to DEST: all layers in parallel, and each package's manifest as soon
as its layers have settled. One failure stops nothing else; whatever is missing is reported.
{_SOURCES}
\b
Exit status: 0 all done (gaps allowed unless --strict); 1 some packages failed; 2 bad input, nothing was
sent; 3 the registry could not be used; 130 and 143 interrupted: the report is written then, too.
"""

_PLAN_HELP = f"""Say what `uploader push` would do with the same options: bytes, requests, what is there already.
Nothing is sent; trees that the local record does not know are packed to find that out.
{_SOURCES}"""

_OPTIONS: list[Callable[[_Command], _Command]] = [
    click.argument("sources", nargs=-1, required=True, metavar="SOURCE..."),
    click.option("--to", required=True, metavar="DEST", envvar="UPLOADER_TO", help="Where to push."),
    setting("--select", type=Commas(), multiple=True, metavar="ID_OR_NAME", help="Roots to push; repeat it, or separate by commas.  [default: the packages that nobody depends on]"),
    setting("--only", type=Commas(), default="package,dependencies", show_default=True, metavar="PARTS", help="Of the roots, push `package`, `dependencies`, or both."),
    setting("--exclude", type=Commas(), multiple=True, metavar="ID_OR_NAME", help="Leave packages out; their dependents go without them."),
    setting("--force", is_flag=True, help="Ignore what tags, manifests and the local record say; blobs that are there are still not sent again."),
    setting("--base-image", metavar="REF", help="Put the layers of this image (HOST/NAME:TAG, or a layout: oci-layout:PATH:TAG) below the packages'."),
    setting("--codec", type=click.Choice(_CODECS), default="gzip", show_default=True, help="How folders are packed: gzip is a fast encoder, gzip-zlib the classic one."),
    setting("--level", type=int, help="The codec's level.  [default: the codec's own]"),
    setting("--check-diff-ids", is_flag=True, help="Verify given diff_ids by decompressing."),
    setting("--jobs", type=click.IntRange(1, 1024), default=32, show_default=True, help="Most requests in flight; the real number adapts to the registry."),
    setting("--limit-rate", type=Size(), metavar="BYTES", help="Most bytes per second, such as 20M."),
    limit_requests_option,
    setting("--strict", is_flag=True, help="Any gap is a failure; what was left out by choice is none."),
    setting("--update-index", is_flag=True, help="Spack: merge what was pushed into the index of the build cache."),
    setting("--private", is_flag=True, help="Spack: push packages that may not be redistributed, too."),
    setting("--without-build-dependencies", is_flag=True, help="Spack: push only what is needed at run time."),
    setting("--spack-root", type=click.Path(path_type=Path), metavar="PATH", help="Spack: where Spack itself is installed, where that cannot be found out."),
    setting("--report", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE", help="Write the report as JSON; - is standard output."),
    setting("--progress", type=click.Choice(("auto", "bar", "plain", "json", "none")), default="auto", show_default=True, help="How to show progress, on standard error."),
    setting("--ca-file", type=click.Path(path_type=Path), metavar="FILE", help="Trust the certificate authorities in this PEM file, too."),
    setting("--temp-dir", type=click.Path(path_type=Path), metavar="PATH", help="Where packed layers lie until they are sent: at most --jobs of them.  [default: $TMPDIR]"),
    setting("--state", metavar="PATH|none", help="The local record of what was hashed and pushed.  [default: $XDG_STATE_HOME/uploader/record.db]"),
    auth_realms_option,
    click.option("--source-date-epoch", type=int, default=0, envvar="SOURCE_DATE_EPOCH", metavar="SECONDS", help="The `created` of every config, in seconds since 1970.  [default: 0]"),
    config_option,
]  # fmt: skip


def _with_options(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(help=_PUSH_HELP)
@_with_options
def push(sources: tuple[str, ...], to: str, **given: Any) -> None:
    """Push, and exit with the status that says how it went."""
    _carry_out(_Call(sources, to, planned=False), given)


@click.command(help=_PLAN_HELP)
@_with_options
def plan(sources: tuple[str, ...], to: str, **given: Any) -> None:
    """Say what a push would do; exit 0, or 2 and 3 as push does."""
    _carry_out(_Call(sources, to, planned=True), given)


@dataclass(frozen=True, slots=True)
class _Call:
    sources: tuple[str, ...]
    to: str
    planned: bool


def _carry_out(call: _Call, given: dict[str, Any]) -> None:
    report_file: Path | None = given.pop("report")
    style: Style = given.pop("progress")
    try:
        check_writable(report_file)
        options = as_push_options(given)
        began = time.monotonic()
        (report, written), signal_number = run(_work(call, options, style, report_file))
    except UploaderError as error:
        fail(error)
    status = exit_status(report, strict=options.strict, signal_number=signal_number)
    if call.planned:
        status = 3 if report.error else 0
    status = status_with(status, written=written)
    if style == "json":
        print(json.dumps({"event": "finished", "status": status, "totals": asdict(report.totals)}), file=sys.stderr)
        sys.exit(status)
    from uploader.cli.summary import summary  # noqa: PLC0415

    tell(*summary(report, time.monotonic() - began, planned=call.planned))
    if options.strict and report.totals.incomplete and not call.planned:
        tell("--strict: what is incomplete counts as failed")
    sys.exit(status)


def as_push_options(given: dict[str, Any]) -> PushOptions:
    """What was given, as the options of a push."""
    from uploader.service.options import PushOptions  # noqa: PLC0415

    state = given.pop("state")
    given |= {name: flatten(given[name]) for name in ("select", "exclude") if name in given}
    return PushOptions(**given, state=None if state == "none" else Path(state) if state else default_state())


@contextmanager
def _collecting_late(emit: Emit) -> Iterator[Emit]:
    """Look for garbage only once the packages are known, and not among them: until then nearly nothing is any."""
    from uploader.model.events import PushStarted  # noqa: PLC0415

    def emit_and_collect(event: Event) -> None:
        if isinstance(event, PushStarted):
            gc.freeze()
            gc.enable()
        emit(event)

    gc.disable()
    try:
        yield emit_and_collect
    finally:
        gc.enable()


def _work(
    call: _Call, options: PushOptions, style: Style, report_file: Path | None
) -> Callable[[anyio.Event], Awaitable[tuple[Report, bool]]]:
    async def work(stop: anyio.Event) -> tuple[Report, bool]:
        from uploader import api  # noqa: PLC0415
        from uploader.cli.progress import default_stream, showing  # noqa: PLC0415

        async with showing(style, default_stream()) as show:
            with _collecting_late(show) as emit:
                carry_out = api.plan if call.planned else api.push
                report = await carry_out(call.sources, call.to, options, emit=emit, stop=stop)
        return report, write_report(report.to_json, report_file)  # a signal waits until it is there

    return work
