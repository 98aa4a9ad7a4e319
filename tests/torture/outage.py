"""A job store that is away for a while: a server that was killed, a file that somebody moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.jobs.postgresql import PostgresServer


class Outage(Protocol):
    """A store that is away from `begin` to `end`; `end` may be said twice."""

    def begin(self) -> None: ...
    def end(self) -> None: ...


class Killed:
    """The server of PostgreSQL."""

    def __init__(self, server: PostgresServer) -> None:
        self.begin, self.end = server.kill, server.start


class TakenAway:
    """The file of SQLite."""

    def __init__(self, database: Path) -> None:
        self._database, self._away = database, database.with_name("away")

    def begin(self) -> None:
        self._database.rename(self._away)

    def end(self) -> None:
        if self._away.exists():
            self._away.rename(self._database)
