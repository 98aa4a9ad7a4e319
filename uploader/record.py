"""The local record: what earlier pushes hashed, packed and found in repositories (SQLite).

It saves work and is never proof: what it says of a repository is a guess to be asked about, and what it says of
files holds only while they are in the very state that was hashed. So losing it costs time and nothing else, and it
never fails a push: a database that is locked, not to be written, or of a newer version is said once in `problem`,
and the push goes on without it; a corrupt one is moved aside for a new one.

A transaction takes 15 to 35 microseconds (write-ahead log, synchronous=NORMAL), and a package has four things to be
kept. So what comes within 20 ms of a write waits for the next one, or for `flush`: a killed process loses that, but
never the hash or the sending of many bytes, a packed tree or a session; a power cut takes the last moments. All calls
come from one thread and do not wait, save for another process's writing: a second at most, and then no more. Processes
may share the file, machines may not: the log needs shared memory, so it must not lie on a network file system. What is
not used for 90 days is dropped when the record is opened. The sessions of uploads may hold secrets: they are kept for a
day, and only in a file that nobody else may read.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from uploader.errors import InputError
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from uploader.model.reference import Tag

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
_Value: TypeAlias = "int | str | bytes"

_APPLICATION_ID: Final = 0x75706C64  # "upld": tells our file from another program's
_SCHEMA: Final = 1
_HEADER: Final = b"SQLite format 3\0"
_COARSEST_TICK_NS: Final = 2_000_000_000  # FAT counts in 2 s
_DAY_SECONDS: Final = 24 * 3600
_KEEP_DAYS: Final = 90
_TOUCH_DAYS: Final = 7  # a use is noted at most this often
_TOGETHER_SECONDS: Final = 0.02
_MOST_PENDING: Final = 256
_MANY_BYTES: Final = 1024 * 1024  # hashed in about a millisecond
_SESSION_SECONDS: Final = 24 * 3600
"""No registry says how long it keeps an open upload; those that are known do so for a day and more."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file is still the one that was hashed; `measured_ns` is the time *before* its stat.

    A file may be written twice within one tick of its file system's clock; hashed in between, its state would say
    nothing of the second writing. So a state counts only when the last change lay further back than the coarsest
    tick: whatever is written after the measuring then shows. (A file server's clock must not lag more than that.)
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    measured_ns: int

    @classmethod
    def of(cls, stat: os.stat_result, measured_ns: int) -> Self:
        """The state that `os.stat` gave after the clock had shown `measured_ns`."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev, measured_ns)

    @property
    def text(self) -> str:
        """All but the time of measuring; as text because inodes may have more bits than SQLite's numbers."""
        return f"{self.size} {self.mtime_ns} {self.ctime_ns} {self.inode} {self.device}"


@dataclass(frozen=True, slots=True)
class TreeState:
    """The same for all files of a tree: `fingerprint` sums their states up, `newest_ns` is their latest time."""

    fingerprint: str
    newest_ns: int
    measured_ns: int


@dataclass(frozen=True, slots=True)
class TreeKey:
    """A tree and all that its layer's bytes depend on beside the files; `library` is the codec's version."""

    root: str
    at: str
    codec: str
    level: int
    library: str


@dataclass(frozen=True, slots=True)
class RecordedManifest:
    """What a tag pointed at when we last knew, and the package's own layer in it."""

    digest: Digest
    layer: Digest


@dataclass(frozen=True, slots=True)
class RecordedSession:
    """An upload that was not ended: its URL, which may hold secrets, and how many bytes of the blob went out so far.

    All of them count, those of sessions before this one too.
    """

    url: str = field(repr=False)
    sent: int


@dataclass(frozen=True, slots=True)
class _Table:
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
_FILES: Final = _Table("files", ("path",), ("state", *_LAYER))
_TREES: Final = _Table("trees", ("root", "at", "codec", "level", "library"), ("fingerprint", *_LAYER))
_BLOBS: Final = _Table("blobs", ("repository", "digest"))
_MANIFESTS: Final = _Table("manifests", ("repository", "tag"), ("digest", "layer"))
_TAGS: Final = "SELECT tag FROM manifests WHERE repository = ?"
_FACTS: Final = _Table("facts", ("host", "name"), ("json",))
_SESSIONS: Final = _Table("sessions", ("repository", "digest"), ("url", "sent", "seconds"))
_TABLES: Final = (_FILES, _TREES, _BLOBS, _MANIFESTS, _FACTS, _SESSIONS)


class _UnknownSchemaError(Exception):
    """The database is not this version's."""


class Record:
    """The record in the database at `path`; without a path it keeps nothing.

    `problem` says what was wrong with the database, for the user to be told once.
    """

    def __init__(
        self, path: Path | None, *, clock: Callable[[], float] = time.time, patience_seconds: float = 1.0
    ) -> None:
        self.problem: str | None = None
        self._path = path
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._database: sqlite3.Connection | None = None
        self._pending: dict[tuple[_Table, tuple[bytes | int, ...]], tuple[_Value, ...]] = {}
        self._written_at = 0.0
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; from then on nothing is known or kept."""
        try:
            self.flush()
        finally:
            self._let_go()

    def has_file(self, path: Path) -> bool:
        """Whether anything is known of the file: if not, its state need not be asked for first."""
        return self._get(_FILES, str(path)) is not None

    def layer_of_file(self, path: Path, state: FileState) -> Layer | None:
        """The layer that the file was found to be, if it is in the state of then."""
        match self._get(_FILES, str(path)):
            case [state.text, *layer]:
                return _layer(layer)
        return None

    def remember_file(self, path: Path, state: FileState, layer: Layer) -> None:
        """Keep that the file is this layer; hashed after `state` was measured, and not kept while it is too fresh."""
        if _at_rest(max(state.mtime_ns, state.ctime_ns), state.measured_ns):
            values = (state.text, *_columns(layer))
            self._put(_FILES, str(path), values=values, at_once=layer.descriptor.size >= _MANY_BYTES)

    def has_tree(self, tree: TreeKey) -> bool:
        """Whether anything is known of the tree: if not, its state need not be asked for."""
        return self._get(_TREES, *astuple(tree)) is not None

    def layer_of_tree(self, tree: TreeKey, state: TreeState | None) -> Layer | None:
        """The layer that the tree was packed to, if its files are in the state of then, or whatever they are (None)."""
        match self._get(_TREES, *astuple(tree)):
            case [fingerprint, *layer] if state is None or state.fingerprint == fingerprint:
                return _layer(layer)
        return None

    def remember_tree(self, tree: TreeKey, state: TreeState, layer: Layer) -> None:
        """Keep what the tree was packed to, after `state` was measured; not kept while it is too fresh."""
        if _at_rest(state.newest_ns, state.measured_ns):
            self._put(_TREES, *astuple(tree), values=(state.fingerprint, *_columns(layer)), at_once=True)

    def has_blob(self, repository: str, digest: Digest) -> bool:
        """Whether the blob was in the repository when we last knew."""
        return self._get(_BLOBS, repository, str(digest)) is not None

    def remember_blob(self, repository: str, digest: Digest, size: int) -> None:
        """Keep that the repository has the blob of `size` bytes."""
        self._put(_BLOBS, repository, str(digest), at_once=size >= _MANY_BYTES)

    def forget_blobs(self, repository: str, digests: Iterable[Digest]) -> None:
        """Drop what is said of blobs that turned out not to be there."""
        self._change((_BLOBS.forget, (_key(repository), _key(str(digest)))) for digest in digests)

    def manifest(self, repository: str, tag: Tag) -> RecordedManifest | None:
        """What the tag pointed at when we last knew."""
        match self._get(_MANIFESTS, repository, tag):
            case [str(digest), str(layer)]:
                with suppress(InputError):
                    return RecordedManifest(Digest.parse(digest), Digest.parse(layer))
        return None

    def tags(self, repository: str) -> frozenset[str]:
        """The tags of the repository of which anything is known."""
        self.flush()
        rows = self._rows(_TAGS, (_key(repository),))
        return frozenset(tag.decode("utf-8", "surrogatepass") for (tag,) in rows)

    def remember_manifest(self, repository: str, tag: Tag, manifest: RecordedManifest) -> None:
        """Keep what the tag points at."""
        self._put(_MANIFESTS, repository, tag, values=(str(manifest.digest), str(manifest.layer)))

    def forget_repository(self, repository: str) -> None:
        """Drop all that is said of a repository."""
        self._change(
            (f"DELETE FROM {table.name} WHERE repository = ?", (_key(repository),))  # noqa: S608
            for table in (_BLOBS, _MANIFESTS)
        )

    @property
    def lock_folder(self) -> Path | None:
        """Where the locks on sessions lie; None where none are kept, as in a file that others may read."""
        if self._path is None or self._database is None:
            return None
        try:
            private = not self._path.stat().st_mode & 0o077
        except OSError:  # somebody removed it
            return None
        return self._path.with_name(f"{self._path.name}-uploads") if private else None

    def session(self, repository: str, digest: Digest) -> RecordedSession | None:
        """The upload of that blob which was not ended; None where there is none, or an old one."""
        match self._get(_SESSIONS, repository, str(digest)):
            case [str(url), int(sent), int(seconds)] if 0 <= self._clock() - seconds < _SESSION_SECONDS:
                return RecordedSession(url, sent)
        return None

    def remember_session(self, repository: str, digest: Digest, session: RecordedSession) -> None:
        """Keep where the upload of that blob can be continued."""
        values = (session.url, session.sent, int(self._clock()))
        self._put(_SESSIONS, repository, str(digest), values=values, at_once=True)

    def forget_session(self, repository: str, digest: Digest) -> None:
        """There is nothing to be continued."""
        self._change([(_SESSIONS.forget, (_key(repository), _key(str(digest))))])

    def fact(self, host: str, name: str) -> Json:
        """What was learnt of a host; None when nothing was."""
        match self._get(_FACTS, host, name):
            case [text]:
                return _json(text)
        return None

    def remember_fact(self, host: str, name: str, value: Json) -> None:
        """Keep what was learnt of a host."""
        self._put(_FACTS, host, name, values=(json.dumps(value),), at_once=True)

    def change_fact(self, host: str, name: str, change: Callable[[object], object]) -> bool:
        """Change what was learnt of a host, with no other process between; False when nothing can be kept.

        `change` gets what `fact` would give, and gives what JSON can hold.
        """
        key = _key(host), _key(name)

        def work(database: sqlite3.Connection) -> None:
            row = database.execute(_FACTS.get, key).fetchone()
            value = json.dumps(change(_json(row[1]) if row else None))
            database.execute(_FACTS.put, (*key, value, self._today))

        return self._transact(work)

    @property
    def _today(self) -> int:
        return int(self._clock() // _DAY_SECONDS)

    def _get(self, table: _Table, *key: str | int) -> list[_Value] | None:
        """The values of a row, which then counts as used."""
        names = tuple(map(_key, key))
        if pending := self._pending.get((table, names)):
            return list(pending[:-1])
        rows = self._rows(table.get, names)
        if not rows:
            return None
        row = rows[0]
        if row[0] <= self._today - _TOUCH_DAYS:
            self._change([(table.touch, (self._today, *names))])
        return list(row[1:])

    def _rows(self, question: str, key: tuple[bytes | int, ...]) -> list[tuple[Any, ...]]:
        """What the database answers; nothing where there is none, or it cannot be read any more."""
        if self._database is None:
            return []
        try:
            return self._database.execute(question, key).fetchall()
        except sqlite3.DatabaseError as error:
            self._give_up(error)
            return []

    def _put(self, table: _Table, *key: str | int, values: tuple[_Value, ...] = (), at_once: bool = False) -> None:
        """Write a row, soon or at once."""
        if self._database is None:
            return
        self._pending[table, tuple(map(_key, key))] = (*values, self._today)
        is_burst = 0 <= self._clock() - self._written_at < _TOGETHER_SECONDS
        if at_once or not is_burst or len(self._pending) >= _MOST_PENDING:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, if anything is."""
        if self._pending:
            pending, self._pending = self._pending, {}
            self._change((table.put, (*key, *row)) for (table, key), row in pending.items())

    def _change(self, statements: Iterable[tuple[str, tuple[_Value, ...]]]) -> None:
        """All of it in one transaction."""

        def work(database: sqlite3.Connection) -> None:
            for statement, values in statements:
                database.execute(statement, values)

        self._transact(work)

    def _transact(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Do it in one transaction, after what is pending; it waits for its turn at the beginning.

        False when nothing can be kept.
        """
        self.flush()
        self._written_at = self._clock()
        if self._database is None:
            return False
        try:
            with self._database:  # commits, or rolls back
                self._database.execute("BEGIN IMMEDIATE")
                work(self._database)
        except sqlite3.DatabaseError as error:
            self._give_up(error)
            return False
        return True

    def _open(self) -> None:
        if self._path is None:
            return
        try:
            self._database = _connected(self._path, self._patience_seconds)
        except (OSError, sqlite3.DatabaseError, _UnknownSchemaError) as error:
            self._give_up(error)
            return
        if self.fact("", "pruned") != self._today:
            self._change((table.prune, (self._today - _KEEP_DAYS,)) for table in _TABLES)
            self._change([(_SESSIONS.prune, (self._today - 1,))])
            self.remember_fact("", "pruned", self._today)

    def _let_go(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.DatabaseError):  # a damaged log, say: the next to open it finds out
                self._database.close()
        self._database = None
        self._pending = {}

    def _give_up(self, error: Exception) -> None:
        """Go on without the database; in place of a corrupt one, with a new one."""
        if isinstance(error, sqlite3.ProgrammingError):
            raise error  # our mistake, not the file's
        self._let_go()
        corrupt = getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
        if not corrupt or self.problem is not None or self._path is None:
            self.problem = f"the local record {self._path} is not used: {error}"
            return
        aside = self._path.with_name(f"{self._path.name}.corrupt")
        self.problem = f"the local record {self._path} was corrupt ({error}); it is now {aside}, and a new one is made"
        try:
            self._path.replace(aside)
            for ending in ("-wal", "-shm"):
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        except OSError as failure:
            self.problem = f"the local record {self._path} is corrupt and cannot be moved aside: {failure}"
            return
        self._open()


class NoRecord(Record):
    """The record that keeps nothing."""

    def __init__(self) -> None:
        super().__init__(None)


def _at_rest(changed_ns: int, measured_ns: int) -> bool:
    """Whether no change after `measured_ns` can leave the time stamp `changed_ns`."""
    return changed_ns < measured_ns - _COARSEST_TICK_NS


def _connected(path: Path, patience_seconds: float) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_what_is_no_database(path)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its other files the mode of this one
    database = sqlite3.connect(path, timeout=patience_seconds, isolation_level=None)
    try:
        _prepare(database)
    except BaseException:
        database.close()
        raise
    return database


def _refuse_what_is_no_database(path: Path) -> None:
    """Whatever else the path names by mistake is somebody's file: it is neither written to nor moved."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        if file.read(len(_HEADER)) not in {b"", _HEADER}:
            raise _UnknownSchemaError(
                "it is no database and was left alone; remove it, or name another file with --state"
            )


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
        raise _UnknownSchemaError("it is another program's database")
    elif version != _SCHEMA:
        raise _UnknownSchemaError(f"it has schema {version}, and this version of uploader knows schema {_SCHEMA}")
    for table in _TABLES:  # one that was added since the file was made harms no older version
        database.execute(table.create)
    database.execute("COMMIT")
    with suppress(sqlite3.OperationalError):  # another process is at it: then this one does without the log
        database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")


def _key(part: str | int) -> bytes | int:
    """Paths may hold what is no Unicode, which SQLite's text cannot."""
    return part if isinstance(part, int) else part.encode("utf-8", "surrogatepass")


def _json(text: _Value) -> Json:
    with suppress(ValueError, RecursionError):
        value: Json = json.loads(text) if isinstance(text, str) else None
        return value
    return None


def _columns(layer: Layer) -> tuple[_Value, ...]:
    descriptor = layer.descriptor
    return descriptor.media_type, str(descriptor.digest), descriptor.size, str(layer.diff_id)


def _layer(columns: list[_Value]) -> Layer | None:
    match columns:
        case [str(media_type), str(digest), int(size), str(diff_id)]:
            with suppress(InputError):
                return Layer(Descriptor(media_type, Digest.parse(digest), size), Digest.parse(diff_id))
    return None
