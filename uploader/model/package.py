"""Packages, and the graph of what they need at run time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NewType

from uploader.errors import InputError
from uploader.model.reference import Tag, with_short_hash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from uploader.model.digest import Digest

PackageId = NewType("PackageId", str)

Absence = Literal["not-installed", "not-redistributable", "unknown-id", "other-platform", "not-selected"]
"""Why a layer was left out (DESIGN, rule 2)."""


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Platform:
    """The system a package runs on (image-spec, image-index.md, "platform")."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Blob:
    """A ready layer: a tar, tar.gz or tar.zst file. What is None is found out by reading it."""

    path: Path
    digest: Digest | None = None
    size: int | None = None
    media_type: str | None = None
    diff_id: Digest | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """Files below `root`, to be packed as a layer in which they lie below the absolute path `at`.

    `files` are paths relative to `root`; None means everything there is.
    """

    root: Path
    at: str
    files: tuple[str, ...] | None = None


Content = Blob | Tree


@dataclass(frozen=True, slots=True)
class Package:
    """One package. `dependencies` are what it needs at run time, directly.

    `absence` says why it cannot be pushed at all; `config` holds extra keys of the image config as JSON text.
    """

    id: PackageId
    name: str
    version: str
    tag: Tag
    content: Content | None
    dependencies: tuple[PackageId, ...] = ()
    platform: Platform = Platform()
    env: Mapping[str, str] = field(default_factory=_nothing)
    annotations: Mapping[str, str] = field(default_factory=_nothing)
    config: str = "{}"
    absence: Absence | None = None


class PackageGraph:
    """Packages by id, leaves first; acyclic, ids and tags unique.

    Dependencies that no package answers to are kept as they are: they are gaps (`unknown-id`), not errors.
    Raises InputError on duplicate ids, two packages with one tag, and cycles.
    """

    def __init__(self, packages: Sequence[Package]) -> None:
        by_id = {package.id: package for package in packages}
        if len(by_id) != len(packages):
            twice = [key for key, count in Counter(p.id for p in packages).items() if count > 1]
            raise InputError(f"package id {twice[0]!r} is given {_times(packages, twice[0])} times")
        tags: dict[Tag, PackageId] = {}
        for package in packages:
            other = tags.setdefault(package.tag, package.id)
            if other != package.id:
                raise InputError(f"packages {other!r} and {package.id!r} have the same tag {package.tag!r}")
        sorter = TopologicalSorter({p.id: sorted(d for d in p.dependencies if d in by_id) for p in packages})
        try:
            order = list(sorter.static_order())
        except CycleError as error:
            cycle = [str(node) for node in error.args[1]]
            raise InputError(f"the dependencies run in a circle: {_arrows(cycle)}") from error
        self.packages: tuple[Package, ...] = tuple(by_id[key] for key in order)
        self._by_id = by_id

    def __len__(self) -> int:
        return len(self.packages)

    def __contains__(self, key: PackageId) -> bool:
        return key in self._by_id

    def __getitem__(self, key: PackageId) -> Package:
        return self._by_id[key]


def distinct_tags(packages: Sequence[Package]) -> list[Package]:
    """The packages, with a short hash of the id behind each *made* tag that another package has too."""
    count = Counter(package.tag for package in packages)
    return [
        replace(package, tag=with_short_hash(package.tag, package.id)) if count[package.tag] > 1 else package
        for package in packages
    ]


def _times(packages: Sequence[Package], key: str) -> int:
    return sum(package.id == key for package in packages)


def _arrows(cycle: list[str], most: int = 12) -> str:
    """`a -> b -> a`, in the direction of "needs"; a long one is cut in the middle."""
    cycle = cycle[::-1]
    if len(cycle) > most:
        cycle = [*cycle[: most - 2], f"({len(cycle) - most} more)", *cycle[-2:]]
    return " -> ".join(cycle)
