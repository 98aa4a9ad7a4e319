from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.model.package import PackageGraph, PackageId, Platform, distinct_tags
from uploader.model.reference import Tag, parse_tag
from uploader.testing.packages import a_package
from uploader.testing.strategies import graphs

if TYPE_CHECKING:
    from uploader.model.package import Package


@given(graphs())
def test_packages_come_after_what_they_need(graph: PackageGraph) -> None:
    place = {package.id: number for number, package in enumerate(graph.packages)}
    for package in graph.packages:
        assert all(place[needed] < place[package.id] for needed in package.dependencies if needed in graph)


@given(graphs())
def test_a_graph_holds_each_package_once_and_finds_it(graph: PackageGraph) -> None:
    assert len(graph) == len({package.id for package in graph.packages})
    assert all(graph[package.id] is package and package.id in graph for package in graph.packages)
    assert PackageId("gone-1") not in graph


def test_an_id_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="package id 'zlib' is given 3 times"):
        PackageGraph([a_package("zlib"), a_package("curl"), a_package("zlib"), a_package("zlib")])


def test_two_packages_with_one_tag_are_refused() -> None:
    with pytest.raises(InputError, match="packages 'curl' and 'zlib' have the same tag 'zlib'"):
        PackageGraph([replace(a_package("curl"), tag=Tag("zlib")), a_package("zlib")])


def test_a_cycle_is_shown_in_the_direction_of_needs() -> None:
    packages = [a_package("a", "b"), a_package("b", "c"), a_package("c", "a"), a_package("d", "a")]
    with pytest.raises(InputError) as refusal:
        PackageGraph(packages)
    said = str(refusal.value).partition(": ")[2].split(" -> ")
    assert said[0] == said[-1]
    assert set(pairwise(said)) == {("a", "b"), ("b", "c"), ("c", "a")}


def test_a_package_that_needs_itself_is_a_cycle() -> None:
    with pytest.raises(InputError, match="run in a circle: a -> a"):
        PackageGraph([a_package("a", "a")])


@pytest.mark.parametrize(("length", "hidden"), [(11, 0), (12, 1), (5000, 4989)])
def test_a_long_cycle_is_cut_in_the_middle(length: int, hidden: int) -> None:
    packages = [a_package(f"p{number}", f"p{(number + 1) % length}") for number in range(length)]
    with pytest.raises(InputError) as refusal:
        PackageGraph(packages)
    said = str(refusal.value).partition(": ")[2].split(" -> ")
    assert said[0] == said[-1]
    assert (f"({hidden} more)" in said) == bool(hidden)
    assert len(said) - bool(hidden) + hidden == length + 1


def test_a_graph_may_be_deep() -> None:
    deep = [a_package(f"p{number}", f"p{number + 1}") for number in range(20_000)]
    assert len(PackageGraph(deep)) == 20_000


@given(st.lists(st.sampled_from(["a", "b", "c" * 128, "d" * 120]), max_size=12))
def test_equal_tags_are_told_apart_by_a_hash_of_the_id(tags: list[str]) -> None:
    packages = [replace(a_package(f"p{number}"), tag=Tag(tag)) for number, tag in enumerate(tags)]
    distinct = distinct_tags(packages)
    assert len({package.tag for package in distinct}) == len(packages)
    assert all(parse_tag(package.tag) for package in distinct)
    for before, after in zip(packages, distinct, strict=True):
        assert after == before if tags.count(before.tag) == 1 else after.tag != before.tag


@given(st.permutations(["a", "a", "b", "b", "c"]))
def test_told_apart_tags_do_not_depend_on_the_order_of_packages(tags: list[str]) -> None:
    packages = [replace(a_package(f"p{number}"), tag=Tag(tag)) for number, tag in enumerate(tags)]
    assert _tags(distinct_tags(packages)) == _tags(distinct_tags(packages[::-1]))


def _tags(packages: list[Package]) -> dict[PackageId, Tag]:
    return {package.id: package.tag for package in packages}


@pytest.mark.parametrize(
    ("platform", "text"),
    [(Platform(), "linux/amd64"), (Platform("linux", "arm64", "v8"), "linux/arm64/v8")],
)
def test_a_platform_is_written_as_usual(platform: Platform, text: str) -> None:
    assert str(platform) == text
