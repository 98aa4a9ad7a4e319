"""The file that --report names."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from uploader.cli.streams import print_out, tell
from uploader.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


def check_writable(path: Path | None) -> None:
    """A report that cannot be written is found out before the work, not after; raises InputError."""
    if path is None or str(path) == "-":
        return
    if path.is_dir():
        raise InputError(f"cannot write the report to {path}: it is a folder")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise InputError(f"cannot write the report to {path}: {path.parent} is not a folder one may write to")


def status_with(status: int, *, written: bool) -> int:
    """The exit status of a command that ended with `status` and `written` or not its report: that is a failure too."""
    return status if written else status or 1


def write_report(to_json: Callable[[], str], path: Path | None) -> bool:
    """Whole or not at all: a reader never sees half a report. Returns whether it is where it should be.

    Where none is wanted, none is made: that of 100,000 packages takes 150 MB.
    """
    if path is None:
        return True
    text = to_json()
    if str(path) == "-":
        if not (written := print_out(text)):
            tell("uploader: cannot write the report to standard output")
        return written
    target = Path(os.path.realpath(path))  # of a link, what it points at
    part = target.with_name(f".report-{secrets.token_hex(8)}")
    try:
        if target.exists() and not target.is_file():
            target.write_text(text + "\n", encoding="utf-8")
            return True
        with part.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        where = "it is on standard output" if print_out(text) else "nor could it be printed"
        tell(f"uploader: cannot write the report to {path}: {error.strerror}; {where}")
        return False
    return True
