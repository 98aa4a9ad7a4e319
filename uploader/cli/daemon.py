"""The commands that talk to a daemon: `submit`, `jobs`, `cancel`, `retry`."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from uploader.cli.push import push
from uploader.cli.report_file import check_writable, status_with, write_report
from uploader.cli.running import exit_status, fail, run
from uploader.cli.settings import setting
from uploader.cli.streams import in_one_line, print_out, print_result, tell
from uploader.cli.tally import counted
from uploader.errors import InputError, UnusableError, UploaderError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import anyio

    from uploader.service.daemon_client import DaemonClient, JobView

_T = TypeVar("_T")

_GONE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 1.0
_ON_THE_LINE: Final = click.core.ParameterSource.COMMANDLINE
_SERVER = setting("--server", metavar="URL", help="The daemon.  [default: http://127.0.0.1:8080]")

_SUBMIT_HELP = """Hand a push to the daemon, as a job: it is safe there once this command says its id.

The options are those of `uploader push` that a job may have. With --wait the command follows the job, and exits as push
would; when it is interrupted, the job goes on.
"""


def _submit_parameters() -> list[click.Parameter]:
    from uploader.service.job_format import OPTIONS  # noqa: PLC0415

    wanted = {"sources", "to", "report", *OPTIONS}
    return [parameter for parameter in push.params if parameter.name in wanted]


def _submit(
    sources: tuple[str, ...],
    to: str,
    report: Path | None,
    server: str | None,
    wait: bool,
    key: str | None,
    priority: int,
    **_: Any,
) -> None:
    context = click.get_current_context()
    try:
        if report is not None and not wait and context.get_parameter_source("report") == _ON_THE_LINE:
            raise InputError("--report needs --wait: the report is there when the job has ended")
        check_writable(report if wait else None)
        job = {
            "sources": [_absolute_source(source) for source in sources],
            "to": _absolute_destination(to),
            "options": _options_given(context),
            "key": key,
            "priority": priority,
        }
        status = _ask(server, lambda client, stop: _hand_in(client, stop, job, report, wait=wait))
    except UploaderError as error:
        fail(error)
    sys.exit(status)


submit = click.Command(
    "submit",
    callback=_submit,
    help=_SUBMIT_HELP,
    params=[
        *_submit_parameters(),
        click.Option(["--wait/--no-wait"], help="Follow the job to its end."),
        click.Option(["--key"], metavar="TEXT", help="While a job with this key has not ended, this is the same job."),
        click.Option(["--priority"], type=int, default=0, show_default=True, help="Higher goes first."),
        click.Option(["--server"], metavar="URL", envvar="UPLOADER_SERVER", help="The daemon."),
    ],
)


@click.command(help="List the daemon's jobs, newest first; with ID show one.")
@click.argument("job", metavar="[ID]", required=False)
@click.option("--state", metavar="STATE", help="Only those in this state, such as dead.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--report", is_flag=True, help="With ID: print the report of its latest try.")
@_SERVER
def jobs(job: str | None, state: str | None, limit: int, server: str | None, *, as_json: bool, report: bool) -> None:
    """Print them to standard output."""
    try:
        if job is None:
            found, following = _ask(server, lambda client, _: client.jobs(state=state, limit=limit))
            _print_jobs(found, following, as_json=as_json)
        elif report:
            document = _ask(server, lambda client, _: client.report(job))
            if document is None:
                raise InputError(f"job {job} has left no report yet")
            print_result(json.dumps(document, indent=1, ensure_ascii=False))
        else:
            _print_job(_ask(server, lambda client, _: client.job(job)), as_json=as_json)
    except UploaderError as error:
        fail(error)


@click.command(help="Cancel a job: at once while it waits, within seconds while it runs.")
@click.argument("job", metavar="ID")
@_SERVER
def cancel(job: str, server: str | None) -> None:
    """Ask the daemon to."""
    try:
        done = _ask(server, lambda client, _: client.cancel(job))
    except UploaderError as error:
        fail(error)
    tell(f"{job} is cancelled" if done else f"{job} is running: its daemon was asked to stop it")


@click.command(help="Try a failed, dead or cancelled job again; --dead: all dead ones.")
@click.argument("job", metavar="[ID]", required=False)
@click.option("--dead", is_flag=True, help="All dead jobs.")
@_SERVER
def retry(job: str | None, server: str | None, *, dead: bool) -> None:
    """Ask the daemon to."""
    try:
        if dead == (job is not None):
            raise InputError("give the ID of a job, or --dead")
        if job is not None:
            one = job
            _ask(server, lambda client, _: client.retry(one))
            tell(f"{job} will be tried again")
        else:
            count = _ask(server, lambda client, _: client.retry_dead())
            tell(f"{counted(count, 'dead job')} will be tried again")
    except UploaderError as error:
        fail(error)


def _ask(server: str | None, call: Callable[[DaemonClient, anyio.Event], Awaitable[_T]]) -> _T:
    async def work(stop: anyio.Event) -> _T:
        from uploader.service.daemon_client import DEFAULT_SERVER, DaemonClient  # noqa: PLC0415

        async with DaemonClient(server or DEFAULT_SERVER, _token()) as client:
            return await call(client, stop)

    result, _ = run(work)
    return result


def _token() -> str | None:
    if (path := os.environ.get("UPLOADER_TOKEN_FILE")) is not None:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise InputError(f"UPLOADER_TOKEN_FILE {path} cannot be read: {error}") from error
    return os.environ.get("UPLOADER_TOKEN") or None


def _absolute_source(source: str) -> str:
    """The daemon has another current folder."""
    if source == "-":
        raise InputError("a job cannot read its source from standard input: write it to a file that the daemon sees")
    scheme, colon, rest = source.partition(":")
    if colon and scheme in {"python", "spack"}:
        path, hash_sign, specs = rest.partition("#")
        return f"{scheme}:{Path(path).absolute()}{hash_sign}{specs}"
    return str(Path(source).absolute())


def _absolute_destination(to: str) -> str:
    if to.startswith("oci-layout:"):
        return f"oci-layout:{Path(to.removeprefix('oci-layout:')).absolute()}"
    return to


def _options_given(context: click.Context) -> dict[str, Any]:
    """Those that were written on the command line or in the environment; the daemon knows the defaults."""
    from uploader.service.job_format import OPTIONS  # noqa: PLC0415

    given: dict[str, Any] = {}
    for name, value in context.params.items():
        if name not in OPTIONS or context.get_parameter_source(name) == click.core.ParameterSource.DEFAULT:
            continue
        match value:
            case Path():
                given[name] = str(value.absolute())
            case tuple() if value and isinstance(value[0], tuple):
                given[name] = [word for words in value for word in words]
            case tuple():
                given[name] = list(value)
            case _:
                given[name] = value
    return given


async def _hand_in(
    client: DaemonClient, stop: anyio.Event, job: dict[str, Any], report: Path | None, *, wait: bool
) -> int:
    began = time.monotonic()
    job_id, created = await client.submit(job)
    tell(f"job {job_id}" + ("" if created else " (it was there already)"))
    if not wait:
        if not (printed := print_out(job_id)):
            tell("uploader: cannot write the id of the job to standard output")
        return status_with(0, written=printed)
    ended = await _follow(client, stop, job_id)
    if ended is None:
        tell(f"job {job_id} goes on")
        return 130
    return await _say_end(client, ended, report, time.monotonic() - began, strict=bool(job["options"].get("strict")))


async def _follow(client: DaemonClient, stop: anyio.Event, job: str) -> JobView | None:
    """Until it ended, over any restart of the daemon; None when we are interrupted."""
    import anyio  # noqa: PLC0415

    ended: JobView | None = None
    failure: UploaderError | None = None

    async def follow() -> None:
        nonlocal ended, failure
        try:
            ended = await _follow_to_end(client, job)
        except UploaderError as error:  # out of the task group, which would make a group of it
            failure = error
        group.cancel_scope.cancel()

    async def give_up() -> None:
        await stop.wait()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        group.start_soon(give_up)
    if failure is not None:
        raise failure
    return ended


async def _follow_to_end(client: DaemonClient, job: str) -> JobView:
    import anyio  # noqa: PLC0415

    after, heard_at = 0, time.monotonic()
    while True:
        with suppress(UnusableError):  # has as many listeners as it takes, or is gone: the next answer tells
            async for event in client.events(job, after=after):
                after, heard_at = event.seq, time.monotonic()
                if event.kind not in {"submitted"}:
                    said = f"{event.kind}: {event.detail}" if event.detail else event.kind
                    tell(said)
        try:
            found = await client.job(job)
            heard_at = time.monotonic()
            if found.ended:
                return found
        except UnusableError:
            if time.monotonic() - heard_at > _GONE_SECONDS:
                raise
        await anyio.sleep(_PAUSE_SECONDS)


async def _say_end(client: DaemonClient, job: JobView, path: Path | None, seconds: float, *, strict: bool) -> int:
    """The same lines and the same exit status as those of a push."""
    from pydantic import TypeAdapter  # noqa: PLC0415

    from uploader.cli.summary import summary  # noqa: PLC0415
    from uploader.service.report import Report  # noqa: PLC0415

    document = await client.report(job.id)
    if document is None:
        tell(f"uploader: {_ended(job)}")
        return {"failed": 2, "dead": 3, "cancelled": 1}.get(job.state, 0)
    report: Report = TypeAdapter(Report).validate_python(document)
    written = write_report(report.to_json, path)
    tell(*summary(report, seconds))
    if job.state != "succeeded":
        tell(_ended(job))
    status = exit_status(report, strict=strict, signal_number=None) or (0 if job.state == "succeeded" else 1)
    return status_with(status, written=written)


def _ended(job: JobView) -> str:
    return f"job {job.id} {job.state}" + (f": {job.error}" if job.error else "")


def _print_jobs(found: list[JobView], following: str | None, *, as_json: bool) -> None:
    if as_json:
        print_result(json.dumps({"jobs": [_as_dict(one) for one in found], "next": following}))
        return
    lines = []
    for one in found:
        said = one.progress if one.state in {"leased", "succeeded"} else one.error or one.progress
        line = f"{one.id}  {one.state:<9}  {one.created}  {' '.join(one.sources)} -> {one.to}"
        lines.append(in_one_line(f"{line}  {said}" if said else line))
    if lines:
        print_result("\n".join(lines))


def _print_job(job: JobView, *, as_json: bool) -> None:
    document = _as_dict(job)
    if as_json:
        print_result(json.dumps(document))
        return
    shown = {name: value for name, value in document.items() if value not in (None, {}, "")}
    print_result("\n".join(in_one_line(f"{name}: {_in_words(value)}") for name, value in shown.items()))


def _in_words(value: object) -> str:
    match value:
        case tuple():
            return ", ".join(value)
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


def _as_dict(job: JobView) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__slots__}
