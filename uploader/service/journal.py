"""The journal of large blobs on their way, kept in the local record: where they are continued after a `kill -9`.

A session is written down when it is opened, and how much went out every 64 MiB. Two processes must not write to one
session, so whoever sends a blob holds a lock on it, which ends with the process: a file beside the record. A later push
that needs the very same bytes, told by their digest, takes the session over once it holds that lock. It reads them
again first: what the registry holds of them was sent by another process, and perhaps from another file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

import anyio.from_thread
import anyio.to_thread

from uploader.errors import SourceError
from uploader.model.outcome import Resent
from uploader.record import RecordedSession

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from uploader.model.descriptor import Descriptor
    from uploader.oci.http import Body
    from uploader.record import Record

_READ_BYTES: Final = 1024 * 1024
_NOTE_BYTES: Final = 64 * 1024 * 1024


class BlobJournal:
    """The notes on one blob (`oci.journal.Journal`), and its body, so that what goes out is counted.

    Mutable: the lock, once it is ours, the session, the bytes sent and noted, and what was sent again.
    """

    def __init__(self, record: Record, where: str, descriptor: Descriptor, body: Body) -> None:
        self._record = record
        self._where = where
        self._descriptor = descriptor
        self._body = body
        self._lock: _Lock | None = None
        self._session = ""
        self._sent = self._noted = 0
        self.resent: Resent | None = None

    @property
    def size(self) -> int:
        """The body's length in bytes."""
        return self._body.size

    def read(self, offset: int, length: int) -> bytes:
        """As the body does; raises SourceError."""
        content = self._body.read(offset, length)
        self._sent += length
        if self._session and self._sent >= self._noted + _NOTE_BYTES:
            self._note()
        return content

    async def begin(self) -> str | None:
        """The session that an earlier push left; None where the record keeps none, or another push is at this blob."""
        folder = self._record.lock_folder
        self._lock = _Lock.take(folder, f"{self._where} {self._descriptor.digest}") if folder else None
        if self._lock is None:
            return None
        left = self._record.session(self._where, self._descriptor.digest)
        if left is None:
            return ""
        if not await anyio.to_thread.run_sync(_is_whole, self._descriptor, self._body):
            self.ended()
            raise SourceError("the content is not what was hashed before: it was changed; push it again")
        self._session, self._sent = left.url, left.sent
        return left.url

    def opened(self, session: str) -> None:
        """Written down, if it can be."""
        self._session = session
        self._note()

    def ended(self) -> None:
        """Nothing is to be continued."""
        self._session = ""
        if self._lock is not None:
            self._record.forget_session(self._where, self._descriptor.digest)

    def sent_again(self, why: str) -> None:
        """For the report; more may have gone out before a kill than was noted."""
        self.resent = Resent(max(0, self._sent - self._descriptor.size), why)

    def _note(self) -> None:
        self._noted = self._sent
        if self._lock is not None:
            session = RecordedSession(self._session, self._sent)
            self._record.remember_session(self._where, self._descriptor.digest, session)

    def close(self) -> None:
        """Others may continue it now."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


@contextmanager
def journal(record: Record, where: str, descriptor: Descriptor, body: Body) -> Iterator[BlobJournal]:
    """The journal of one blob on its way to `where`."""
    notes = BlobJournal(record, where, descriptor, body)
    try:
        yield notes
    finally:
        notes.close()


def _is_whole(descriptor: Descriptor, body: Body) -> bool:
    found = hashlib.new(descriptor.digest.algorithm)
    for offset in range(0, descriptor.size, _READ_BYTES):
        anyio.from_thread.check_cancelled()
        found.update(body.read(offset, min(_READ_BYTES, descriptor.size - offset)))
    return found.hexdigest() == descriptor.digest.hex


class _Lock:
    """A locked file: until it is released, or the process ends however it does."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file

    @classmethod
    def take(cls, folder: Path, name: str) -> Self | None:
        """None where somebody else holds it, or none can be made."""
        path = folder / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(file).st_ino:  # else its last holder has just removed it
                return cls(path, file)
        except OSError:
            pass
        os.close(file)
        return None

    def release(self) -> None:
        with suppress(OSError):  # one that stays is as good as none
            self._path.unlink(missing_ok=True)
        os.close(self._file)
