"""The layer of one prefix: what Spack needs to know to relocate it, found out while it is packed.

Behind the files comes `.spack/binary_distribution` with the lists of what must be changed when the package is installed
elsewhere: programs and libraries (their RPATHs), texts that name the store, and absolute links into it. A stale one in
the prefix is left out. The two kinds of Spack differ in what they look at and in the order of the lists and keys.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from uploader.errors import SourceError
from uploader.sources.spack.buildinfo import buildinfo
from uploader.sources.spack.content import ByContent, Content, FileCommand

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from uploader.sources.base import SeenEntry
    from uploader.sources.spack.buildinfo import Value
    from uploader.sources.spack.installation import Installation

TRAILER: Final = ".spack/binary_distribution"
_NOT_LOOKED_AT: Final = frozenset({".spack", "man"})  # by Spack 0.x, at any depth


@dataclass(frozen=True, slots=True)
class Trailer:
    """The file at the end of the layer (`sources.base.AddedFile`)."""

    content: bytes
    path: str = TRAILER
    mode: int = 0o644


@dataclass(slots=True)
class Relocatable:
    """Paths relative to the prefix, by what is to be done to them."""

    binaries: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


def stale_trailer(root: Path) -> tuple[int, int] | None:
    """The device and inode of the file that an earlier installation left; its other names are left out too.

    Raises SourceError where a folder is in its place.
    """
    try:
        status = os.lstat(root / TRAILER)
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise SourceError(
            f"pack {str(root)!r}: {TRAILER} in it is a folder, and Spack needs a file there", stage="pack"
        )
    return status.st_dev, status.st_ino


class NewInspector:
    """Classifies as Spack 1.x. Mutable: the lists, and the file at hand.

    It looks at all links, at all files outside of the top `.spack`, at hard links under their first name in the layer.
    """

    def __init__(self, installation: Installation, stale: tuple[int, int] | None) -> None:
        self._installation = installation
        self._stale = stale
        self._sought = tuple(path.encode("utf-8", "surrogateescape") for path in installation.sought)
        self._found = Relocatable()
        self._path = ""
        self._content: Content | None = None

    def skip(self, status: os.stat_result, /) -> bool:
        """Leaves out the stale trailer, by whatever name."""
        return (status.st_dev, status.st_ino) == self._stale

    def start(self, entry: SeenEntry, /) -> None:
        """Take note of the entry before, and of this one if it is a link."""
        self._end()
        if entry.kind == "symlink":
            if entry.target.startswith(self._installation.sought):
                self._found.links.append(entry.path)
        elif entry.kind == "file" and entry.status.st_size and not entry.path.startswith(".spack/"):
            self._path = entry.path
            self._content = Content(ByContent(), self._sought)

    def feed(self, chunk: memoryview, /) -> None:
        """Look at bytes of the file at hand."""
        if self._content is not None:
            self._content.feed(chunk)

    def trailer(self) -> Sequence[Trailer]:
        """The layer's last entry."""
        self._end()
        values = {
            **_places(self._installation),
            "hardlinks_deduped": True,
            "hash_to_prefix": self._installation.hash_to_prefix,
            "relocate_binaries": self._found.binaries,
            "relocate_links": self._found.links,
            "relocate_textfiles": self._found.texts,
        }
        return (Trailer(buildinfo(values)),)

    def _end(self) -> None:
        if self._content is not None:
            _sort_in(self._found, self._path, self._content)
            self._content = None


class OldInspector:
    """Classifies as Spack 0.x. Mutable: what each file is, the names of files that have several, the links.

    It walks apart from the tar, over all names in order, and not into folders called `.spack` or `man`; so what is
    listed of hard links is the first name of *that* walk, and the lists are in its order.
    """

    def __init__(self, installation: Installation, stale: tuple[int, int] | None) -> None:
        self._installation = installation
        self._stale = stale
        self._sought = tuple(path.encode("utf-8", "surrogateescape") for path in installation.sought)
        self._found = Relocatable()
        self._names: dict[str, list[str]] = {}  # what can be listed, by the name in the tar that holds the content
        self._first = ""
        self._content: Content | None = None

    def skip(self, status: os.stat_result, /) -> bool:
        """Leaves out the stale trailer, by whatever name."""
        return (status.st_dev, status.st_ino) == self._stale

    def start(self, entry: SeenEntry, /) -> None:
        """Take note of the entry before, and of this one."""
        self._end()
        if entry.kind == "directory":
            return
        is_looked_at = _NOT_LOOKED_AT.isdisjoint(entry.path.split("/")[:-1])
        if entry.kind == "symlink":
            if is_looked_at and entry.target.startswith(self._installation.store):
                self._found.links.append(entry.path)
        elif entry.kind == "hardlink":
            if is_looked_at:
                self._names.setdefault(entry.target, []).append(entry.path)
        elif entry.status.st_size and (is_looked_at or entry.status.st_nlink > 1):
            self._names[entry.name] = [entry.path] if is_looked_at else []
            self._first = entry.name
            self._content = Content(FileCommand(), self._sought)

    def feed(self, chunk: memoryview, /) -> None:
        """Look at bytes of the file at hand."""
        if self._content is not None:
            self._content.feed(chunk)

    def trailer(self) -> Sequence[Trailer]:
        """The layer's last entry."""
        self._end()
        values = {
            **_places(self._installation),
            "relocate_textfiles": self._listed(self._found.texts),
            "relocate_binaries": self._listed(self._found.binaries),
            "relocate_links": sorted(self._found.links, key=_in_walk),
            "hardlinks_deduped": True,
            "hash_to_prefix": self._installation.hash_to_prefix,
        }
        return (Trailer(buildinfo(values)),)

    def _end(self) -> None:
        if self._content is not None:
            _sort_in(self._found, self._first, self._content)
            self._content = None

    def _listed(self, firsts: Sequence[str]) -> list[str]:
        names = (min(self._names[first], key=_in_walk) for first in firsts if self._names[first])
        return sorted(names, key=_in_walk)


def _sort_in(found: Relocatable, path: str, content: Content) -> None:
    match content.kind():
        case "binary":
            found.binaries.append(path)
        case "text":
            found.texts.append(path)
        case "other":
            pass


def _in_walk(path: str) -> list[str]:
    """The order of a walk that goes into a folder where it meets it."""
    return path.split("/")


def _places(installation: Installation) -> dict[str, Value]:
    return {
        "sbang_install_path": f"{installation.store}/bin/sbang",
        "buildpath": installation.store,
        "spackprefix": installation.spack,
        "relative_prefix": os.path.relpath(installation.prefix, installation.store),
    }
