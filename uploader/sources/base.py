"""What a source of packages is, and how one is written on a command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from uploader.errors import InputError

if TYPE_CHECKING:
    from uploader.model.package import Package, PackageId


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a source gives.

    `source` is what messages call it; `notes` are for the user: what was left out or changed on the way.
    The tags of `made_tags` were made up by the source, so `merge` may change them where they collide.
    """

    source: str
    packages: tuple[Package, ...]
    notes: tuple[str, ...] = ()
    made_tags: frozenset[PackageId] = frozenset()


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
