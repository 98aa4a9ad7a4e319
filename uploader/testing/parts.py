"""Real programs for tests: started on a free loopback port, stopped again, skipped where not installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from uploader.errors import UploaderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

_START_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.01
_LISTENING: Final = re.compile(r"listening on (127\.0\.0\.1:[0-9]+)")

REQUIRE_VARIABLE: Final = "UPLOADER_REQUIRE_PARTS"


class PartMissing(UploaderError):  # noqa: N818 - it is a reason to skip, not an error
    """A program that a test needs is not on this machine."""


class PartFailedError(UploaderError):
    """A program that a test needs is there, but did not start."""


def parts_are_required() -> bool:
    """Whether a missing part fails the test instead of skipping it."""
    return os.environ.get(REQUIRE_VARIABLE, "") == "1"


def find_program(name: str) -> str:
    """The program's path; raises PartMissing."""
    # what only root needs (mkfs) lies where the PATH of a user does not lead
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise PartMissing(f"the program {name} is not installed")
    return path


@contextmanager
def running(command: list[str], log: Path, find_address: Callable[[str], str | None]) -> Iterator[str]:
    """Run a server until the block ends; gives the address that `find_address` reads in its log.

    The server is to choose a free port and to say which: a port chosen here could be taken before it starts.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603
    try:
        yield _wait_for_address(process, command[0], log, find_address)
    finally:
        _stop(process)


def _wait_for_address(
    process: subprocess.Popen[bytes], program: str, log: Path, find_address: Callable[[str], str | None]
) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        status = process.poll()
        text = log.read_text(errors="replace")
        if status is not None:
            raise PartFailedError(f"{program} ended with status {status} instead of serving: {text[-500:]}")
        address = find_address(text)
        if address is not None:
            return address
        time.sleep(_POLL_SECONDS)
    raise PartFailedError(f"{program} named no address within {_START_SECONDS:.0f} s: {text[-500:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Part:
    """A server for a `with` block, or for `async with` (it then starts and stops in a thread)."""

    def __init__(self, start: Callable[[], AbstractContextManager[str]]) -> None:
        self._start = start
        self._running: AbstractContextManager[str] | None = None

    def __enter__(self) -> str:
        running_part = self._start()
        address = running_part.__enter__()
        self._running = running_part
        return address

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.__exit__(None, None, None)
            self._running = None

    async def __aenter__(self) -> str:
        return await anyio.to_thread.run_sync(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(self.__exit__, None, None, None))


def docker_registry(folder: Path) -> Part:
    """Debian's `docker-registry`, which keeps its content in `folder`; gives `127.0.0.1:PORT`."""
    return Part(partial(_docker_registry, folder))


@contextmanager
def _docker_registry(folder: Path) -> Iterator[str]:
    program = find_program("docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "content")},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": "127.0.0.1:0", "secret": "shared by no other replica"},
    }
    path = folder / "registry.yml"
    path.write_text(json.dumps(configuration))  # JSON is YAML
    with running([program, "serve", str(path)], folder / "registry.log", _listening) as host:
        yield host


def _listening(text: str) -> str | None:
    match = _LISTENING.search(text)
    return match[1] if match else None
