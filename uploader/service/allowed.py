"""What a job may read and write: the operator's rules, and whether a job keeps to them."""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from uploader.errors import InputError, SourceError
from uploader.layout.folder import PARTS
from uploader.model.package import Blob, Tree
from uploader.model.reference import LayoutFolder, Repository, parse_destination, parse_image
from uploader.sources.base import GraphFileReference, PythonReference, SpackReference, parse_source
from uploader.sources.spack.places import database_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from uploader.model.package import Package
    from uploader.model.reference import Destination
    from uploader.service.job_format import PushJob

_LAYOUT: Final = "oci-layout:"
_WILD: Final = re.compile(r"(\*\*|\*)")
_CACHED_FOLDERS: Final = 65536
_LOOK: Final = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class RepositoryPattern:
    """Repositories by name: `ghcr.io/org/*`. `*` is a part of a name between two `/` or a piece of one, `**` anything.

    As in a destination, without a scheme it means https; `oci+http://HOST/**` allows plain http.
    """

    text: str

    def __post_init__(self) -> None:
        if self.text.startswith(_LAYOUT):
            raise InputError(f"{self.text!r} is a layout folder: the daemon allows those by --dest-root")
        scheme, separator, _ = self.text.partition("://")
        if not self.text or (separator and scheme not in {"oci", "oci+http"}):
            raise InputError(f"{self.text!r} is no pattern of destinations: write oci://HOST/NAME/*, or HOST/**")

    def matches(self, destination: Destination) -> bool:
        """Whether the destination is one of these repositories."""
        if not isinstance(destination, Repository):
            return False
        scheme, separator, rest = self.text.partition("://")
        if (scheme if separator else "oci") != ("oci" if destination.registry.scheme == "https" else "oci+http"):
            return False
        pattern = (rest if separator else self.text).lower()
        return _matches(pattern, f"{destination.registry.host}/{destination.name}")


@dataclass(frozen=True, slots=True)
class LayoutPattern:
    """Layout folders by where they really lie, links followed: `oci-layout:/srv/team/*`, with the same wild cards."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.startswith(f"{_LAYOUT}/"):
            raise InputError(f"{self.text!r} is no pattern of layout folders: write {_LAYOUT}/ABSOLUTE/PATH/*")

    def matches(self, destination: Destination) -> bool:
        """Whether the destination is one of these folders."""
        path = self.text.removeprefix(_LAYOUT)
        return isinstance(destination, LayoutFolder) and _matches(path, str(destination.path))


DestinationPattern = RepositoryPattern | LayoutPattern


def destination_pattern(text: str) -> DestinationPattern:
    """Either kind; raises InputError."""
    return LayoutPattern(text) if text.startswith(_LAYOUT) else RepositoryPattern(text)


def _matches(pattern: str, name: str) -> bool:
    wild = {"*": "[^/]*", "**": ".*"}
    return re.fullmatch("".join(wild.get(part) or re.escape(part) for part in _WILD.split(pattern)), name) is not None


def may_go_to(patterns: Sequence[DestinationPattern] | None, destination: Destination) -> bool:
    """Whether one of the patterns allows it; None allows any."""
    return patterns is None or any(pattern.matches(destination) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Held:
    """An open file or folder: `path` leads to it and to nothing else for as long as it is held."""

    path: Path
    status: os.stat_result

    def is_same(self, status: os.stat_result) -> bool:
        """Whether that is the state of the same file."""
        return (status.st_dev, status.st_ino) == (self.status.st_dev, self.status.st_ino)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Sources below `source_roots`, layout folders below `dest_roots`, repositories that `destinations` match."""

    source_roots: tuple[Path, ...]
    dest_roots: tuple[Path, ...] = ()
    destinations: tuple[RepositoryPattern, ...] | None = None

    def admit(self, job: PushJob) -> PushJob:
        """The job with its paths resolved; raises InputError for what it may not read or write.

        Done when a job comes in, and again before it runs: links may have changed.
        """
        sources = tuple(self._source(text) for text in job.sources)
        options = dict(job.options)
        if isinstance(root := options.get("spack_root"), str):
            options["spack_root"] = str(self._below(Path(root), self.source_roots, "spack_root", "--source-root"))
        if isinstance(image := options.get("base_image"), str):
            self._check_base_image(image)
        return replace(job, sources=sources, to=str(self._destination(job.to)), options=options)

    def check_contents(self, packages: Iterable[Package]) -> None:
        """Whether all files that a graph names lie below a source root; it blocks. Raises InputError."""
        roots = _real(self.source_roots)
        resolved = lru_cache(_CACHED_FOLDERS)(os.path.realpath)  # most packages lie in few folders
        for package in packages:
            match package.content:
                case Blob(path=path) | Tree(root=path):
                    real = Path(resolved(path.parent)) / path.name
                    if path.name == ".." or real.is_symlink():
                        real = Path(os.path.realpath(path))
                    if not _is_below(real, roots):
                        raise InputError(
                            f"package {package.id!r} lies at {path}, which is not below a --source-root of the daemon"
                        )
                case None:
                    pass

    @contextmanager
    def held(self, path: Path) -> Iterator[Held]:
        """The file or folder at `path`, held open; raises SourceError unless it lies below a source root.

        What was opened is checked, not the path: whatever anybody makes of that meanwhile, this is not another.
        """
        try:
            descriptor, held = self._hold(path)
        except (OSError, ValueError) as error:
            raise SourceError(f"read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
        try:
            yield held
        finally:
            os.close(descriptor)

    def open_file(self, path: Path) -> BinaryIO:
        """The file at `path`, opened as it is held; raises OSError, and that unless it lies below a source root.

        A FIFO is refused: to open it waits for a writer, in a thread that nothing ends, and the job with it for ever.
        """
        descriptor, held = self._hold(path)
        try:
            mode = held.status.st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder is refused by `open`, in its own words
                raise OSError(errno.EINVAL, "it is not a regular file")
            return held.path.open("rb")
        finally:
            os.close(descriptor)

    def _hold(self, path: Path) -> tuple[int, Held]:
        """What keeps it open, to be closed by the caller, and what it is."""
        descriptor = os.open(path, _LOOK)
        try:
            proven = Path(f"/proc/self/fd/{descriptor}")
            named = proven if proven.is_symlink() else path  # without such names (macOS) a link might change once more
            self._refuse_outside(Path(os.path.realpath(named)))
            return descriptor, Held(named, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise

    def _refuse_outside(self, real: Path) -> None:
        if not _is_below(real, _real(self.source_roots)):
            raise OSError(errno.ELOOP, "it does not lie below a --source-root of the daemon any more")

    def _source(self, text: str) -> str:
        match parse_source(text):
            case GraphFileReference(None):
                raise InputError("a job cannot read its source from standard input: give a file")
            case GraphFileReference(path) if path is not None:
                return str(self._below(path, self.source_roots, f"source {text!r}", "--source-root"))
            case PythonReference(path):
                return f"python:{self._below(path, self.source_roots, f'source {text!r}', '--source-root')}"
            case SpackReference(path, specs):
                root = self._below(path, self.source_roots, f"source {text!r}", "--source-root")
                self._below(database_at(root), self.source_roots, f"the database of {text!r}", "--source-root")
                return f"spack:{root}" + (f"#{','.join(specs)}" if specs else "")
            case _:
                raise InputError(f"source {text[:200]!r} is of a kind that a job cannot have")

    def where(self, text: str) -> Destination:
        """The destination; a layout folder as it really lies. Raises InputError for one below no dest root."""
        match parse_destination(text):
            case LayoutFolder(path):
                return self._layout(path, self.dest_roots, f"destination {text!r}", "--dest-root")
            case repository:
                return repository

    def _destination(self, text: str) -> Destination:
        where = self.where(text)
        if isinstance(where, Repository) and not may_go_to(self.destinations, where):
            raise InputError(f"destination {where}: no --allow-destination of the daemon allows it")
        return where

    def _layout(self, path: Path, roots: tuple[Path, ...], what: str, option: str) -> LayoutFolder:
        """A folder that is allowed; so are its parts, which may be links of their own."""
        folder = self._below(path, roots, what, option)
        for part in PARTS:
            self._below(folder / part, roots, f"{part} of {what}", option)
        return LayoutFolder(folder)

    def _check_base_image(self, text: str) -> None:
        """What is read with the daemon's login lands where the job says: so it is no other than what it may write."""
        match parse_image(text).where:
            case LayoutFolder(path):
                self._layout(path, self.source_roots, f"base image {text!r}", "--source-root")
            case Repository() as repository:
                if not may_go_to(self.destinations, repository):
                    raise InputError(f"base image {text}: no --allow-destination of the daemon allows its repository")

    @staticmethod
    def _below(path: Path, roots: tuple[Path, ...], what: str, option: str) -> Path:
        """Where the path really leads, links followed; relative paths are relative to the first root."""
        if not roots:
            raise InputError(f"{what}: the daemon was started without {option}, so nothing there is allowed")
        try:
            real = Path(os.path.realpath(Path(roots[0]) / path))
            allowed = _is_below(real, _real(roots))
        except (OSError, ValueError) as error:
            raise InputError(f"{what}: {error}") from error
        if not allowed:
            raise InputError(f"{what} is not below a {option} of the daemon ({', '.join(map(str, roots))})")
        return real


def _is_below(path: Path, roots: Iterable[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _real(roots: Iterable[Path]) -> list[Path]:
    """Where they really are, links followed."""
    return [Path(os.path.realpath(root)) for root in roots]
