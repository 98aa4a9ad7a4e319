"""The order in which blobs go out.

A push uses up two things at once: bandwidth by large blobs, requests by small ones. If all the large blobs went first,
as scheduling by size alone would have it, bandwidth would be short at first and idle in the end, and all the small
requests would be left over. So both kinds are spread evenly over the push, each in the order that suits it:

- large blobs by their *tail*, longest first: their own time, and that of the manifests that wait for them, which many
  workers share. The largest ones do not start last, and what much depends on does not either.
- small blobs leaves first, as they come, so that manifests are ready early and tags appear all the time.

A push that goes on where another ended (`resumed`) asks for what is there already only just before something new needs
it: the new goes first, and its tags appear soon, however often it is interrupted.

Pure: it changes when things happen, never what comes of them.
"""

from __future__ import annotations

from collections import Counter
from math import gcd, inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from uploader.model.package import Package, PackageGraph, PackageId

LARGE_BYTES: Final = 1024 * 1024
"""Beyond it, the time of a blob lies in its bytes rather than in its requests."""

_MANIFEST_BYTES: Final = 3 * 512 * 1024  # about what can be sent in the time of a manifest's three small requests
_MOST_SAMPLES: Final = 1000
_MOST_VISITS: Final = 500_000  # a fifth of a second
_GOLDEN: Final = 0.618  # multiples of the golden section, modulo 1, lie as evenly as they can


def spread(
    graph: PackageGraph, selected: frozenset[PackageId], size_of: Callable[[Package], int], *, jobs: int
) -> Callable[[Package], float]:
    """The rank of each package that is to be pushed, lowest first; `size_of` gives, or guesses, its blob's bytes."""
    pushed = [package for package in graph.packages if package.id in selected and package.absence is None]
    sizes = {package.id: size_of(package) for package in pushed}
    large = [package.id for package in pushed if sizes[package.id] > LARGE_BYTES]
    small = [package.id for package in pushed if sizes[package.id] <= LARGE_BYTES]
    if large:
        waiting = _dependents(graph, pushed)
        large.sort(key=lambda key: sizes[key] + waiting.get(key, 0.0) * _MANIFEST_BYTES / jobs, reverse=True)
    ranks = _shares(large, [sizes[key] for key in large])
    ranks.update(_shares(small, [1] * len(small)))
    return lambda package: ranks[package.id]


def resumed(
    graph: PackageGraph, rank: Callable[[Package], float], pushed: Iterable[Package], known: Container[PackageId]
) -> Callable[[Package], float]:
    """The rank of each package of `pushed`, of which some are `known` to be there from an earlier push.

    The others keep the order of `rank`. A known one comes right behind the first of them that needs it, and last if
    none does.
    """
    new = {package.id: rank(package) for package in pushed if package.id not in known}
    needed: dict[PackageId, float] = {}
    for package in reversed(graph.packages):  # dependents first
        first = min(new.get(package.id, inf), needed.get(package.id, inf))
        for key in package.dependencies:
            needed[key] = min(needed.get(key, inf), first)
    order = sorted(pushed, key=lambda p: (new.get(p.id, needed.get(p.id, inf)), p.id not in new))
    places = {package.id: float(place) for place, package in enumerate(order)}
    return lambda package: places[package.id]


def _shares(keys: Sequence[PackageId], costs: Sequence[int]) -> dict[PackageId, float]:
    """For each the share of the whole cost that lies before it: where in the push it belongs."""
    whole = sum(costs)
    shares = {}
    before = 0
    for key, cost in zip(keys, costs, strict=True):
        shares[key] = before / whole
        before += cost
    return shares


def _dependents(graph: PackageGraph, pushed: Sequence[Package]) -> dict[PackageId, float]:
    """How many of the packages need each one, directly or not: estimated by a sample where there are many."""
    counts: Counter[PackageId] = Counter()
    visits = sampled = 0
    for package in _scattered(pushed):
        if sampled == _MOST_SAMPLES or visits > _MOST_VISITS:
            break
        closure = _closure(graph, package.dependencies)
        counts.update(closure)
        visits += len(closure)
        sampled += 1
    return {key: count * len(pushed) / sampled for key, count in counts.items()}


def _scattered(packages: Sequence[Package]) -> Iterator[Package]:
    """Each package once, so that any first part of them lies evenly over the whole."""
    count = len(packages)
    stride = int(count * _GOLDEN) or 1
    while gcd(stride, count) > 1:
        stride += 1
    return (packages[place * stride % count] for place in range(count))


def _closure(graph: PackageGraph, roots: Iterable[PackageId]) -> set[PackageId]:
    seen = set(roots)
    todo = list(seen)
    while todo:
        key = todo.pop()
        if key in graph:
            new = [child for child in graph[key].dependencies if child not in seen]
            seen.update(new)
            todo.extend(new)
    return seen
