"""Jobs in PostgreSQL: the engine for any number of daemons.

asyncpg through SQLAlchemy's asynchronous engine, which runs the same plain functions as the other engine does. A
transaction lasts for a few statements, never for an upload. NOTIFY is a hint: whoever waits looks every second anyway,
so a listener that died costs a second, and is made anew by the next who waits.

Numbers of a sequence become visible out of order: one that was drawn early may be committed late, and a reader who
went on from a higher one would never see it. So events get their numbers at the very end of a transaction, under a
lock that lasts until it is committed.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import asyncpg  # type: ignore[import-untyped]  # it has no types
from sqlalchemy import URL, event, insert, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine

from uploader.errors import InputError, JobStoreError, hide_login
from uploader.jobs.database import Changes, Clock, T, Transaction
from uploader.jobs.tables import Schema, events

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import DBAPIConnection

    from uploader.errors import StoreProblem

_CHANNEL: Final = "uploader_jobs"
_EVENTS_LOCK: Final = 0x75706C6401  # "upld": advisory locks are numbers that all programs of a database share
_SCHEMA_LOCK: Final = 0x75706C6402
_TRIES: Final = 10
_ROLLED_BACK: Final = frozenset({"40P01", "40001", "25P03"})  # deadlock, serialization, stopped in between
_ENDED: Final = frozenset({"57P01", "08003"})  # the session, by another daemon; without a word that was heard
_UNSENT: Final = ("cannot switch to state", "connection is closed")  # the server had ended the session before
_LIMIT_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 5.0
_CONNECTIONS: Final = 8
_LAST_PORT: Final = 65535
_SESSION: Final = {
    "application_name": "uploader",
    "lock_timeout": "10s",
    "statement_timeout": "20s",
    "idle_in_transaction_session_timeout": "2s",  # frees what a process holds that was stopped in between
}
_NOW: Final = text("SELECT extract(epoch FROM clock_timestamp())::float8")
_LOCK: Final = text("SELECT pg_advisory_xact_lock(:number)")
_END_STUCK: Final = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND application_name = 'uploader'"
    " AND state = 'active' AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - interval '2 seconds'"
)
_NOTIFY_AND_LOCK: Final = text("SELECT pg_notify(:channel, ''), pg_advisory_xact_lock(:number)")
_PROBLEMS: Final[dict[str, tuple[StoreProblem, str]]] = {
    "53100": ("full", "make room on the server's disk; no restart is needed"),
    "25006": ("read-only", "name the primary server, not a standby"),
    "XX001": ("corrupt", "restore the database from a backup"),
    "XX002": ("corrupt", "rebuild the index, or restore the database from a backup"),
}
_TO_LOOK_AT: Final = ("unavailable", "is the server up, and does it let us in?")


def _replace_closed(connection: DBAPIConnection, *_: object) -> None:
    """Have the pool connect anew after the server went away. A ping would ask it thrice before each transaction."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url).set(drivername="postgresql")
    except (ValueError, ArgumentError):
        parsed = None
    if parsed is None or (parsed.port or 0) > _LAST_PORT:
        raise InputError(f"the job store {hide_login(url)} is no URL: write postgresql://HOST[:PORT]/DATABASE")
    return parsed


class _RolledBackError(Exception):
    """The server did so; the transaction may simply be run again."""


class PostgresDatabase:
    """Fits `Database`. `_listener` is the connection that hears NOTIFY, once somebody waited."""

    def __init__(self, url: str, *, clock: Clock | None = None, schema: Schema | None = None) -> None:
        self.changes = Changes()
        self.full = False
        self._dsn = _parse(url)
        self._wall = (clock or Clock()).wall
        self._schema = schema or Schema()
        self._engine = create_async_engine(
            URL.create("postgresql+asyncpg"),
            async_creator=self._connect,
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=_LIMIT_SECONDS,
        )
        event.listen(self._engine.sync_engine, "checkout", _replace_closed)
        self._listener: asyncpg.Connection | None = None
        self._listening = anyio.Lock()

    async def open(self) -> None:
        """Check the server's settings, and make or migrate the tables."""
        await self.write(self._prepare)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run the work in a transaction of its own; again, if the server rolled it back."""
        for _ in range(_TRIES):
            try:
                value, changed = await self._once(work)
            except _RolledBackError:
                continue
            if changed:
                self.changes.tell()
            return value
        raise JobStoreError(
            f"{self._name}: the server rolled one transaction back {_TRIES} times; try again", problem="unavailable"
        )

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work that only reads."""
        return await self.write(work)

    async def listen(self) -> None:
        """Hear of changes that other daemons make. Without, waiting takes up to a second longer."""
        if self._listener is not None and not self._listener.is_closed():
            return
        async with self._listening:
            if self._listener is None or self._listener.is_closed():
                with suppress(*_BROKEN):
                    listener = await self._connect()
                    try:
                        await listener.add_listener(_CHANNEL, lambda *_: self.changes.tell())
                    except BaseException:
                        listener.terminate()
                        raise
                    self._listener = listener

    async def free(self) -> None:
        """End our sessions whose process was stopped between the two parts of a statement.

        The server waits for the second part with all locks held, and none of the limits of a session counts then.
        """
        with suppress(JobStoreError):  # who may not does without; of a server that is away, the next call tells
            await self.write(lambda tx: tx.connection.execute(_END_STUCK))

    async def close(self) -> None:
        """Let go of all connections."""
        with anyio.CancelScope(shield=True):
            if self._listener is not None:
                self._listener.terminate()
            await self._engine.dispose()

    async def _connect(self) -> asyncpg.Connection:
        """asyncpg reads the URL itself, so all that libpq knows may be in it (`sslmode`, a service, PGPASSFILE)."""
        return await asyncpg.connect(
            self._dsn.render_as_string(hide_password=False),
            timeout=_CONNECT_SECONDS,
            command_timeout=_LIMIT_SECONDS,
            server_settings=_SESSION,
        )

    async def _once(self, work: Callable[[Transaction], T]) -> tuple[T, bool]:
        at_work = False
        try:
            with anyio.fail_after(_LIMIT_SECONDS, shield=True):
                async with self._engine.connect() as connection, connection.begin():
                    at_work = True
                    done = await connection.run_sync(partial(self._run, work=work))
                    at_work = False  # a commit that was sent may have happened, whatever comes back
                    return done
        except _BROKEN as problem:
            if isinstance(problem, asyncpg.InternalClientError):
                await self._engine.dispose()  # what the pool took back is of no more use
            cause = problem.orig if isinstance(problem, DBAPIError) else problem
            state = getattr(cause, "sqlstate", None)
            unsent = any(said in str(cause) for said in _UNSENT)
            if state in _ROLLED_BACK or unsent or (at_work and state in _ENDED):
                raise _RolledBackError from problem
            raise self._mapped(cause, state) from problem

    def _run(self, connection: Connection, work: Callable[[Transaction], T]) -> tuple[T, bool]:
        tx = Transaction(connection, self._wall() if self._wall else float(connection.scalar(_NOW) or 0))
        value = work(tx)
        if tx.events:
            connection.execute(_NOTIFY_AND_LOCK, {"channel": _CHANNEL, "number": _EVENTS_LOCK})
            connection.execute(insert(events), tx.events)
        return value, bool(tx.events)

    def _prepare(self, tx: Transaction) -> None:
        for setting in ("fsync", "synchronous_commit"):
            if tx.connection.scalar(text(f"SHOW {setting}")) == "off":
                raise JobStoreError(
                    f"{self._name} has {setting} = off, so a crash would lose jobs that were confirmed: set it on "
                    "for this database",
                    problem="unsuitable",
                )
        tx.connection.execute(_LOCK, {"number": _SCHEMA_LOCK})
        self._schema.bring(tx.connection, uuid.uuid4().hex, self._name)

    @property
    def _name(self) -> str:
        return hide_login(self._dsn.set(query={}).render_as_string(hide_password=True))

    def _mapped(self, problem: BaseException | None, state: str | None) -> JobStoreError:
        kind, advice = _PROBLEMS.get(state or "", _TO_LOOK_AT)
        self.full = self.full or kind == "full"
        said = str(problem) or type(problem).__name__
        return JobStoreError(f"use the jobs in {self._name}: {said}; {advice}", problem=kind)


_BROKEN: Final = (
    DBAPIError,
    PoolTimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # used between the server's last word to it and the end of the connection
    OSError,
    TimeoutError,
)
