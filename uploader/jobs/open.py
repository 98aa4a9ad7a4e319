"""Opening a job store by its URL."""

from __future__ import annotations

import os
import socket
import tempfile
import uuid
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from uploader.errors import InputError, JobStoreError
from uploader.jobs.postgres import PostgresDatabase
from uploader.jobs.processes import ProcessLock, this_boot
from uploader.jobs.sqlite import SqliteDatabase
from uploader.jobs.store import KEEP_SECONDS, SqlJobStore
from uploader.jobs.upkeep import Me

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from uploader.jobs.database import Clock
    from uploader.jobs.tables import Schema

_SQLITE: Final = "sqlite:///"
_POSTGRES: Final = ("postgresql://", "postgres://")


@asynccontextmanager
async def open_store(
    url: str,
    *,
    name: str = "",
    locks: Path | None = None,
    clock: Clock | None = None,
    schema: Schema | None = None,
    keep_seconds: float = KEEP_SECONDS,
) -> AsyncIterator[SqlJobStore]:
    """The store at `sqlite:///relative`, `sqlite:////absolute` or `postgresql://…`; raises InputError, JobStoreError.

    `name` is what this process is called in lists. `locks` is a folder that all processes of this machine see that
    share the store: by their lock files there it is known which of them are gone (for SQLite it lies beside the file).
    """
    database: SqliteDatabase | PostgresDatabase
    process = uuid.uuid4().hex
    if url.startswith(_SQLITE):
        path = _path(url)
        database, machine = SqliteDatabase(path, clock=clock, schema=schema), "this"
        locks = locks or path.with_name(f"{path.name}.processes")
    elif url.startswith(_POSTGRES):
        database, machine = PostgresDatabase(url, clock=clock, schema=schema), this_boot() or process
        locks = locks or _run_folder()
    else:
        scheme = url.partition(":")[0]
        raise InputError(f"jobs are kept at sqlite:///PATH or postgresql://…, not at {scheme}:…")
    me = Me(process, name or f"{socket.gethostname()}-{os.getpid()}", socket.gethostname(), os.getpid(), machine)
    try:
        await database.open()
        lock = ProcessLock(locks, process)
        store = SqlJobStore(database, me, locks, clock=clock, keep_seconds=keep_seconds)
        clean = False
        try:
            await store.open()
            yield store
        finally:
            with suppress(JobStoreError):
                clean = await store.close()
            lock.close(keep=not clean)
    finally:
        with suppress(JobStoreError):
            await database.close()


def _path(url: str) -> Path:
    path = url.removeprefix(_SQLITE)
    if not path or "?" in path:
        raise InputError("jobs are kept at sqlite:///PATH, with nothing behind the path")
    return Path(path)


def _run_folder() -> Path:
    """A folder for lock files that is this user's alone, and gone after the machine starts anew."""
    above = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(above) / "uploader" if above else Path(tempfile.gettempdir()) / f"uploader-{os.geteuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise JobStoreError(f"{folder}, for lock files, belongs to somebody else: remove it", problem="unsuitable")
    return folder
