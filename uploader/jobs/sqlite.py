"""Jobs in an SQLite file: the engine for one machine, with nothing to install.

One connection writes, in one worker thread at a time. Whoever comes while a transaction runs waits for the next one,
and that one carries the work of all who waited: one commit, so one wait for the disk, for up to a hundred callers.
A second connection reads. Commits are durable (write-ahead log, synchronous=FULL: with NORMAL a power cut lost
confirmed jobs). When anything goes wrong the connections are dropped and made anew at the next call, so a disk that
was full, read-only or away is used again as soon as it can be.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
import uuid
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic

import anyio
import anyio.to_thread
from sqlalchemy import create_engine, event, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from uploader.errors import JobStoreError, UploaderError
from uploader.jobs.database import Changes, Clock, T, Transaction
from uploader.jobs.gate import PATIENCE_SECONDS, Gate, refuse_network_file_system
from uploader.jobs.tables import Schema, events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from uploader.errors import StoreProblem

_AT_ONCE: Final = 100
_LOG_BYTES: Final = 64 * 1024 * 1024
_NOT_A_DATABASE: Final = "restore it from a backup, and remove the -wal and -shm files beside it; nothing was changed"
_PROBLEMS: Final[tuple[tuple[str, StoreProblem, str], ...]] = (
    ("SQLITE_FULL", "full", "make room on the disk; no restart is needed"),
    ("SQLITE_READONLY", "read-only", "make it writable; no restart is needed"),
    ("SQLITE_CORRUPT", "corrupt", _NOT_A_DATABASE),
    ("SQLITE_NOTADB", "corrupt", _NOT_A_DATABASE),
    ("SQLITE_BUSY", "unavailable", "another program has it open; let uploader alone use it"),
    ("SQLITE_IOERR", "unavailable", "look at the disk, and whether it is full"),
)
_OF_THE_SYSTEM: Final[dict[int, StoreProblem]] = {errno.ENOSPC: "full", errno.EROFS: "read-only"}


class _Entry(Generic[T]):
    """Somebody's work, and what came of it."""

    def __init__(self, work: Callable[[Transaction], T]) -> None:
        self.work = work
        self._values: list[T] = []
        self._problem: BaseException | None = None

    @property
    def settled(self) -> bool:
        return bool(self._values) or self._problem is not None

    def settle(self, value: T) -> None:
        self._values = [value]

    def fail(self, problem: BaseException) -> None:
        if not self.settled:
            self._problem = problem

    def take(self) -> T:
        if isinstance(self._problem, JobStoreError):  # one for all who waited: each gets its own to raise
            raise JobStoreError(str(self._problem), problem=self._problem.problem) from self._problem
        if self._problem is not None:
            raise self._problem
        return self._values[0]


class _OneFailedError(Exception):
    """The work of one of several failed, and with it the transaction."""


class SqliteDatabase:
    """Fits `Database`, over the file at `path`.

    `_turn` is held by whoever writes or opens or closes a connection, `_reading` by whoever uses the reader; one who
    needs both takes `_reading` first. The gate is only passed with `_turn`.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        schema: Schema | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.changes = Changes()
        self.full = False  # every write needs room in the log, so a small one tells by itself
        self._path = path.resolve()
        self._patience_seconds = patience_seconds
        self._wall = (clock or Clock()).wall or time.time
        self._schema = schema or Schema()
        self._waiting: list[_Entry[Any]] = []
        self._turn = anyio.Lock()
        self._reading = anyio.Lock()
        self._gate: Gate | None = None
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._reader_is_old = False
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None

    async def open(self) -> None:
        """Open the database, make it where there is none, and check that it is whole."""
        await self.write(lambda _: None)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run the work in a transaction, together with that of others who wait."""
        entry = _Entry(work)
        self._waiting.append(entry)
        with anyio.CancelScope(shield=True):
            async with self._turn:
                if not entry.settled:
                    batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
                    if await anyio.to_thread.run_sync(self._run, batch):
                        self.changes.tell()
        return entry.take()

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work that only reads; writers do not wait for it."""
        with anyio.CancelScope(shield=True):
            async with self._reading:
                if self._reader is None or self._reader_is_old:
                    async with self._turn:
                        await anyio.to_thread.run_sync(self._open_reader)
                value = await anyio.to_thread.run_sync(self._look, work)
        return value

    async def listen(self) -> None:
        """Other processes are only noticed by looking."""

    async def free(self) -> None:
        """The system's locks are their holder's for as long as it lives."""

    async def close(self) -> None:
        """Let go of the file; the last to do so empties the log."""
        with anyio.CancelScope(shield=True):
            async with self._reading, self._turn:
                await anyio.to_thread.run_sync(self._close)

    def _run(self, batch: list[_Entry[Any]]) -> bool:
        """Settle every entry; whether anything changed that somebody may wait for."""
        try:
            with self._guarded() as gate:
                return self._settle(gate, batch)
        except JobStoreError as problem:  # of the gate
            for entry in batch:
                entry.fail(problem)
            return False
        except BaseException as bug:
            for entry in batch:
                entry.fail(bug)
            raise

    def _settle(self, gate: Gate, batch: list[_Entry[Any]]) -> bool:
        try:
            with _errors_of(self._path):
                return self._together(self._ready_writer(gate), batch)
        except _OneFailedError:
            return any([self._settle(gate, [entry]) for entry in batch])  # noqa: C419 - all of them
        except UploaderError as problem:
            if isinstance(problem, JobStoreError):
                self._drop_writer()
            for entry in batch:
                entry.fail(problem)
            return False

    def _together(self, connection: Connection, batch: list[_Entry[Any]]) -> bool:
        with connection.begin():
            tx = Transaction(connection, self._wall())
            values = []
            for entry in batch:
                try:
                    values.append(entry.work(tx))
                except (UploaderError, DBAPIError) as problem:
                    if len(batch) > 1:
                        raise _OneFailedError from problem
                    raise
            if tx.events:
                connection.execute(insert(events), tx.events)
        for entry, value in zip(batch, values, strict=True):
            entry.settle(value)
        return bool(tx.events)

    def _look(self, work: Callable[[Transaction], T]) -> T:
        assert self._reader is not None  # noqa: S101 - just opened
        try:
            with _errors_of(self._path), self._reader.begin():
                return work(Transaction(self._reader, self._wall()))
        except JobStoreError:
            self._reader_is_old = True
            raise

    @contextmanager
    def _guarded(self) -> Iterator[Gate]:
        with _errors_of(self._path):
            if self._gate is None:
                refuse_network_file_system(self._path)
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                gate = self._path.with_name(f"{self._path.name}.lock")
                self._gate = Gate(gate, patience_seconds=self._patience_seconds)
            with self._gate.passed():
                yield self._gate

    def _ready_writer(self, gate: Gate) -> Connection:
        """The connection; anew where its file is not at the path any more, and so would be written to for nothing.

        The same for its log; what only the one that was taken away holds is carried over first.
        """
        if self._writer is not None and self._file != _identity(self._path):
            self._drop_writer()
        elif self._writer is not None and self._log != _identity(_log_of(self._path)):
            with suppress(JobStoreError), _errors_of(self._path):
                database = self._writer.connection.dbapi_connection
                assert isinstance(database, sqlite3.Connection)  # noqa: S101 - for the type
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._drop_writer()
        return self._writer or self._open_writer(gate)

    def _open_writer(self, gate: Gate) -> Connection:
        expected = gate.expected_store()
        _refuse_lost(self._path, expected)
        if not expected:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its other files this mode
        _refuse_damaged(self._path)
        connection = _connected(self._path, "BEGIN IMMEDIATE", "PRAGMA synchronous = FULL")
        try:
            with connection.begin():
                _refuse_foreign(connection, self._path, expected)
                store = self._schema.bring(connection, uuid.uuid4().hex, str(self._path))
            _refuse_another(self._path, store, expected)
        except BaseException:
            connection.close()
            raise
        if not expected:
            gate.expect_store(store)
        self._writer, self._reader_is_old = connection, True
        self._file, self._log = _identity(self._path), _identity(_log_of(self._path))
        return connection

    def _drop_writer(self) -> None:
        if self._writer is not None:
            with suppress(JobStoreError), _errors_of(self._path):
                self._writer.close()
        self._writer, self._reader_is_old = None, True

    def _open_reader(self) -> None:
        with self._guarded() as gate:
            self._ready_writer(gate)
            if self._reader is not None:
                self._reader.close()
            self._reader = _connected(self._path, "BEGIN", "PRAGMA query_only = 1")
            self._reader_is_old = False

    def _close(self) -> None:
        if self._gate is None:
            return
        with self._guarded():
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
        self._gate.close()
        self._gate = self._reader = self._writer = None


def _connected(path: Path, begin: str, *pragmas: str) -> Connection:
    """A connection whose transactions start by `begin`: one that reads first and writes later fails under load.

    It makes no database: where one was taken away just now, the new one would be empty.
    """
    there = f"{path.as_uri()}?mode=rw"
    connect = partial(sqlite3.connect, there, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False)
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    connection = engine.connect()
    database = connection.connection.dbapi_connection
    assert isinstance(database, sqlite3.Connection)  # noqa: S101 - for the type
    (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        connection.close()
        raise JobStoreError(f"the file system of {path} does not bear SQLite's log: use another", problem="unsuitable")
    for pragma in (*pragmas, f"PRAGMA journal_size_limit = {_LOG_BYTES}"):
        database.execute(pragma)
    return connection


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _refuse_lost(path: Path, expected: str) -> None:
    if expected and not (path.exists() and path.stat().st_size):
        raise _lost(path, "empty" if path.exists() else "gone")


def _lost(path: Path, how: str) -> JobStoreError:
    return JobStoreError(
        f"{path} held jobs and is {how} now: restore it from a backup, or remove {path}.lock to begin anew without "
        "them",
        problem="corrupt",
    )


def _refuse_another(path: Path, store: str, expected: str) -> None:
    if expected and store != expected:
        raise JobStoreError(
            f"{path} holds another store than the one that was here: put that one back, or remove {path}.lock to go "
            "on with this one",
            problem="corrupt",
        )


def _refuse_damaged(path: Path) -> None:
    """Looked at without writing: closing carries the log over, which may be another's beside a backup put back."""
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5.0, isolation_level=None)
    try:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    finally:
        database.close()
    if found != "ok":
        raise JobStoreError(f"{path} is damaged ({' '.join(found.split())}): {_NOT_A_DATABASE}", problem="corrupt")


def _refuse_foreign(connection: Connection, path: Path, expected: str) -> None:
    names = connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")).all()
    if expected and not names:
        raise _lost(path, "empty")
    if names and not any(name.startswith("uploader_") for name in names):
        raise JobStoreError(f"{path} is another program's database: name another file", problem="unsuitable")


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """SQLite's errors, and those of the file system, as ours."""
    try:
        yield
    except DBAPIError as problem:
        raise _mapped(path, problem.orig) from problem
    except sqlite3.Error as problem:
        raise _mapped(path, problem) from problem
    except OSError as problem:
        kind = _OF_THE_SYSTEM.get(problem.errno or 0, "unavailable")
        raise JobStoreError(f"use the jobs in {path}: {problem.strerror}", problem=kind) from problem


def _mapped(path: Path, problem: BaseException | None) -> JobStoreError:
    name = getattr(problem, "sqlite_errorname", "")
    for start, kind, advice in _PROBLEMS:
        if name.startswith(start):
            return JobStoreError(f"use the jobs in {path}: {problem} ({name}); {advice}", problem=kind)
    return JobStoreError(f"use the jobs in {path}: {problem} ({name})", problem="unavailable")
