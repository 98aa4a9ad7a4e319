"""Which processes of this machine are gone, told by the lock file that each holds while it lives."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from uploader.errors import JobStoreError

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class ProcessLock:
    """A file that is locked from here to `close`, or to the end of the process however it comes.

    Not inherited by programs that are started, but by a fork without exec: never fork with an open store.
    """

    def __init__(self, folder: Path, process: str) -> None:
        self._path = folder / f"{process}.lock"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as problem:
            raise JobStoreError(
                f"make {self._path}, the lock file of this process: {problem.strerror}", problem="unavailable"
            ) from problem
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def close(self, *, keep: bool) -> None:
        """Unlock; the file is kept for others to see that this process is gone, where they need to."""
        if not keep:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


def provably_gone(folder: Path, process: str) -> bool:
    """Whether the process had a lock file here and does not hold it any more.

    No file proves nothing: the process may see another folder (a container, a private /tmp).
    """
    try:
        file = os.open(folder / f"{process}.lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who look do not see each other
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def forget(folder: Path, process: str) -> None:
    """Remove what a process that is gone left."""
    with suppress(OSError):
        (folder / f"{process}.lock").unlink()


def this_boot() -> str:
    """The same for all processes under one running kernel; empty where that cannot be told."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
