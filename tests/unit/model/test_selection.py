from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.model.package import Blob, Package, PackageGraph, PackageId
from uploader.model.reference import Tag
from uploader.model.selection import BOTH, Part, select

NOTHING: frozenset[str] = frozenset()


def a_package(key: str, *needs: str, name: str = "") -> Package:
    return Package(
        id=PackageId(key),
        name=name or key,
        version="1",
        tag=Tag(key),
        content=Blob(Path(key)),
        dependencies=tuple(PackageId(needed) for needed in needs),
    )


# app and tool need lib, which needs libc; app needs tool too
GRAPH = PackageGraph(
    [
        a_package("app", "tool", "lib", "not-in-the-graph"),
        a_package("tool", "lib"),
        a_package("lib", "libc"),
        a_package("libc"),
        a_package("py-1", name="python"),
        a_package("py-2", "libc", name="python"),
    ]
)


def test_without_roots_all_is_selected() -> None:
    assert select(GRAPH) == {package.id for package in GRAPH.packages}


def test_a_root_brings_what_it_needs() -> None:
    assert select(GRAPH, ["tool"]) == {"tool", "lib", "libc"}


def test_only_package_takes_the_roots_alone() -> None:
    assert select(GRAPH, ["tool", "app"], ["package"]) == {"tool", "app"}
    assert select(GRAPH, (), ["package"]) == {"app", "py-1", "py-2"}


def test_only_dependencies_leaves_out_the_root() -> None:
    assert select(GRAPH, ["tool"], ["dependencies"]) == {"lib", "libc"}


def test_a_root_that_another_root_needs_is_a_dependency() -> None:
    assert select(GRAPH, ["app", "tool"], ["dependencies"]) == {"tool", "lib", "libc"}


def test_a_name_means_every_package_of_that_name() -> None:
    assert select(GRAPH, ["python"], ["package"]) == {"py-1", "py-2"}


def test_an_id_means_that_package_even_where_others_have_it_as_name() -> None:
    graph = PackageGraph([a_package("zlib"), a_package("zlib-2", name="zlib")])
    assert select(graph, ["zlib"]) == {"zlib"}


def test_what_only_an_excluded_package_needs_stays() -> None:
    assert select(GRAPH, ["app"], exclude=["lib", "tool"]) == {"app", "libc"}


@pytest.mark.parametrize("option", ["roots", "exclude"])
def test_an_unknown_name_is_refused_with_near_ones(option: str) -> None:
    with pytest.raises(InputError, match="'pyhton': no package has this id or name; did you mean 'python'"):
        select(GRAPH, **{option: ["pyhton"]})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'LI'.* did you mean 'lib', 'libc'"):
        select(GRAPH, ["LI"])
    with pytest.raises(InputError, match="give an id or a name that the graph has"):
        select(GRAPH, ["\n"])


@st.composite
def graphs(draw: st.DrawFn) -> PackageGraph:
    size = draw(st.integers(1, 7))
    packages = [
        a_package(
            f"p{number}",
            *(f"p{needed}" for needed in draw(st.sets(st.integers(0, number - 1)) if number else st.just(set()))),
            name=draw(st.sampled_from(["x", "y", f"p{number}"])),
        )
        for number in range(size)
    ]
    return PackageGraph(draw(st.permutations(packages)))


def naive_closure(graph: PackageGraph, key: PackageId) -> set[PackageId]:
    needed = graph[key].dependencies
    return set(needed).union(*(naive_closure(graph, other) for other in needed))


def naive_find(graph: PackageGraph, texts: frozenset[str]) -> set[PackageId]:
    return {p.id for p in graph.packages for t in texts if p.id == t or (p.name == t and PackageId(t) not in graph)}


@given(st.data(), graphs(), st.sets(st.sampled_from(["package", "dependencies"])))
@settings(max_examples=200)
def test_the_selection_is_what_its_definition_says(data: st.DataObject, graph: PackageGraph, only: set[Part]) -> None:
    known = sorted({p.id for p in graph.packages} | {p.name for p in graph.packages})
    roots, exclude = (frozenset(data.draw(st.sets(st.sampled_from(known)))) for _ in range(2))
    chosen = naive_find(graph, roots) or {
        p.id for p in graph.packages if not any(p.id in other.dependencies for other in graph.packages)
    }
    expected = {p.id for p in graph.packages if "package" in only and p.id in chosen}
    if "dependencies" in only:
        expected |= {needed for root in chosen for needed in naive_closure(graph, root)}
    assert select(graph, roots, only, exclude) == expected - naive_find(graph, exclude)


@given(graphs())
def test_both_parts_are_the_default(graph: PackageGraph) -> None:
    assert select(graph) == select(graph, NOTHING, BOTH, NOTHING) == {p.id for p in graph.packages}
