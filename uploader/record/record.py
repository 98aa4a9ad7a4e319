"""The record: what is asked of it and told to it, and when that is written."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import suppress
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, Final, Self

from uploader.errors import InputError
from uploader.model.digest import Digest
from uploader.record.database import (
    BLOBS,
    FACTS,
    FILES,
    MANIFESTS,
    SESSIONS,
    TABLES,
    TAGS,
    TREES,
    Table,
    UnknownSchemaError,
    columns_of,
    connected,
    identity_of,
    json_of,
    key_of,
    layer_of,
    move_aside,
)
from uploader.record.states import RecordedManifest, RecordedSession, at_rest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from uploader.model.descriptor import Layer
    from uploader.model.reference import Tag
    from uploader.record.database import Json, Value
    from uploader.record.states import FileState, TreeKey, TreeState


_DAY_SECONDS: Final = 24 * 3600
_KEEP_DAYS: Final = 90
_TOUCH_DAYS: Final = 7  # a use is noted at most this often
_TOGETHER_SECONDS: Final = 0.02
_MOST_PENDING: Final = 256
_MANY_BYTES: Final = 1024 * 1024  # hashed in about a millisecond
_SESSION_SECONDS: Final = 24 * 3600
"""No registry says how long it keeps an open upload; those that are known do so for a day and more."""


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
        self._opened: tuple[int, int] | None = None
        self._pending: dict[tuple[Table, tuple[bytes | int, ...]], tuple[Value, ...]] = {}
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
        return self._get(FILES, str(path)) is not None

    def layer_of_file(self, path: Path, state: FileState) -> Layer | None:
        """The layer that the file was found to be, if it is in the state of then."""
        match self._get(FILES, str(path)):
            case [state.text, *layer]:
                return layer_of(layer)
        return None

    def remember_file(self, path: Path, state: FileState, layer: Layer) -> None:
        """Keep that the file is this layer; hashed after `state` was measured, and not kept while it is too fresh."""
        if at_rest(max(state.mtime_ns, state.ctime_ns), state.measured_ns):
            values = (state.text, *columns_of(layer))
            self._put(FILES, str(path), values=values, at_once=layer.descriptor.size >= _MANY_BYTES)

    def has_tree(self, tree: TreeKey) -> bool:
        """Whether anything is known of the tree: if not, its state need not be asked for."""
        return self._get(TREES, *astuple(tree)) is not None

    def layer_of_tree(self, tree: TreeKey, state: TreeState | None) -> Layer | None:
        """The layer that the tree was packed to, if its files are in the state of then, or whatever they are (None)."""
        match self._get(TREES, *astuple(tree)):
            case [fingerprint, *layer] if state is None or state.fingerprint == fingerprint:
                return layer_of(layer)
        return None

    def remember_tree(self, tree: TreeKey, state: TreeState, layer: Layer) -> None:
        """Keep what the tree was packed to, after `state` was measured; not kept while it is too fresh."""
        if at_rest(state.newest_ns, state.measured_ns):
            self._put(TREES, *astuple(tree), values=(state.fingerprint, *columns_of(layer)), at_once=True)

    def has_blob(self, repository: str, digest: Digest) -> bool:
        """Whether the blob was in the repository when we last knew."""
        return self._get(BLOBS, repository, str(digest)) is not None

    def remember_blob(self, repository: str, digest: Digest, size: int) -> None:
        """Keep that the repository has the blob of `size` bytes."""
        self._put(BLOBS, repository, str(digest), at_once=size >= _MANY_BYTES)

    def forget_blobs(self, repository: str, digests: Iterable[Digest]) -> None:
        """Drop what is said of blobs that turned out not to be there."""
        self._change((BLOBS.forget, (key_of(repository), key_of(str(digest)))) for digest in digests)

    def manifest(self, repository: str, tag: Tag) -> RecordedManifest | None:
        """What the tag pointed at when we last knew."""
        match self._get(MANIFESTS, repository, tag):
            case [str(digest), str(layer)]:
                with suppress(InputError):
                    return RecordedManifest(Digest.parse(digest), Digest.parse(layer))
        return None

    def tags(self, repository: str) -> frozenset[str]:
        """The tags of the repository of which anything is known."""
        self.flush()
        rows = self._rows(TAGS, (key_of(repository),))
        return frozenset(tag.decode("utf-8", "surrogatepass") for (tag,) in rows)

    def remember_manifest(self, repository: str, tag: Tag, manifest: RecordedManifest) -> None:
        """Keep what the tag points at."""
        self._put(MANIFESTS, repository, tag, values=(str(manifest.digest), str(manifest.layer)))

    def forget_repository(self, repository: str) -> None:
        """Drop all that is said of a repository."""
        self._change(
            (f"DELETE FROM {table.name} WHERE repository = ?", (key_of(repository),))  # noqa: S608
            for table in (BLOBS, MANIFESTS)
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
        match self._get(SESSIONS, repository, str(digest)):
            case [str(url), int(sent), int(seconds)] if 0 <= self._clock() - seconds < _SESSION_SECONDS:
                return RecordedSession(url, sent)
        return None

    def remember_session(self, repository: str, digest: Digest, session: RecordedSession) -> None:
        """Keep where the upload of that blob can be continued."""
        values = (session.url, session.sent, int(self._clock()))
        self._put(SESSIONS, repository, str(digest), values=values, at_once=True)

    def forget_session(self, repository: str, digest: Digest) -> None:
        """There is nothing to be continued."""
        self._change([(SESSIONS.forget, (key_of(repository), key_of(str(digest))))])

    def fact(self, host: str, name: str) -> Json:
        """What was learnt of a host; None when nothing was."""
        match self._get(FACTS, host, name):
            case [text]:
                return json_of(text)
        return None

    def remember_fact(self, host: str, name: str, value: Json) -> None:
        """Keep what was learnt of a host."""
        self._put(FACTS, host, name, values=(json.dumps(value),), at_once=True)

    def change_fact(self, host: str, name: str, change: Callable[[object], object]) -> bool:
        """Change what was learnt of a host, with no other process between; False when nothing can be kept.

        `change` gets what `fact` would give, and gives what JSON can hold.
        """
        key = key_of(host), key_of(name)

        def work(database: sqlite3.Connection) -> None:
            row = database.execute(FACTS.get, key).fetchone()
            value = json.dumps(change(json_of(row[1]) if row else None))
            database.execute(FACTS.put, (*key, value, self._today))

        return self._transact(work)

    @property
    def _today(self) -> int:
        return int(self._clock() // _DAY_SECONDS)

    def _get(self, table: Table, *key: str | int) -> list[Value] | None:
        """The values of a row, which then counts as used."""
        names = tuple(map(key_of, key))
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

    def _put(self, table: Table, *key: str | int, values: tuple[Value, ...] = (), at_once: bool = False) -> None:
        """Write a row, soon or at once."""
        if self._database is None:
            return
        self._pending[table, tuple(map(key_of, key))] = (*values, self._today)
        is_burst = 0 <= self._clock() - self._written_at < _TOGETHER_SECONDS
        if at_once or not is_burst or len(self._pending) >= _MOST_PENDING:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, if anything is."""
        if self._pending:
            pending, self._pending = self._pending, {}
            self._change((table.put, (*key, *row)) for (table, key), row in pending.items())

    def _change(self, statements: Iterable[tuple[str, tuple[Value, ...]]]) -> None:
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
        self._opened = identity_of(self._path)
        try:
            self._database = connected(self._path, self._patience_seconds)
            self._opened = identity_of(self._path)
        except (OSError, sqlite3.DatabaseError, UnknownSchemaError) as error:
            self._give_up(error)
            return
        if self.fact("", "pruned") != self._today:
            self._change((table.prune, (self._today - _KEEP_DAYS,)) for table in TABLES)
            self._change([(SESSIONS.prune, (self._today - 1,))])
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
            move_aside(self._path, self._opened, aside)
        except UnknownSchemaError as failure:
            self.problem = f"the local record {self._path} is not used: {failure}"
            return
        except OSError as failure:
            self.problem = f"the local record {self._path} is corrupt and cannot be moved aside: {failure}"
            return
        self._open()


class NoRecord(Record):
    """The record that keeps nothing."""

    def __init__(self) -> None:
        super().__init__(None)
