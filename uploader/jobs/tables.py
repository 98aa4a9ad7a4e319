"""The tables of a job store, the same for both engines, and how an older schema becomes this one.

A job's row is wide and seldom written. What changes with every heartbeat lies in the narrow `leases`, which has a row
for as long as the lease lasts. `attempts` keeps what became of every lease; `events` is written in the transaction of
the change that it tells of.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    delete,
    insert,
    inspect,
    select,
    text,
)

from uploader.errors import JobStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection, Dialect


class FreeText(TypeDecorator[str]):
    """Text that may hold what no engine can keep, which is spelled out: halves of characters, as of a file's name that
    is no Unicode, and NUL.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """What is kept."""
        return None if value is None else value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


metadata: Final = MetaData()

LIVE: Final = text("key IS NOT NULL AND state IN ('ready', 'leased')")
"""The jobs that own their key."""

jobs: Final = Table(
    "uploader_jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),  # `scheduled` is not kept: it is `ready` with `run_at` to come
    Column("payload", LargeBinary, nullable=False),
    Column("key", Text),
    Column("priority", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("leases", Integer, nullable=False),
    Column("losses", Integer, nullable=False, server_default="0"),  # lost leases in a row that got nothing done
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("finished", Double),
    Column("run_at", Double, nullable=False),
    Column("waits_since", Double, nullable=False),  # a clock that shows less was put back: the wait is over
    Column("progress", FreeText),
    Column("error", FreeText),
)
Index("uploader_jobs_live", jobs.c.key, unique=True, sqlite_where=LIVE, postgresql_where=LIVE)
READY: Final = text("state = 'ready'")
"""As text, so that a query may use the index: it holds for some rows only, and a parameter might be any state."""
Index(
    "uploader_jobs_ready",
    jobs.c.priority.desc(),
    jobs.c.run_at,
    jobs.c.id,
    sqlite_where=READY,
    postgresql_where=READY,
)
Index("uploader_jobs_state", jobs.c.state, jobs.c.id)
Index("uploader_jobs_finished", jobs.c.finished)

leases: Final = Table(
    "uploader_leases",
    metadata,
    Column("job", Text, primary_key=True),
    Column("token", Text, nullable=False, unique=True),
    Column("worker", FreeText, nullable=False),
    Column("ttl", Double, nullable=False),
    Column("beat", Integer, nullable=False),  # the sign of life
    Column("settled", Boolean, nullable=False),
    Column("progress", FreeText),
    Column("cancel", FreeText),  # the reason, once somebody asked for it
    postgresql_with={"fillfactor": 70},  # room for heartbeats beside the row that they replace
)

attempts: Final = Table(
    "uploader_attempts",
    metadata,
    Column("job", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("token", Text, nullable=False),
    Column("worker", FreeText, nullable=False),
    Column("started", Double, nullable=False),
    Column("ended", Double),
    Column("outcome", Text),
    Column("error", FreeText),
)

reports: Final = Table(
    "uploader_reports",
    metadata,
    Column("job", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),  # compressed by zlib
)

events: Final = Table(
    "uploader_events",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("job", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("detail", FreeText, nullable=False),
    sqlite_autoincrement=True,  # else the number of the last event is given again when that one is dropped
)
Index("uploader_events_of_job", events.c.job, events.c.seq)

workers: Final = Table(
    "uploader_workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", FreeText, nullable=False),
    Column("host", FreeText, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("machine", Text, nullable=False),
    Column("started", Double, nullable=False),
    Column("seen", Double, nullable=False),
)

messages: Final = Table(
    "uploader_messages",
    metadata,
    Column("id", Text, primary_key=True),  # of a broker's message that became jobs
    Column("seen", Double, nullable=False),  # when it came last
)
Index("uploader_messages_seen", messages.c.seen)

facts: Final = Table(
    "uploader_store",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)


def _run(*statements: str) -> Callable[[Connection], None]:
    def step(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    return step


STEPS: Final[Mapping[int, Callable[[Connection], None]]] = MappingProxyType({
    2: _run(
        "ALTER TABLE uploader_jobs ADD COLUMN losses INTEGER DEFAULT 0 NOT NULL",
        "CREATE TABLE uploader_messages (id TEXT NOT NULL PRIMARY KEY, seen DOUBLE PRECISION NOT NULL)",
        "CREATE INDEX uploader_messages_seen ON uploader_messages (seen)",
    ),
})  # fmt: skip


class Schema:
    """A version of the tables; `steps[n]` makes version n of the one before, by adding and never by taking away.

    A new database is made as the tables above say; so a column that is added there is also added by a step.
    """

    def __init__(self, version: int = max(STEPS), steps: Mapping[int, Callable[[Connection], None]] = STEPS) -> None:
        self.version = version
        self._steps = steps

    def bring(self, connection: Connection, store_id: str, name: str) -> str:
        """Make the database be of this version; gives the id of the store in it, `store_id` where it is new."""
        tables = inspect(connection).get_table_names()
        if facts.name not in tables:
            if jobs.name in tables:
                raise JobStoreError(f"{name} holds jobs but not which version wrote them", problem="corrupt")
            metadata.create_all(connection, checkfirst=False)
            connection.execute(insert(facts), [{"name": "id", "value": store_id}])
            self._stamp(connection)
            return store_id
        known = {row.name: row.value for row in connection.execute(select(facts))}
        self._migrate(connection, int(known["schema"]), name)
        return str(known["id"])

    def _migrate(self, connection: Connection, found: int, name: str) -> None:
        if found > self.version:
            raise JobStoreError(
                f"{name} has schema {found}, written by a newer uploader; this one knows up to {self.version}: "
                "use the newer one, or another database",
                problem="schema",
            )
        for version in range(found + 1, self.version + 1):
            self._steps[version](connection)
        if found != self.version:
            self._stamp(connection)

    def _stamp(self, connection: Connection) -> None:
        connection.execute(delete(facts).where(facts.c.name == "schema"))
        connection.execute(insert(facts), [{"name": "schema", "value": str(self.version)}])
