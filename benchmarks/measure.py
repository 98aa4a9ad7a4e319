"""One run of a program, measured: wall time, processor time, peak memory, and what it prints of itself.

The peak memory that the kernel reports of a process is at least that of the one that started it, so this process
stays small: works are made, and pushes are run, in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from threading import Timer
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MOST_SECONDS: Final = 900.0
_SHOWN_BYTES: Final = 2000

Run: TypeAlias = "dict[str, float]"
"""Metrics of one run by name: `wall` and `cpu` in seconds, `rss` in bytes, and others."""


class RunFailedError(Exception):
    """A program ended with another status than 0, or took too long."""


@dataclass(frozen=True, slots=True)
class Program:
    """A command line; `tells` says that the last line it prints is JSON, metrics of its own."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    tells: bool = False


def python(module: str, *arguments: object) -> list[str]:
    """The command line that runs a module in a process of its own."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(program: Program, scratch: Path, *, most_seconds: float = MOST_SECONDS) -> Run:
    """Run the program to its end, at home in an empty folder; what it says is shown when it fails."""
    output, errors = scratch / "stdout", scratch / "stderr"
    with TemporaryDirectory(dir=scratch) as home, output.open("wb") as out, errors.open("wb") as err:
        environment = {**os.environ, "HOME": home, "XDG_STATE_HOME": home, **program.environment}
        began = time.perf_counter()
        process = subprocess.Popen(program.command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
        timer = Timer(most_seconds, process.kill)
        timer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            timer.cancel()
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        said = errors.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace").split("\n")
        last = next((line for line in reversed(said) if any(map(str.isalpha, line))), "it said nothing").strip(" |")
        raise RunFailedError(f"{' '.join(program.command[:4])} … ended with status {process.returncode}: {last}")
    told = json.loads(output.read_text().splitlines()[-1]) if program.tells else {}
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss * 1024.0, **told}
