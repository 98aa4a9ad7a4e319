"""A daemon as a user runs it: `uploader serve` in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.text import TextReceiveStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import Process

    from tests.e2e.command import Command, Ended

_START_SECONDS = 20


@dataclass
class Serving:
    """A running daemon: its process, its URL, and the lines of its log so far."""

    process: Process
    url: str
    log: list[dict[str, Any]]
    more: anyio.Event
    silent: anyio.Event

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal; gives its exit status, once all that it said is in the log."""
        self.process.send_signal(number)
        await self.silent.wait()
        return await self.process.wait()

    async def wait_said(self, message: str) -> None:
        """Wait until it is in the log."""
        while not self.said(message):
            await self.more.wait()

    def said(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line.get("msg") == message]


@asynccontextmanager
async def serving(command: Command, *arguments: object, **environment: str) -> AsyncIterator[Serving]:
    """`uploader serve`, from when it is ready until the block ends; then it is killed if it still runs."""
    line = [sys.executable, "-m", "uploader", "serve", "--listen", "127.0.0.1:0", *map(str, arguments)]
    async with reading(line, env=command.environment(**environment), cwd=command.home) as daemon:
        yield daemon


@asynccontextmanager
async def reading(line: list[str], **options: Any) -> AsyncIterator[Serving]:
    """A process whose log tells when it is ready, from then until the block ends."""
    process = await anyio.open_process(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
    )
    daemon = Serving(process, "", [], anyio.Event(), anyio.Event())
    ready = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_read, daemon, ready)
        try:
            with anyio.fail_after(_START_SECONDS):
                await ready.wait()
            assert daemon.url, daemon.log
            yield daemon
        except BaseException:
            print(*daemon.log, sep="\n")  # shown where the test failed
            raise
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()
            group.cancel_scope.cancel()


async def _read(daemon: Serving, ready: anyio.Event) -> None:
    assert daemon.process.stderr is not None
    rest = ""
    async for text in TextReceiveStream(daemon.process.stderr):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            entry = json.loads(line) if line.startswith("{") else {"msg": line}
            daemon.log.append(entry)
            if entry.get("msg") == "ready":
                daemon.url = entry["url"]
                ready.set()
        daemon.more.set()
        daemon.more = anyio.Event()
    daemon.silent.set()
    ready.set()  # it ended


async def submit(command: Command, url: str, source: object, to: str, *arguments: object) -> Ended:
    return await command.run("submit", source, "--to", to, *arguments, UPLOADER_SERVER=url)
