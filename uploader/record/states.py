"""What the record keeps, and in which state files have to be for it to hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    import os

    from uploader.model.digest import Digest

_COARSEST_TICK_NS: Final = 2_000_000_000  # FAT counts in 2 s


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


def at_rest(changed_ns: int, measured_ns: int) -> bool:
    """Whether no change after `measured_ns` can leave the time stamp `changed_ns`."""
    return changed_ns < measured_ns - _COARSEST_TICK_NS
