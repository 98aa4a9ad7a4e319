"""Several sources as one graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from uploader.errors import InputError
from uploader.model.package import Blob, Package, PackageGraph, Platform, Tree, distinct_tags
from uploader.model.reference import with_short_hash
from uploader.model.selection import default_roots

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set

    from uploader.model.package import PackageId
    from uploader.sources.base import Format, Loaded


@dataclass(frozen=True, slots=True)
class Merged:
    """One graph, and all that the sources said of it (`Loaded` says what each is); `roots` are settled."""

    graph: PackageGraph
    notes: tuple[str, ...]
    roots: frozenset[PackageId]
    companions: Mapping[PackageId, frozenset[PackageId]]
    formats: Mapping[PackageId, Format]

    def check_codec(self, name: str) -> None:
        """Raises InputError where the readers of some packages cannot read what codec `name` writes."""
        for format_ in self.formats.values():
            if name not in format_.codecs:
                readable = " or ".join(sorted(format_.codecs))
                raise InputError(f"codec {name}: {format_.name} cannot read such layers; use {readable}")


def merge(sources: Sequence[Loaded]) -> Merged:
    """The packages of all sources as one graph.

    A package that several sources have must be the same in each. Raises InputError where it is not, and
    for what `PackageGraph` refuses.
    """
    first_in: dict[PackageId, str] = {}
    packages: dict[PackageId, Package] = {}
    fixed: set[PackageId] = set()
    for loaded in sources:
        for package in loaded.packages:
            known = packages.setdefault(package.id, package)
            first = first_in.setdefault(package.id, loaded.source)
            if known is not package and known != package:
                raise InputError(_differ(known, first, package, loaded.source))
            if package.id not in loaded.made_tags:
                fixed.add(package.id)
    if not packages:
        raise InputError("there is nothing to push: the sources hold no packages")
    notes = tuple(dict.fromkeys(note for loaded in sources for note in loaded.notes))
    graph = PackageGraph(settle_tags(packages.values(), fixed))
    return Merged(graph, notes, _roots(graph, sources), _companions(sources), _formats(sources))


def _roots(graph: PackageGraph, sources: Sequence[Loaded]) -> frozenset[PackageId]:
    """What each source was asked for; of those that do not say, what nobody in the whole graph depends on."""
    on_top = default_roots(graph)
    return frozenset().union(
        *(on_top & {p.id for p in loaded.packages} if loaded.roots is None else loaded.roots for loaded in sources)
    )


def _companions(sources: Sequence[Loaded]) -> Mapping[PackageId, frozenset[PackageId]]:
    companions: dict[PackageId, frozenset[PackageId]] = {}
    for loaded in sources:
        for key, along in loaded.companions.items():
            companions[key] = companions.get(key, frozenset()) | along
    return MappingProxyType(companions)


def _formats(sources: Sequence[Loaded]) -> Mapping[PackageId, Format]:
    """Equal packages have equal formats, save for options of the source: the first counts."""
    formats: dict[PackageId, Format] = {}
    for loaded in sources:
        formats = {**loaded.formats, **formats}
    return MappingProxyType(formats)


def settle_tags(packages: Iterable[Package], fixed: Set[PackageId]) -> list[Package]:
    """The packages, with a short hash behind each made tag that another package has too.

    A tag of `fixed` packages is never changed. Which tags change does not depend on the order: a made tag
    gives way to a fixed one, and of several equal made tags all change.
    """
    packages = list(packages)
    taken = {package.tag for package in packages if package.id in fixed}
    made = [package for package in packages if package.id not in fixed]
    apart = [
        replace(package, tag=with_short_hash(package.tag, package.id)) if package.tag in taken else package
        for package in made
    ]
    settled = {package.id: package for package in distinct_tags(apart)}
    return [settled.get(package.id, package) for package in packages]


def _differ(one: Package, first: str, other: Package, second: str) -> str:
    """Says which of the two packages' fields differ, and what they are."""
    parts = []
    for field in fields(Package):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if left != right:
            parts.append(f"{field.name} is {_cut(left)} and {_cut(right)}")
    return f"package {one.id!r} is not the same in {first} and in {second}: {'; '.join(parts)}"


def _cut(value: object, most: int = 120) -> str:
    match value:
        case Tree():
            files = "" if value.files is None else f" ({len(value.files)} files of it)"
            text = f"the folder {str(value.root)!r} at {value.at!r}{files}"
        case Blob():
            text = f"the blob {str(value.path)!r} {value.digest or ''}".rstrip()
        case Mapping():
            text = repr(dict(value))
        case Platform():
            text = str(value)
        case _:
            text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"
