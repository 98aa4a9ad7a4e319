"""What a source of packages is, and how one is written on a command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Protocol

from uploader.errors import InputError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from uploader.model.descriptor import Layer
    from uploader.model.package import Package, PackageId


OpenFile = Callable[[Path], BinaryIO]
"""Opens a file that a source is read from; raises OSError, also for one that may not be read, links followed."""


def open_any(path: Path) -> BinaryIO:
    """Whatever this user may read."""
    return path.open("rb")


class SeenEntry(Protocol):
    """What an inspector wants to know of an entry of a layer (`packing.tree.Entry` fits)."""

    @property
    def name(self) -> str:
        """In the tar."""

    @property
    def path(self) -> str:
        """Relative to the tree's root."""

    @property
    def kind(self) -> str:
        """`directory`, `file`, `symlink` or `hardlink`."""

    @property
    def target(self) -> str:
        """A symlink's text; of a hard link the name, in the tar, of the entry that it repeats."""

    @property
    def status(self) -> os.stat_result:
        """What lstat said."""


class AddedFile(Protocol):
    """A regular file that an inspector puts behind a layer's entries (`packing.pack.Extra` has this shape)."""

    @property
    def path(self) -> str:
        """Relative to the tree's root."""

    @property
    def mode(self) -> int:
        """Its permissions."""

    @property
    def content(self) -> bytes:
        """All of it."""


class LayerInspector(Protocol):
    """Sees what goes into one layer while it is packed, and says how the layer ends.

    `packing.pack.Inspector` says when each is called; sources and packing do not import each other, so the shape is
    said twice.
    """

    def skip(self, status: os.stat_result, /) -> bool:
        """Whether to leave out the file of this status."""

    def start(self, entry: SeenEntry, /) -> None:
        """The next entry."""

    def feed(self, chunk: memoryview, /) -> None:
        """The next bytes of the regular file that was started."""

    def trailer(self) -> Sequence[AddedFile]:
        """The layer's last entries."""


class Format(Protocol):
    """What the layer and the config of one package need beyond a plain tree: another program will read them."""

    @property
    def name(self) -> str:
        """What messages call it: `Spack`."""

    @property
    def library(self) -> str:
        """What the layer's bytes depend on beside the tree and the codec; for the key of the local record."""

    @property
    def codecs(self) -> frozenset[str]:
        """The names of the codecs that the reader can read."""

    @property
    def tag_proves_content(self) -> bool:
        """Whether the tag holds the package's own hash, so that what is found there is this package."""

    def inspector(self) -> LayerInspector:
        """A new one, for one packing; it reads files. Raises SourceError where the package is damaged."""

    def config(self, layer: Layer, /) -> Mapping[str, object]:
        """Further keys of the image config, in order, given the package's own layer; it reads files, or SourceError."""


def _none() -> Mapping[PackageId, frozenset[PackageId]]:
    return MappingProxyType({})


def _plain() -> Mapping[PackageId, Format]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a source gives.

    `source` is what messages call it; `notes` are for the user: what was left out or changed on the way.
    The tags of `made_tags` were made up by the source, so `merge` may change them where they collide.
    `formats` holds the packages that are not plain.

    `roots` are what was asked for; None means those that nobody depends on. `companions` go along with a package
    although it does not need them at run time (what it was built with): they are no layers of its image, but whoever
    pushes its dependencies pushes them too.
    """

    source: str
    packages: tuple[Package, ...]
    notes: tuple[str, ...] = ()
    made_tags: frozenset[PackageId] = frozenset()
    formats: Mapping[PackageId, Format] = field(default_factory=_plain)
    roots: frozenset[PackageId] | None = None
    companions: Mapping[PackageId, frozenset[PackageId]] = field(default_factory=_none)


class Source(Protocol):
    """Something that packages can be read from."""

    def load(self) -> Loaded:
        """Read it all; it may block, so call it in a thread. Raises InputError."""


@dataclass(frozen=True, slots=True)
class GraphFileReference:
    """`graph.json`, or `-`: the standard input, whose path is None."""

    path: Path | None


@dataclass(frozen=True, slots=True)
class PythonReference:
    """`python:PREFIX`."""

    path: Path


@dataclass(frozen=True, slots=True)
class SpackReference:
    """`spack:ROOT[#SPEC,…]`; without specs, all that were installed on request."""

    path: Path
    specs: tuple[str, ...] = ()


SourceReference = GraphFileReference | PythonReference | SpackReference
"""Which source is meant. A value, so that a daemon can check `path` before anything is opened."""

_FORMS = "a graph file, - for standard input, python:PREFIX, or spack:ROOT[#SPEC,…]"


def parse_source(text: str) -> SourceReference:
    """Read how a user writes a source; raises InputError.

    A new kind of source gets a reference above, a case here, and its `Source` where references are opened.
    """
    if not text or "\0" in text:
        raise InputError(f"source {text[:200]!r} is not a path: write {_FORMS}")
    if text == "-":
        return GraphFileReference(None)
    scheme, colon, rest = text.partition(":")
    match scheme if colon else "":
        case "python":
            return PythonReference(_path(text, rest))
        case "spack":
            root, hash_sign, specs = rest.partition("#")
            return SpackReference(_path(text, root), _specs(text, specs) if hash_sign else ())
        case _ if rest.startswith("//"):
            raise InputError(f"source {text[:200]!r} is not on this machine: write {_FORMS}")
        case _:
            return GraphFileReference(Path(text))


def _path(text: str, path: str) -> Path:
    if not path:
        raise InputError(f"source {text[:200]!r} names no folder: write {_FORMS}")
    return Path(path)


def _specs(text: str, specs: str) -> tuple[str, ...]:
    parts = tuple(spec.strip() for spec in specs.split(","))
    if not all(parts):
        raise InputError(f"source {text[:200]!r} has an empty spec behind '#': separate specs by one comma each")
    return parts
