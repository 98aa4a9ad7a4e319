"""A job store that is away, or takes no writes: its server was killed, its disk is full, its file is gone."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from uploader.testing.parts import find_program

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.contract.jobs.postgresql import PostgresServer


class Outage(Protocol):
    """A store that is away from `begin` to `end`; `end` may be said twice."""

    def begin(self) -> None: ...
    def end(self) -> None: ...


class Killed:
    """The server of PostgreSQL, whose processes notice and end."""

    def __init__(self, server: PostgresServer) -> None:
        self.begin, self.end = server.kill, server.start


class Crashed:
    """The server of PostgreSQL, with all its processes at once."""

    def __init__(self, server: PostgresServer) -> None:
        self.begin, self.end = server.kill_all, server.start


class ReadOnly:
    """The server of PostgreSQL, as one that became a standby."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def begin(self) -> None:
        self._say("SET default_transaction_read_only = on")

    def end(self) -> None:
        self._say("RESET default_transaction_read_only")

    def _say(self, setting: str) -> None:
        self._server.sql(f"ALTER SYSTEM {setting}")
        self._server.sql("SELECT pg_reload_conf()")


class FullDisk:
    """The disk with the files of a server, and with the log of its transactions, of which it may die."""

    def __init__(self, server: PostgresServer, disk: Path) -> None:
        self._server = server
        self._ballast = disk / "ballast"

    def begin(self) -> None:
        fill(self._ballast)

    def end(self) -> None:
        self._ballast.unlink(missing_ok=True)
        self._server.start()


class OneOf:
    """Another one each time. Mutable: which."""

    def __init__(self, outages: Sequence[Outage], chance: random.Random) -> None:
        self._outages = outages
        self._chance = chance
        self._now = outages[0]

    def begin(self) -> None:
        self._now = self._chance.choice(self._outages)
        self._now.begin()

    def end(self) -> None:
        self._now.end()


class TakenAway:
    """The file of SQLite."""

    def __init__(self, database: Path) -> None:
        self._database, self._away = database, database.with_name("away")

    def begin(self) -> None:
        self._database.rename(self._away)

    def end(self) -> None:
        if self._away.exists():
            self._away.rename(self._database)


def fill(ballast: Path) -> None:
    """Write until there is no room any more."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes there; only root may mount one."""
    options = f"size={size}"
    subprocess.run([find_program("mount"), "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run([find_program("umount"), "--lazy", str(folder)], check=True)  # what was killed may still end
