"""The command `index`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from uploader.cli.checking import shared_parameters
from uploader.cli.push import as_push_options
from uploader.cli.running import fail, run
from uploader.cli.streams import tell
from uploader.errors import UploaderError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import anyio

    from uploader.service.options import PushOptions
    from uploader.service.spack_index import IndexOutcome

_OPTIONS = ("jobs", "limit_rate", "limit_requests", "ca_file", "state", "auth_realms")

_HELP = """Make the index of the Spack build cache at DEST anew, from its tags: every spec that is tagged is listed.
Tags that hold no spec are passed over, and named. What the registry fails to tell stays as it was.

\b
Exit status: 0 done; 1 it, or some tag, could not be read or written; 2 bad input; 3 the registry could not be used;
130 and 143 interrupted.
"""


@click.command(help=_HELP, params=shared_parameters(_OPTIONS))
@click.argument("destination", metavar="DEST")
def index(destination: str, **given: Any) -> None:
    """Rebuild it, and say what it lists now."""
    try:
        outcome, signal_number = run(_work(destination, as_push_options(given)))
    except UploaderError as error:
        fail(error)
    if outcome is None and signal_number is not None:
        tell("interrupted; the index is as it was, or done")
        sys.exit(128 + signal_number)
    for tag, why in sorted(outcome.skipped.items()) if outcome else ():
        what = "left as it was" if outcome and tag in outcome.unsure else "not in it"
        tell(f"{what}: {tag}: {why}")
    if outcome is None:
        tell("there are no specs, and so no index")
        return
    written = "written" if outcome.written else "already right"
    tell(f"the index lists {outcome.specs} specs: {written}")
    if outcome.unsure:
        sys.exit(1)


def _work(destination: str, options: PushOptions) -> Callable[[anyio.Event], Awaitable[IndexOutcome | None]]:
    async def work(stop: anyio.Event) -> IndexOutcome | None:
        from uploader import api  # noqa: PLC0415

        return await api.rebuild_index(destination, options, stop=stop)

    return work
