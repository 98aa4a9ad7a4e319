"""The command `serve`: the daemon."""

# ruff: noqa: E501  (the table of options)

from __future__ import annotations

import gc
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uploader.cli import logs
from uploader.cli.arenas import use_one_arena
from uploader.cli.running import fail, run
from uploader.cli.settings import Size, auth_realms_option, config_option, default_state, limit_requests_option, setting
from uploader.cli.streams import tell
from uploader.errors import InputError, JobStoreError, UploaderError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import anyio

    from uploader.service.allowed import Allowed
    from uploader.service.daemon import DaemonSettings
    from uploader.service.http_server import Listen
    from uploader.service.intake import IntakeUrl
    from uploader.service.options import PushOptions
    from uploader.service.tokens import Tokens

_GARBAGE_AT_ONCE = 2_000
_HELP = """The daemon: takes in pushes as jobs, and carries them out. Nothing that it took in is lost.

\b
On one machine, with nothing else installed:
  uploader serve
  uploader submit graph.json --to oci://ghcr.io/org/cache --wait
On many machines that see the same sources, all with one PostgreSQL:
  uploader serve --jobs-url postgresql://HOST/DATABASE

\b
SIGTERM or SIGINT: no new jobs; those that run get --drain-seconds to end, and are given back then. Again: at once.
Exit status: 0 ended on request; 2 bad configuration; 3 the job store cannot be used; 128 + n after a second signal.
"""


def default_jobs_url() -> str:
    """SQLite beside the local record."""
    return f"sqlite:///{default_state().with_name('jobs.db')}"


_OPTIONS: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
    setting("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT|unix:PATH", help="Where the HTTP API is."),
    setting("--jobs-url", metavar="URL", help="Where jobs are kept: sqlite:///PATH or postgresql://….  [default: $XDG_STATE_HOME/uploader/jobs.db]"),
    setting("--source-root", type=click.Path(path_type=Path), multiple=True, metavar="PATH", help="What jobs read lies below here (repeatable).  [default: the current folder]"),
    setting("--dest-root", type=click.Path(path_type=Path), multiple=True, metavar="PATH", help="Layout folders that jobs write lie below here (repeatable).  [default: none]"),
    setting("--allow-destination", multiple=True, metavar="PATTERN", help="Repositories that jobs may push to: ghcr.io/org/*, oci+http://HOST/** (repeatable).  [default: any, when listening on loopback]"),
    setting("--tokens", type=click.Path(path_type=Path), metavar="FILE", help="Bearer tokens (TOML); needed when not listening on loopback."),
    setting("--intake", multiple=True, metavar="URL", help="Take in jobs from a broker: nats://HOST/SUBJECT, redis://HOST/STREAM (repeatable)."),
    setting("--stranded-seconds", type=click.FloatRange(1, 86400), default=60.0, show_default=True, help="After so long a message that somebody took and did not acknowledge is taken over."),
    setting("--at-once", type=click.IntRange(1, 256), default=8, show_default=True, help="Jobs side by side."),
    setting("--jobs", type=click.IntRange(1, 1024), default=32, show_default=True, help="Most requests in flight to one registry, over all jobs."),
    setting("--limit-rate", type=Size(), metavar="BYTES", help="Most bytes per second, over all jobs, such as 20M."),
    limit_requests_option,
    setting("--max-attempts", type=click.IntRange(1, 100), default=5, show_default=True, help="How often a job is tried that gets nothing done; twice as often where its daemon died over it."),
    setting("--drain-seconds", type=click.FloatRange(0, 86400), default=30.0, show_default=True, help="How long running jobs get to end after SIGTERM."),
    setting("--name", default="", metavar="TEXT", help="What this daemon is called in lists.  [default: HOST-PID]"),
    setting("--log", type=click.Choice(("auto", "json", "text")), default="auto", show_default=True, help="The log, on standard error: text on a terminal, else JSON."),
    setting("--log-level", type=click.Choice(("debug", "info", "warning", "error")), default="info", show_default=True),
    setting("--ca-file", type=click.Path(path_type=Path), metavar="FILE", help="Trust the certificate authorities in this PEM file, too."),
    setting("--temp-dir", type=click.Path(path_type=Path), metavar="PATH", help="Where packed layers lie until they are sent.  [default: $TMPDIR]"),
    setting("--state", metavar="PATH|none", help="The local record of what was hashed and pushed.  [default: $XDG_STATE_HOME/uploader/record.db]"),
    auth_realms_option,
    config_option,
]  # fmt: skip

_FOR_ALL = ("jobs", "limit_rate", "limit_requests", "ca_file", "temp_dir", "auth_realms")
"""What holds for the pushes of all jobs."""


def _with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(help=_HELP)
@_with_options
def serve(**given: Any) -> None:
    """Serve until told to stop."""
    use_one_arena()
    logs.configure(given["log"], given["log_level"])
    import structlog  # noqa: PLC0415

    try:
        run(_work(_plan(given)), note=structlog.get_logger("uploader").info)
    except JobStoreError as error:
        tell(f"uploader: the job store cannot be used: {error}")
        sys.exit(3)
    except UploaderError as error:
        fail(error)
    if threading.active_count() > 1:  # one hangs in a read that nothing ends: waiting for it would be for ever
        sys.stdout.flush()
        os._exit(0)


@dataclass(frozen=True, slots=True)
class _Plan:
    listen: Listen
    jobs_url: str
    name: str
    intakes: tuple[IntakeUrl, ...]
    stranded_seconds: float
    max_attempts: int
    allowed: Allowed
    tokens: Tokens | None
    daemon: DaemonSettings
    options: PushOptions


def _plan(given: dict[str, Any]) -> _Plan:
    """Everything that can be found wrong before anything is opened is found here."""
    from uploader.service.allowed import Allowed, RepositoryPattern  # noqa: PLC0415
    from uploader.service.daemon import DaemonSettings  # noqa: PLC0415
    from uploader.service.http_server import Listen  # noqa: PLC0415
    from uploader.service.intake import IntakeUrl  # noqa: PLC0415
    from uploader.service.options import PushOptions  # noqa: PLC0415
    from uploader.service.tokens import read_tokens  # noqa: PLC0415

    listen = Listen.parse(given["listen"])
    patterns = tuple(map(RepositoryPattern, given["allow_destination"]))
    if not listen.is_local and not given["tokens"]:
        raise InputError(f"--listen {given['listen']} can be reached by others: give --tokens FILE")
    if not listen.is_local and not patterns:
        raise InputError(f"--listen {given['listen']} can be reached by others: give --allow-destination PATTERN")
    for root in (*given["source_root"], *given["dest_root"]):
        if not root.is_dir():
            raise InputError(f"{root} is not a folder")
    state = given["state"]
    options = PushOptions(
        **{name: given[name] for name in _FOR_ALL},
        state=None if state == "none" else Path(state) if state else default_state(),
    )
    roots = tuple(root.absolute() for root in given["source_root"]) or (Path.cwd(),)
    return _Plan(
        listen,
        given["jobs_url"] or _default_store(),
        given["name"],
        tuple(map(IntakeUrl.parse, given["intake"])),
        given["stranded_seconds"],
        given["max_attempts"],
        Allowed(roots, tuple(root.absolute() for root in given["dest_root"]), patterns or None),
        read_tokens(given["tokens"]) if given["tokens"] else None,
        DaemonSettings(at_once=given["at_once"], drain_seconds=given["drain_seconds"]),
        options,
    )


def _default_store() -> str:
    folder = default_state().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder} for the jobs: {error.strerror}; choose with --jobs-url") from error
    return default_jobs_url()


def _work(plan: _Plan) -> Callable[[anyio.Event], Awaitable[None]]:
    async def work(stop: anyio.Event) -> None:
        from functools import partial  # noqa: PLC0415

        import anyio  # noqa: PLC0415
        import structlog  # noqa: PLC0415

        from uploader import api, wiring  # noqa: PLC0415
        from uploader.jobs import open_store  # noqa: PLC0415
        from uploader.service.daemon import Daemon  # noqa: PLC0415
        from uploader.service.http_api import Api, ApiSettings  # noqa: PLC0415
        from uploader.service.http_server import listening  # noqa: PLC0415
        from uploader.service.intake import Taker, take_in  # noqa: PLC0415
        from uploader.service.systemd import Systemd  # noqa: PLC0415

        gc.set_threshold(_GARBAGE_AT_ONCE)  # it lives long: not as seldom as a push
        systemd = Systemd()
        async with open_store(plan.jobs_url, name=plan.name) as store:
            with wiring.share(plan.options, _environment(plan)) as shared:
                push = partial(api.push_beside, shared=shared, allowed=plan.allowed, defaults=plan.options)
                daemon = Daemon(store, push, plan.daemon)
                settings = ApiSettings(plan.allowed, plan.options, plan.tokens, plan.max_attempts)
                async with (
                    listening(Api(store, daemon, settings), plan.listen) as url,
                    anyio.create_task_group() as group,
                ):
                    taker = Taker(store, plan.allowed, plan.options, plan.max_attempts, daemon.metrics)
                    for intake in plan.intakes:
                        group.start_soon(
                            partial(take_in, intake, taker, daemon, stranded_seconds=plan.stranded_seconds)
                        )
                    group.start_soon(systemd.report, daemon)
                    systemd.say("READY=1")
                    structlog.get_logger("uploader").info("ready", url=url, at_once=plan.daemon.at_once)
                    await daemon.run(stop)
                    group.cancel_scope.cancel()

    return work


def _environment(plan: _Plan) -> dict[str, str]:
    """UPLOADER_USERNAME and UPLOADER_PASSWORD must not go to whatever host a job names."""
    from uploader.registry.credentials import without_login  # noqa: PLC0415

    if plan.allowed.destinations is not None:
        return dict(os.environ)
    return without_login(os.environ)
