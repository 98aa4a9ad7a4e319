"""Which packages of a graph a push is about: `--select`, `--only` and `--exclude`."""

from __future__ import annotations

from collections import defaultdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from uploader.errors import InputError
from uploader.model.package import PackageId

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Set

    from uploader.model.package import PackageGraph

Part = Literal["package", "dependencies"]

BOTH: frozenset[Part] = frozenset({"package", "dependencies"})


def select(
    graph: PackageGraph,
    roots: Collection[str] = (),
    only: Collection[Part] = BOTH,
    exclude: Collection[str] = (),
    *,
    default: frozenset[PackageId] | None = None,
    companions: Mapping[PackageId, Collection[PackageId]] | None = None,
) -> frozenset[PackageId]:
    """The packages to push.

    `roots` and `exclude` are ids or names: an id means that package, a name every package of that name.
    Without roots, `default` is meant, or those that nobody depends on. `companions` go along with a package as its
    dependencies do, without being layers of it: what it was built with. Of each root, `only` takes the package itself,
    what it needs, or both. Excluded packages are taken away at the very end, so what only they need stays:
    leaving one package out changes nothing for the others. Raises InputError for what no package is called.
    """
    chosen = _find(graph, roots, "select") if roots else default if default is not None else default_roots(graph)
    excluded = _find(graph, exclude, "exclude") if exclude else frozenset()
    selected: set[PackageId] = set()
    if "package" in only:
        selected |= chosen
    if "dependencies" in only:
        selected |= _needed_by(graph, chosen, companions or {})
    return frozenset(selected - excluded)


def default_roots(graph: PackageGraph) -> frozenset[PackageId]:
    """The packages that nobody depends on."""
    needed = {dependency for package in graph.packages for dependency in package.dependencies}
    return frozenset(package.id for package in graph.packages if package.id not in needed)


def _needed_by(
    graph: PackageGraph, roots: Set[PackageId], companions: Mapping[PackageId, Collection[PackageId]]
) -> set[PackageId]:
    """What the roots need, directly or not; a root itself only where another root needs it."""
    needed: set[PackageId] = set()
    left = list(roots)
    while left:
        key = left.pop()
        for needs in (*graph[key].dependencies, *companions.get(key, ())):
            if needs in graph and needs not in needed:
                needed.add(needs)
                left.append(needs)
    return needed


def _find(graph: PackageGraph, wanted: Iterable[str], option: str) -> frozenset[PackageId]:
    by_name: defaultdict[str, list[PackageId]] = defaultdict(list)
    for package in graph.packages:
        by_name[package.name].append(package.id)
    found: set[PackageId] = set()
    for text in wanted:
        if PackageId(text) in graph:
            found.add(PackageId(text))
        elif text in by_name:
            found.update(by_name[text])
        else:
            near = _near(text, by_name, [package.id for package in graph.packages])
            hint = f"did you mean {near}?" if near else "give an id or a name that the graph has"
            raise InputError(f"{option} {text[:200]!r}: no package has this id or name; {hint}")
    return frozenset(found)


def _near(text: str, names: Iterable[str], ids: Iterable[PackageId]) -> str:
    """Up to three ids or names like `text`: those that hold it, else those spelled alike."""
    known = [*names, *ids]
    lowered = text.lower()
    holding = sorted((name for name in known if lowered and lowered in name.lower()), key=lambda n: (len(n), n))
    alike = holding or get_close_matches(text[:200], known)
    return ", ".join(repr(name) for name in dict.fromkeys(alike[:3]))
