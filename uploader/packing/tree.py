"""What is in a tree: its entries, normalised, in the one order in which a layer holds them.

The order is Spack's: the folders above the tree, the tree's own folder, then depth first; inside a folder what is
not a folder comes first, by name, then the folders, by name. Owners, times and most of the mode are dropped, so
that two copies of a tree make the same layer (DESIGN, rule 12).

The walk cannot be led out of the tree. It opens folders without following links, and what it opens by name must be
the inode that it met in the parent folder, so a folder that is swapped for a link meanwhile is noticed; no file
descriptor is kept while an entry is handed out. Only `root` itself may be a symbolic link.

Names are UTF-8 whatever the locale; bytes that are not UTF-8 are carried as surrogates (PEP 383).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Literal, NamedTuple

from uploader.errors import SourceError, source_kind
from uploader.packing.cancelling import IsCancelled, never, stop_if

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from uploader.model.package import Tree

Kind = Literal["directory", "file", "symlink", "hardlink"]

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_LONGEST_SHOWN = 400
_WHITEOUT = ".wh."
_HINTS = {
    errno.ENOENT: "it is missing, or vanished meanwhile",
    errno.EACCES: "permission denied; run as a user who may read it",
    errno.ENOTDIR: "it, or what leads to it, is not a folder",
    errno.ELOOP: "it is, or was replaced by, a symbolic link that cannot be followed",
}


class Entry(NamedTuple):
    """One entry of the layer. (A tuple: a tree has many, and a frozen dataclass takes three times as long to make.)

    `name` is its name in the tar, without a slash at either end; `path` is relative to the tree's root.
    `target` is a symlink's text, or the name of the entry that a hard link repeats. `status` is what lstat said.
    """

    name: str
    path: str
    kind: Kind
    mode: int
    size: int
    target: str
    status: os.stat_result


class _Found(NamedTuple):
    """A directory's child, as it lies there."""

    name: str
    status: os.stat_result
    target: str


class _Listing(dict[str, "_Listing"]):
    """The wanted names of a folder, each with what is wanted below it."""


def folders_above(tree: Tree) -> list[str]:
    """The names, in the tar, of the folders that lead to the tree's own."""
    name = name_of(tree)
    return [name[:end] for end, character in enumerate(name) if character == "/"]


def entries(tree: Tree) -> Iterator[Entry]:
    """The tree's folder and all that is in it, in order; raises SourceError for what cannot be read.

    At the root of the image, the tree's folder has no entry.
    """
    wanted = None if tree.files is None else _listing(tree.files, str(tree.root))
    base = name_of(tree)
    root = root_of(tree)
    below = f"{base}/" if base else ""
    first_names: dict[tuple[int, int], str] = {}  # of files with several names, by device and inode
    pending = [("", _status(root), wanted)]
    while pending:
        path, status, wanted = pending.pop()
        inner = f"{path}/" if path else ""
        if base or path:
            yield Entry(below + path if path else base, path, "directory", 0o755, 0, "", status)
        leaves, folders = _sorted_children(native(root, path), inner, status, wanted)
        for found in leaves:
            yield _leaf(below + inner + found.name, inner + found.name, found, first_names)
        pending.extend(
            (inner + found.name, found.status, None if wanted is None else wanted[found.name])
            for found in reversed(folders)
        )


class Fingerprint:
    """A hash that changes whenever the layer of a tree might, made of its entries while they are met in their order.

    Each must be met before it is read: then a file that is changed meanwhile gives another fingerprint next time.
    Folders count by name only: one may be shared with files of other packages, which are not in the listing.
    `newest_ns` is the latest change so far.
    """

    def __init__(self) -> None:
        self.newest_ns = 0
        self._digest = hashlib.sha256()
        self._lines: list[str] = []

    def add(self, entry: Entry) -> None:
        """Take in the next entry."""
        name, _, kind, mode, size, target, status = entry
        if kind == "directory":  # a batch: one small update per file would take as long as the rest
            self._lines.append(f"{name}\0")
            self._take_in()
            return
        mtime_ns, ctime_ns = status.st_mtime_ns, status.st_ctime_ns
        self.newest_ns = max(self.newest_ns, mtime_ns, ctime_ns)
        self._lines.append(f"{kind} {mode} {size} {mtime_ns} {ctime_ns} {status.st_ino} {name}\0{target}\0")

    @property
    def text(self) -> str:
        """The hash of all entries so far, in hexadecimal digits."""
        self._take_in()
        return self._digest.hexdigest()

    def _take_in(self) -> None:
        self._digest.update("".join(self._lines).encode("utf-8", "surrogateescape"))
        self._lines.clear()


def fingerprint(tree: Tree, cancelled: IsCancelled = never) -> Fingerprint:
    """That of the tree as it is; lstat alone is asked. Raises SourceError."""
    found = Fingerprint()
    for entry in entries(tree):
        found.add(entry)
        if entry.kind == "directory":
            stop_if(cancelled)
    return found


def estimate(tree: Tree, cancelled: IsCancelled = never) -> int:
    """The bytes of the files in `tree`, before packing."""
    total = 0
    for entry in entries(tree):
        total += entry.size
        if entry.kind == "directory":
            stop_if(cancelled)
    return total


def name_of(tree: Tree) -> str:
    """`tree.at` as a name in a tar: `opt/software/zlib`; empty for the root of the image."""
    parts = [part for part in tree.at.split("/") if part not in {"", "."}]
    if any(part.startswith(_WHITEOUT) for part in parts):
        raise _whiteout(repr(tree.at))
    if ".." in parts or not _can_be_a_name(tree.at):
        raise SourceError(
            f"pack {str(tree.root)!r} at {tree.at!r}: not a path inside an image; give an absolute path without '..'",
            stage="pack",
        )
    return "/".join(parts)


def root_of(tree: Tree) -> bytes:
    """`tree.root` as the system knows it."""
    root = str(tree.root)
    if not _can_be_a_name(root):
        raise SourceError(f"read {root!r}: no file can have this name")
    return os.fsencode(root)


def native(root: bytes, path: str) -> bytes:
    """The path of an entry as the system knows it."""
    return root + b"/" + path.encode("utf-8", "surrogateescape") if path else root


def unreadable(path: bytes, error: OSError) -> SourceError:
    """The error for a file or folder that the system did not let us read."""
    code = error.errno or 0
    reason = _HINTS.get(code) or os.strerror(code)
    return SourceError(f"read {_shown(path)}: {reason}", kind=source_kind(error))


def _whiteout(shown: str) -> SourceError:
    """The error for a name that no file of an image can have (image-spec, layer.md, "Whiteouts")."""
    return SourceError(
        f"pack {shown}: no file in an image can have a name that begins with {_WHITEOUT}: whoever unpacks the layer "
        "would delete what the rest of the name says, from the layers below",
        stage="pack",
    )


def _shown(path: bytes) -> str:
    """The path for a message; the middle of one that no message could hold is left out."""
    text = os.fsdecode(path)
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[: _LONGEST_SHOWN // 2]}…{text[-_LONGEST_SHOWN // 2 :]}"
    return repr(text)


def _status(root: bytes) -> os.stat_result:
    try:
        return os.stat(root)  # noqa: PTH116 (bytes: the name may not be text)
    except OSError as error:
        raise unreadable(root, error) from error


def _leaf(name: str, path: str, found: _Found, first_names: dict[tuple[int, int], str]) -> Entry:
    status = found.status
    if not stat.S_ISREG(status.st_mode):
        return Entry(name, path, "symlink", 0o755, 0, found.target, status)
    mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    if status.st_nlink > 1:
        first = first_names.setdefault((status.st_dev, status.st_ino), name)
        if first != name:
            return Entry(name, path, "hardlink", mode, 0, first, status)
    return Entry(name, path, "file", mode, status.st_size, "", status)


def _sorted_children(
    folder: bytes, inner: str, expected: os.stat_result, wanted: _Listing | None
) -> tuple[list[_Found], list[_Found]]:
    """What lies in `folder`: (files and links, folders), each by name; `inner` leads to it from the root."""
    leaves: list[_Found] = []
    folders: list[_Found] = []
    try:
        descriptor = os.open(folder, _OPEN_DIRECTORY if inner else os.O_RDONLY | os.O_DIRECTORY)
        try:
            _check_same(folder, expected, os.fstat(descriptor))
            children = _all(descriptor) if wanted is None else _listed(folder, descriptor, wanted)
            for found in children:
                mode = found.status.st_mode
                if stat.S_ISDIR(mode):
                    folders.append(found)
                elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                    leaves.append(found)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable(_culprit(folder, error), error) from error
    leaves.sort()
    folders.sort()
    for found in (*leaves, *folders):
        if found.name.startswith(_WHITEOUT):
            raise _whiteout(_shown(native(folder, found.name)))
    return leaves, folders


def _all(descriptor: int) -> Iterator[_Found]:
    with os.scandir(descriptor) as found:
        for child in found:
            yield _found(descriptor, child.name, child.stat(follow_symlinks=False))


def _listed(folder: bytes, descriptor: int, wanted: _Listing) -> Iterator[_Found]:
    for name, below in wanted.items():
        raw = name.encode("utf-8", "surrogateescape")
        found = _found(descriptor, raw, os.stat(raw, dir_fd=descriptor, follow_symlinks=False))
        if below and not stat.S_ISDIR(found.status.st_mode):
            listed = f"{name}/{next(iter(below))}"
            raise SourceError(
                f"read {os.fsdecode(folder)!r}: the listed path {listed!r} leads through {name!r}, which is not a "
                "folder of this tree"
            )
        yield found


def _found(descriptor: int, name: str | bytes, status: os.stat_result) -> _Found:
    target = ""
    if stat.S_ISLNK(status.st_mode):
        target = _text(os.readlink(os.fsencode(name), dir_fd=descriptor))
    return _Found(_text(name), status, target)


def _check_same(folder: bytes, expected: os.stat_result, status: os.stat_result) -> None:
    if (status.st_ino, status.st_dev) != (expected.st_ino, expected.st_dev):
        raise SourceError(f"read {os.fsdecode(folder)!r}: it was replaced by another folder meanwhile; try again")


def _culprit(folder: bytes, error: OSError) -> bytes:
    """The system names what it was asked for: the folder, its descriptor's number, or a child."""
    name = error.filename
    if isinstance(name, str | bytes) and os.fsencode(name) != folder:
        return folder + b"/" + os.fsencode(name)
    return folder


def _text(name: str | bytes) -> str:
    if isinstance(name, str) and name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _listing(files: Sequence[str], root: str) -> _Listing:
    listing = _Listing()
    for file in files:
        parts = [part for part in file.split("/") if part not in {"", "."}]
        if file.startswith("/") or ".." in parts:
            raise SourceError(f"read {root!r}: the listed path {file!r} leads out of it")
        if not parts or not _can_be_a_name(file):
            raise SourceError(f"read {root!r}: the listed path {file!r} names no file")
        below = listing
        for part in parts:
            below = below.setdefault(part, _Listing())
    return listing


def _can_be_a_name(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in text
