"""The order of blobs: large ones by their tail, small ones leaves first, both spread over the push."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from uploader.graph.ranking import LARGE_BYTES, resumed, spread
from uploader.model.package import Package, PackageGraph, PackageId
from uploader.testing.packages import a_package
from uploader.testing.strategies import graphs

SMALL = 1000
LARGE = 10 * LARGE_BYTES


def order(packages: list[Package], sizes: dict[str, int], *, jobs: int = 4) -> list[str]:
    graph = PackageGraph(packages)
    rank = spread(graph, frozenset(p.id for p in packages), lambda p: sizes.get(p.id, SMALL), jobs=jobs)
    return [package.id for package in sorted(graph.packages, key=rank)]


def test_the_largest_goes_first() -> None:
    assert order([a_package(key) for key in "abc"], {"a": LARGE, "b": 3 * LARGE, "c": 2 * LARGE}) == ["b", "c", "a"]


def test_of_two_large_ones_that_which_much_depends_on_goes_first() -> None:
    packages = [a_package("alone"), a_package("base"), *(a_package(f"p{n}", "mid") for n in range(50))]
    packages.append(a_package("mid", "base"))
    found = order(packages, {"alone": LARGE + 1, "base": LARGE})
    assert found.index("base") < found.index("alone")


def test_small_ones_go_leaves_first() -> None:
    assert order([a_package("app", "lib"), a_package("lib", "libc"), a_package("libc")], {}) == ["libc", "lib", "app"]


def test_small_ones_go_out_between_the_large_ones() -> None:
    sizes = {f"large{n}": LARGE for n in range(4)}
    packages = [a_package(key) for key in [*sizes, *(f"small{n}" for n in range(8))]]
    kinds = "".join(key[0] for key in order(packages, sizes))
    assert kinds == "lsslsslsslss"


def test_in_a_large_graph_the_dependents_are_estimated_well_enough() -> None:
    packages = [a_package("alone"), a_package("base"), *(a_package(f"p{n}", "base") for n in range(5000))]
    found = order(packages, {"alone": LARGE + 1, "base": LARGE})
    assert found.index("base") < found.index("alone")


@given(graph=graphs(), data=st.data())
def test_every_package_that_is_pushed_has_a_rank_within_the_push(graph: PackageGraph, data: st.DataObject) -> None:
    keys = [package.id for package in graph.packages]
    selected = data.draw(st.frozensets(st.sampled_from(keys)))
    sizes: dict[PackageId, int] = {key: data.draw(st.sampled_from((0, SMALL, LARGE))) for key in keys}
    rank = spread(graph, selected, lambda package: sizes[package.id], jobs=3)
    for package in graph.packages:
        if package.id in selected and package.absence is None:
            assert 0 <= rank(package) < 1


def resumed_order(packages: list[Package], known: set[str]) -> list[str]:
    graph = PackageGraph(packages)
    rank = spread(graph, frozenset(p.id for p in packages), lambda _: SMALL, jobs=4)
    there = {PackageId(key) for key in known}
    return [p.id for p in sorted(graph.packages, key=resumed(graph, rank, graph.packages, there))]


def test_what_is_there_is_asked_for_behind_the_first_that_needs_it() -> None:
    packages = [
        a_package("app", "lib"), a_package("lib", "libc"), a_package("libc"),
        a_package("old", "libz"), a_package("libz"), a_package("tool", "libc"),
    ]  # fmt: skip
    assert resumed_order(packages, {"lib", "libc", "old", "libz"}) == ["tool", "libc", "app", "lib", "libz", "old"]


def test_what_is_there_and_needed_through_something_new_comes_behind_that() -> None:
    packages = [a_package("app", "mid"), a_package("mid", "libc"), a_package("libc"), a_package("other")]
    assert resumed_order(packages, {"libc", "other"}) == ["mid", "libc", "app", "other"]


@given(graph=graphs(), data=st.data())
def test_new_packages_keep_their_order_and_none_is_forgotten(graph: PackageGraph, data: st.DataObject) -> None:
    keys = [package.id for package in graph.packages]
    known = data.draw(st.frozensets(st.sampled_from(keys)))
    rank = spread(graph, frozenset(keys), lambda _: SMALL, jobs=3)
    pushed = [package for package in graph.packages if package.absence is None]
    place = resumed(graph, rank, pushed, known)
    assert sorted(map(place, pushed)) == list(range(len(pushed)))
    new = [package for package in pushed if package.id not in known]
    assert sorted(new, key=place) == sorted(new, key=rank)
