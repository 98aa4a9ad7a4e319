"""The process edge: signals in, errors and exit status out."""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TypeVar

import anyio

from uploader.cli.streams import tell
from uploader.errors import InputError, StoppedError, UnusableError, UploaderError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from uploader.service.report import Report

_T = TypeVar("_T")


def run(work: Callable[[anyio.Event], Awaitable[_T]], *, note: Callable[[str], object] = tell) -> tuple[_T, int | None]:
    """Run `work`, which ends early when its event is set: by SIGINT or SIGTERM; a second signal ends the process.

    `note` gets to say that a signal came. Returns the result, and the signal if there was one.
    """
    _allow_open_files()
    try:
        return anyio.run(_run, work, note)
    except StoppedError as error:
        tell(f"uploader: {error}")
        os._exit(128 + error.signal_number)  # a thread may still hang in a read that nothing ends


def _allow_open_files() -> None:
    """As many as we may have at all: the usual 1,024 are for programs that use `select`, and --jobs may need more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _run(work: Callable[[anyio.Event], Awaitable[_T]], note: Callable[[str], object]) -> tuple[_T, int | None]:
    stop = anyio.Event()
    got: list[int] = []

    async def listen() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if got:
                    os._exit(128 + number)
                got.append(number)
                note("stopping; once more to stop at once")
                stop.set()

    error: UploaderError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        try:
            result = await work(stop)
        except UploaderError as raised:
            error = raised
        group.cancel_scope.cancel()
    if isinstance(error, StoppedError) and got:
        error.signal_number = got[0]
    if error is not None:
        raise error
    return result, got[0] if got else None


def exit_status(report: Report, *, strict: bool, signal_number: int | None) -> int:
    """The exit status of a push: 128 + signal, 3 unusable, 1 failures (or gaps, when `strict`), 0."""
    if signal_number is not None and report.totals.interrupted:
        return 128 + signal_number
    if report.error is not None:
        return 3
    index_failed = report.index is not None and report.index.error is not None
    return 1 if report.totals.failed or index_failed or (strict and report.totals.incomplete) else 0


def fail(error: UploaderError) -> NoReturn:
    """Say what is wrong in one line, and exit."""
    tell(f"uploader: {error}")
    match error:
        case InputError():
            sys.exit(2)
        case UnusableError():
            sys.exit(3)
        case _:
            sys.exit(1)
