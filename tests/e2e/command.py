"""Running the command as a user does: a process of its own, with its own home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import Process


@dataclass(frozen=True)
class Ended:
    """An ended command."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Command:
    """The command, with `home` for its record, its report and whatever it writes; it may take so many seconds."""

    home: Path
    seconds: float = 50

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, "HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state"), **more}

    @property
    def report(self) -> Any:
        return json.loads((self.home / "report.json").read_text())

    async def run(self, *arguments: object, **environment: str) -> Ended:
        return await self.run_line(self.line(*arguments), **environment)

    async def run_line(self, line: list[str], **environment: str) -> Ended:
        """Any program, with the environment of the command."""
        with anyio.fail_after(self.seconds):
            done = await anyio.run_process(
                line,
                stdin=subprocess.DEVNULL,
                check=False,
                env=self.environment(**environment),
                cwd=self.home,
            )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    async def push(self, source: object, to: str, *arguments: object, **environment: str) -> Ended:
        return await self.run("push", source, "--to", to, "--report", "report.json", *arguments, **environment)

    @asynccontextmanager
    async def started(self, *arguments: object) -> AsyncIterator[Process]:
        """The running process; killed at the end if it still runs."""
        process = await anyio.open_process(
            self.line(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment(),
            cwd=self.home,
        )
        try:
            with anyio.fail_after(self.seconds):
                yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.aclose()

    @staticmethod
    def line(*arguments: object) -> list[str]:
        return [sys.executable, "-m", "uploader", *map(str, arguments)]
