"""What SQLite needs around it: a gate between processes, and a file system of this machine."""

from __future__ import annotations

import fcntl
import os
import random
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from uploader.errors import JobStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS: Final = 30.0
_NETWORK: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "glusterfs", "afs", "gpfs", "beegfs", "pvfs2",
    "orangefs", "ocfs2", "gfs2", "9p", "coda", "ncpfs", "sshfs", "s3fs", "rclone", "gcsfuse", "mfs", "juicefs",
})  # fmt: skip
_MOUNTS: Final = Path("/proc/self/mountinfo")


class Gate:
    """One process at a time: a lock on a file beside the database.

    SQLite's own waiting is unfair (calls that waited 13 s were seen), and versions before 3.51.3 may damage the log
    when two connections write or checkpoint at once. So every write, checkpoint and close goes through here. The
    file also keeps which store lies in the database: a database that is empty or another is then not taken for new.
    """

    def __init__(self, path: Path, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._path = path
        self._patience_seconds = patience_seconds
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Be the one process; not for two threads at a time."""
        self._enter()
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _enter(self) -> None:
        until = time.monotonic() + self._patience_seconds
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise JobStoreError(
                        f"another process has held {self._path} for {self._patience_seconds:.0f} s: "
                        "is one stopped, or is the disk stuck?",
                        problem="unavailable",
                    ) from None
                time.sleep(random.uniform(0.0002, 0.002))  # noqa: S311 - so that those who wait take turns
            else:
                return

    def expected_store(self) -> str:
        """The id of the store that the database is to hold; empty before there is one."""
        return os.pread(self._file, 100, 0).decode("ascii", "replace").strip()

    def expect_store(self, store_id: str) -> None:
        """Keep the id."""
        os.pwrite(self._file, f"{store_id}\n".encode(), 0)
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def refuse_network_file_system(path: Path, mounts: Path = _MOUNTS) -> None:
    """SQLite's log needs memory that is shared between all who use it, so it works on one machine only."""
    try:
        text = mounts.read_text()
    except OSError:
        return  # not Linux: nothing to tell by
    kind = file_system_of(path, text)
    if is_network(kind):
        raise JobStoreError(
            f"{path} is on a network file system ({kind}), where SQLite loses data: "
            "use a local disk, or PostgreSQL (postgresql://…)",
            problem="unsuitable",
        )


def file_system_of(path: Path, mounts: str) -> str:
    """The kind of file system that a resolved path is on, by the text of /proc/self/mountinfo."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))  # spaces are written \040
        if path.is_relative_to(point) and len(point.parts) >= best:  # of two on one point the later hides the other
            best, kind = len(point.parts), after.split()[0]
    return kind


def is_network(kind: str) -> bool:
    """Whether other machines may see the same files; FUSE goes by what it carries (`fuse.sshfs`)."""
    return kind.removeprefix("fuse.") in _NETWORK
