from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.sources.spack.a_store import AStore, a_hash
from uploader.errors import InputError
from uploader.sources.spack.index import (
    Index,
    index_bytes,
    index_of,
    index_of_configs,
    is_spec_tag,
    merge_indexes,
    parse_index,
)

NAMES = "abcdefg"


def a_database(version: str = "7") -> AStore:
    """a needs b and c; b needs d (external) and, to build, e; f and g stand alone."""
    store = AStore(version).add("a", "c", "b").add("b", "d", "e:build").add("c").add("d", external=True)
    return store.add("e").add("f").add("g")


def an_index(*pushed: str, version: str = "7") -> Index:
    return index_of(a_database(version).database(), [a_hash(name) for name in pushed])


def installs(index: Index) -> dict[str, Any]:
    document = json.loads(index_bytes(index))["database"]["installs"]
    return {entry["spec"]["name"]: (entry["ref_count"], entry["in_buildcache"]) for entry in document.values()}


PUSHED = st.lists(st.sampled_from(NAMES), unique=True)


def test_what_is_needed_comes_first_and_what_was_not_pushed_is_marked() -> None:
    assert list(installs(an_index("f", "a", "c")).items()) == [
        ("d", (1, False)),
        ("e", (1, False)),
        ("b", (1, False)),
        ("c", (1, True)),
        ("a", (0, True)),
        ("f", (0, True)),
    ]


def test_a_package_of_another_store_is_passed_over() -> None:
    assert an_index("f", "unknown") == an_index("f")


@given(PUSHED)
def test_it_reads_what_it_writes(pushed: list[str]) -> None:
    index = an_index(*pushed)
    assert parse_index(index_bytes(index)) == index


@given(PUSHED, PUSHED, PUSHED)
def test_merging_is_the_union_in_whatever_order(one: list[str], two: list[str], three: list[str]) -> None:
    a, b, c = (an_index(*pushed) for pushed in (one, two, three))
    union = index_bytes(an_index(*one, *two, *three))
    assert index_bytes(merge_indexes(merge_indexes(a, b), c)) == union
    assert index_bytes(merge_indexes(c, merge_indexes(b, a))) == union
    assert merge_indexes(a, a) == a


@given(st.permutations(NAMES), st.randoms(use_true_random=False))
def test_the_bytes_do_not_depend_on_the_order_of_anything(pushed: list[str], random: Any) -> None:
    index = an_index(*pushed)
    shuffled = list(index.nodes.items())
    random.shuffle(shuffled)
    assert index_bytes(Index("7", dict(shuffled), index.pushed)) == index_bytes(an_index(*NAMES))


def test_nodes_that_differ_merge_to_the_same_from_both_sides() -> None:
    store = a_database()
    store.installs[a_hash("f")]["spec"]["namespace"] = "other"
    one, other = an_index("f"), index_of(store.database(), [a_hash("f")])
    assert one != other
    assert merge_indexes(one, other) == merge_indexes(other, one)


def test_generations_do_not_merge() -> None:
    with pytest.raises(InputError, match=r"has version 8, the one to be merged 7, .* different repositories"):
        merge_indexes(an_index("a", version="8"), an_index("a"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is broken"),
        (b"[]", "it is broken"),
        (b"\x1f\x8b", "it is broken"),
        (b'{"database": {"version": "7", "installs": {"h": {"spec": {"name": "a"}}}}}', "it is broken"),
        (b'{"database": {"version": "9", "installs": {}}}', "its version is 9, and only 7 and 8 are known"),
    ],
)
def test_a_broken_index_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_index(content)


def a_config(*names: str, meta: int = 4) -> bytes:
    """The config of the first of the names, with the nodes of all."""
    found = a_database({4: "7", 5: "8"}[meta]).installs
    return json.dumps(
        {"spec": {"_meta": {"version": meta}, "nodes": [found[a_hash(n)]["spec"] for n in names]}}
    ).encode()


def test_an_index_is_rebuilt_from_configs() -> None:
    rebuilt, skipped = index_of_configs({"c": a_config("c"), "a": a_config("a", "c", "b", "d", "e")})
    assert rebuilt is not None
    assert (index_bytes(rebuilt), skipped) == (index_bytes(an_index("a", "c")), {})


def test_configs_that_are_not_spacks_are_passed_over_and_said() -> None:
    broken = {"empty": b"{}", "not-json": b"\xff", "odd": b'{"spec": {"_meta": {"version": 9}, "nodes": [1]}}'}
    rebuilt, skipped = index_of_configs({"f": a_config("f"), **broken})
    assert rebuilt == an_index("f")
    assert skipped.keys() == broken.keys()
    assert index_of_configs(broken)[0] is None


def test_of_two_generations_that_with_more_tags_counts_or_else_the_newer() -> None:
    old, new = {"f": a_config("f"), "g": a_config("g")}, {"c": a_config("c", meta=5), "e": a_config("e", meta=5)}
    rebuilt, skipped = index_of_configs(old | new)
    assert (rebuilt, set(skipped)) == (an_index("c", "e", version="8"), set(old))
    del new["c"]
    rebuilt, skipped = index_of_configs(old | new)
    assert (rebuilt, set(skipped)) == (an_index("f", "g"), set(new))
    rebuilt, skipped = index_of_configs(old | new, "8")
    assert (rebuilt, set(skipped)) == (an_index("e", version="8"), set(old))
    assert index_of_configs(old, "8")[0] is None


@pytest.mark.parametrize(("tag", "is_one"), [("a-1-h.spack", True), ("index.spack", False), ("latest", False)])
def test_a_spec_is_known_by_its_tag(tag: str, is_one: bool) -> None:
    assert is_spec_tag(tag) == is_one
