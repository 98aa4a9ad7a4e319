"""Standard output and error that may be closed, full, or have lost their reader: no work ends for that."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

from uploader.errors import UploaderError

_STANDARD = range(3)


class _Lasting:
    """A stream that takes whatever is written to it, read or not."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_streams_last() -> None:
    """From now on nobody need read standard error. What is closed is opened on nothing, or a file would be it."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes this very number, the lowest that is free
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know fewer letters than names have
    sys.stderr = cast("TextIO", _Lasting(sys.stderr or open(os.devnull, "w", encoding="utf-8")))  # noqa: SIM115, PTH123


def print_out(text: str) -> bool:
    """To standard output, in UTF-8 whatever the terminal's encoding is; whether that could be done."""
    try:
        print_result(text)
    except BrokenPipeError:
        lose_output()
        return False
    except UploaderError:
        return False
    return True


def print_result(text: str) -> None:
    """The same for what a command is for; raises UploaderError; BrokenPipeError where its reader has seen enough."""
    if sys.stdout is None:  # closed before we began
        raise UploaderError("cannot write to standard output: it is closed")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(f"{text}\n".encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        lose_output()
        raise UploaderError(f"cannot write to standard output: {error.strerror}") from error


def lose_output() -> None:
    """What standard output still holds would be written, and fail, at the end of the process."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(*lines: str) -> None:
    """Lines for people, on standard error: each stays one, and none steers the terminal, whatever names are in it."""
    for line in lines:
        print(in_one_line(line), file=sys.stderr)


def in_one_line(text: str) -> str:
    """What a file says in a message may hold line breaks, or try to steer the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
