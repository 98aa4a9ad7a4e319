"""Several sources as one graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from uploader.errors import InputError
from uploader.model.package import Package, PackageGraph, distinct_tags
from uploader.model.reference import with_short_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set

    from uploader.model.package import PackageId
    from uploader.sources.base import Loaded


def merge(sources: Sequence[Loaded]) -> tuple[PackageGraph, tuple[str, ...]]:
    """The packages of all sources as one graph, and the notes of all.

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
    return PackageGraph(settle_tags(packages.values(), fixed)), notes


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
    text = repr(dict(value)) if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= most else f"{text[:most]}…"
