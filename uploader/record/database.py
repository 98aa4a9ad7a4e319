"""The record's database: its tables as statements, how it is opened, and what stands in its columns."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from uploader.errors import InputError
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest

if TYPE_CHECKING:
    from pathlib import Path

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Value: TypeAlias = "int | str | bytes"

_APPLICATION_ID: Final = 0x75706C64  # "upld": tells our file from another program's
_SCHEMA: Final = 1
_HEADER: Final = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Table:
    """A table as statements; its names are written below, so nothing foreign gets into the SQL."""

    name: str
    key: tuple[str, ...]
    values: tuple[str, ...] = ()

    @property
    def create(self) -> str:
        columns = ", ".join((*self.key, *self.values, "used"))
        return f"CREATE TABLE IF NOT EXISTS {self.name} ({columns}, PRIMARY KEY ({', '.join(self.key)})) WITHOUT ROWID"

    @property
    def get(self) -> str:
        return f"SELECT {', '.join(('used', *self.values))} FROM {self.name} WHERE {self._is_key}"  # noqa: S608

    @property
    def put(self) -> str:
        marks = ", ".join("?" * (len(self.key) + len(self.values) + 1))
        return f"INSERT OR REPLACE INTO {self.name} VALUES ({marks})"  # noqa: S608

    @property
    def touch(self) -> str:
        return f"UPDATE {self.name} SET used = ? WHERE {self._is_key}"  # noqa: S608

    @property
    def forget(self) -> str:
        return f"DELETE FROM {self.name} WHERE {self._is_key}"  # noqa: S608

    @property
    def prune(self) -> str:
        return f"DELETE FROM {self.name} WHERE used < ?"  # noqa: S608

    @property
    def _is_key(self) -> str:
        return " AND ".join(f"{column} = ?" for column in self.key)


_LAYER: Final = ("media_type", "digest", "size", "diff_id")
FILES: Final = Table("files", ("path",), ("state", *_LAYER))
TREES: Final = Table("trees", ("root", "at", "codec", "level", "library"), ("fingerprint", *_LAYER))
BLOBS: Final = Table("blobs", ("repository", "digest"))
MANIFESTS: Final = Table("manifests", ("repository", "tag"), ("digest", "layer"))
TAGS: Final = "SELECT tag FROM manifests WHERE repository = ?"
FACTS: Final = Table("facts", ("host", "name"), ("json",))
SESSIONS: Final = Table("sessions", ("repository", "digest"), ("url", "sent", "seconds"))
TABLES: Final = (FILES, TREES, BLOBS, MANIFESTS, FACTS, SESSIONS)


class UnknownSchemaError(Exception):
    """The database is not this version's."""


def connected(path: Path, patience_seconds: float) -> sqlite3.Connection:
    """The database at `path`, made where there is none; raises OSError, sqlite3.DatabaseError, UnknownSchemaError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        raise UnknownSchemaError("it is no regular file")
    with suppress(FileExistsError):  # one that is there is never opened beside SQLite: closing it would end its locks
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite's other files get this mode, too
    database = sqlite3.connect(path, timeout=patience_seconds, isolation_level=None)
    try:
        _prepare(database)
    except BaseException:
        database.close()
        raise
    return database


def identity_of(path: Path) -> tuple[int, int] | None:
    """Which file is at the path; None where none is."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def move_aside(path: Path, opened: tuple[int, int] | None, aside: Path) -> bool:
    """Give a corrupt database another name, with its log; False where somebody else has done so since it was `opened`.

    Raises OSError, and UnknownSchemaError for what is no database: somebody's file, neither written to nor moved.
    """
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of two who find it corrupt the second must not move the new one
        if file.read(len(_HEADER)) != _HEADER:
            raise UnknownSchemaError(
                "it is no database and was left alone; remove it, or name another file with --state"
            )
        status = os.fstat(file.fileno())
        if not (status.st_dev, status.st_ino) == opened == identity_of(path):
            return False
        for ending in ("-wal", "-shm"):  # first: whoever opens the new one would take the old one's log for its own
            path.with_name(path.name + ending).unlink(missing_ok=True)
        path.replace(aside)
    return True


def _prepare(database: sqlite3.Connection) -> None:
    """Check that the database is ours; make an empty one so."""
    database.execute("BEGIN IMMEDIATE")
    (application,), (version,), (tables,) = (
        database.execute(question).fetchone()
        for question in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if (application, version, tables) == (0, 0, 0):
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {_SCHEMA}")
    elif application != _APPLICATION_ID:
        raise UnknownSchemaError("it is another program's database")
    elif version != _SCHEMA:
        raise UnknownSchemaError(f"it has schema {version}, and this version of uploader knows schema {_SCHEMA}")
    for table in TABLES:  # one that was added since the file was made harms no older version
        database.execute(table.create)
    database.execute("COMMIT")
    with suppress(sqlite3.OperationalError):  # another process is at it: then this one does without the log
        database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")


def key_of(part: str | int) -> bytes | int:
    """Paths may hold what is no Unicode, which SQLite's text cannot."""
    return part if isinstance(part, int) else part.encode("utf-8", "surrogatepass")


def json_of(text: Value) -> Json:
    """What the column says; None for what is no JSON."""
    with suppress(ValueError, RecursionError):
        value: Json = json.loads(text) if isinstance(text, str) else None
        return value
    return None


def columns_of(layer: Layer) -> tuple[Value, ...]:
    """As the tables of files and trees keep it."""
    descriptor = layer.descriptor
    return descriptor.media_type, str(descriptor.digest), descriptor.size, str(layer.diff_id)


def layer_of(columns: list[Value]) -> Layer | None:
    """The inverse; None for what is no layer."""
    match columns:
        case [str(media_type), str(digest), int(size), str(diff_id)]:
            with suppress(InputError):
                return Layer(Descriptor(media_type, Digest.parse(digest), size), Digest.parse(diff_id))
    return None
