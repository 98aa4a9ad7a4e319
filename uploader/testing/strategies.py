"""What hypothesis draws for tests of plans: graphs with everything that the rule speaks of, and parts of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from hypothesis import strategies as st

from uploader.model.package import Absence, PackageGraph, PackageId, Platform
from uploader.testing.packages import a_package

if TYPE_CHECKING:
    from collections.abc import Sequence

_T = TypeVar("_T")

UNKNOWN_IDS: Final = ("gone-1", "lib-gone", "zz-gone")
"""Ids that no package answers to; some come first in the order of rule 5, some last."""

_PLATFORMS: Final = (Platform(), Platform(architecture="arm64"))
_ABSENCES: Final[tuple[Absence, ...]] = ("not-installed", "not-redistributable")
_NAMES: Final = ("lib", "app", "x")


@st.composite
def graphs(draw: st.DrawFn, *, at_most: int = 8) -> PackageGraph:
    """A graph of one package or more.

    Ids say nothing of who needs whom, names are shared, dependencies may be given twice or be unknown, most packages
    are of one platform, and some cannot be pushed.
    """
    count = draw(st.integers(1, at_most))
    ids = draw(st.permutations([f"p{number}" for number in range(count)]))
    packages = []
    for place, key in enumerate(ids):
        known: Sequence[str] = [*ids[:place], *ids[:place], *UNKNOWN_IDS]
        packages.append(
            a_package(
                key,
                *draw(st.lists(st.sampled_from(known), max_size=4)),
                name=draw(st.sampled_from(_NAMES)),
                platform=draw(_mostly(_PLATFORMS[0], _PLATFORMS[1:])),
                absence=draw(_mostly(None, _ABSENCES)),
            )
        )
    return PackageGraph(draw(st.permutations(packages)))


def some_of(graph: PackageGraph) -> st.SearchStrategy[frozenset[PackageId]]:
    """Any packages of the graph: those that are selected, those that fail."""
    return st.frozensets(st.sampled_from([package.id for package in graph.packages]))


def most_of(graph: PackageGraph) -> st.SearchStrategy[frozenset[PackageId]]:
    """All packages of the graph but a few."""
    everything = frozenset(package.id for package in graph.packages)
    few = st.frozensets(st.sampled_from(sorted(everything)), max_size=2)
    return few.map(lambda left_out: everything - left_out)


def _mostly(usual: _T, others: Sequence[_T]) -> st.SearchStrategy[_T]:
    return st.sampled_from([usual] * 6 + list(others))
