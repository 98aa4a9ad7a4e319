from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.model.package import Blob, Package, PackageId, Tree
from uploader.model.reference import Tag, with_short_hash
from uploader.sources.base import Loaded
from uploader.sources.merge import merge, settle_tags


def a_package(key: str, *needs: str, tag: str = "") -> Package:
    return Package(
        id=PackageId(key),
        name=key,
        version="1",
        tag=Tag(tag or key),
        content=Blob(Path(key)),
        dependencies=tuple(PackageId(needed) for needed in needs),
    )


def test_packages_and_notes_of_all_sources_come_together() -> None:
    one = Loaded("one", (a_package("a", "b"),), ("cut", "same"))
    two = Loaded("two", (a_package("b"),), ("same",))
    merged = merge([one, two])
    assert [package.id for package in merged.graph.packages] == ["b", "a"]
    assert merged.notes == ("cut", "same")


def test_equal_packages_merge() -> None:
    package = replace(a_package("a"), env={"A": "b"})
    twin = replace(a_package("a"), env=MappingProxyType({"A": "b"}))
    graph = merge([Loaded("one", (package,)), Loaded("two", (twin,))]).graph
    assert graph.packages == (package,)


def test_unequal_packages_are_refused_with_their_difference() -> None:
    other = replace(a_package("a"), version="2", env=MappingProxyType({"A": "b"}))
    with pytest.raises(InputError) as caught:
        merge([Loaded("one.json", (a_package("a"),)), Loaded("two.json", (other,))])
    assert str(caught.value) == (
        "package 'a' is not the same in one.json and in two.json: version is '1' and '2'; env is {} and {'A': 'b'}"
    )


def test_unequal_contents_are_named_as_a_person_would() -> None:
    one = replace(a_package("a"), content=Tree(Path("/store/a"), "/opt/a", ("x",)))
    other = replace(a_package("a"), content=Blob(Path("a.tar")))
    with pytest.raises(
        InputError, match=r"content is the folder '/store/a' at '/opt/a' \(1 files of it\) and the blob"
    ):
        merge([Loaded("one.json", (one,)), Loaded("two.json", (other,))])


def test_no_packages_at_all_are_refused() -> None:
    with pytest.raises(InputError, match="nothing to push"):
        merge([Loaded("empty", ())])


def test_what_the_graph_refuses_is_refused() -> None:
    with pytest.raises(InputError, match="circle"):
        merge([Loaded("one", (a_package("a", "b"),)), Loaded("two", (a_package("b", "a"),))])


def test_given_tags_that_collide_are_refused() -> None:
    with pytest.raises(InputError, match="same tag"):
        merge([Loaded("one", (a_package("a", tag="t"), a_package("b", tag="t")))])


def test_a_made_tag_gives_way_to_a_given_one_of_another_source() -> None:
    made = Loaded("one", (a_package("a", tag="t"),), made_tags=frozenset({PackageId("a")}))
    graph = merge([made, Loaded("two", (a_package("b", tag="t"),))]).graph
    assert {package.id: package.tag for package in graph.packages} == {"a": with_short_hash("t", "a"), "b": "t"}


def test_equal_made_tags_all_change_and_single_ones_stay() -> None:
    packages = (a_package("a", tag="t"), a_package("b", tag="t"), a_package("c", tag="u"))
    graph = merge([Loaded("one", packages, made_tags=frozenset(p.id for p in packages))]).graph
    tags = {package.id: package.tag for package in graph.packages}
    assert tags == {"a": with_short_hash("t", "a"), "b": with_short_hash("t", "b"), "c": "u"}


def test_a_tag_that_one_source_gives_is_given() -> None:
    package, rival = a_package("a", tag="t"), a_package("b", tag="t")
    made = Loaded("one", (package, rival), made_tags=frozenset({package.id, rival.id}))
    graph = merge([made, Loaded("two", (package,))]).graph
    assert graph[package.id].tag == "t"


def test_roots_are_what_was_asked_for_or_else_what_nobody_needs() -> None:
    asked = Loaded("one", (a_package("a", "b"), a_package("b"), a_package("tool")), roots=frozenset({PackageId("b")}))
    rest = Loaded("two", (a_package("top", "a"), a_package("c")))
    assert set(merge([asked, rest]).roots) == {"b", "top", "c"}


def test_companions_of_all_sources_come_together() -> None:
    a, b, c = (PackageId(key) for key in "abc")
    packages = (a_package("a"), a_package("b"), a_package("c"))
    one = Loaded("one", packages, companions={a: frozenset({b})})
    two = Loaded("two", packages, companions={a: frozenset({c}), b: frozenset({c})})
    assert merge([one, two]).companions == {a: {b, c}, b: {c}}


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.sampled_from("tuv"), st.booleans())),
    st.randoms(use_true_random=False),
)
def test_tags_do_not_depend_on_the_order(drawn: dict[str, tuple[str, bool]], random: object) -> None:
    packages = [a_package(key, tag=tag) for key, (tag, _) in drawn.items()]
    fixed = {PackageId(key) for key, (_, is_fixed) in drawn.items() if is_fixed}
    settled = {package.id: package.tag for package in settle_tags(packages, fixed)}
    random.shuffle(packages)  # type: ignore[attr-defined]
    assert {package.id: package.tag for package in settle_tags(packages, fixed)} == settled
    made = [tag for key, tag in settled.items() if key not in fixed]
    assert len(set(made)) == len(made)
    assert not set(made) & {settled[key] for key in fixed}
    assert all(settled[key] == drawn[key][0] for key in fixed)
