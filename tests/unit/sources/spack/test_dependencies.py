from __future__ import annotations

from tests.unit.sources.spack.a_store import AStore, a_hash
from uploader.sources.spack.dependencies import (
    ALL,
    LINK,
    RUN_TIME,
    WITHOUT_BUILD,
    breadth_first,
    closure,
    dependents_first,
    depth_first,
    direct,
    narrowed,
)


def a_database(version: str = "7") -> AStore:
    return (
        AStore(version)
        .add("top", "left", "right:run", "tool:build", "check:test", "libc:link")
        .add("left", "base:link")
        .add("right", "base:run", "helper:run")
        .add("tool", "base:build")
        .add("check")
        .add("base", "libc:link")
        .add("helper")
        .add("libc", "kernel:link", external=True)
        .add("kernel")
    )


def names(hashes: object) -> list[str]:
    return sorted(str(key).rstrip("2") for key in hashes)  # type: ignore[attr-defined]


def test_everything_goes_along_breadth_first_without_externals() -> None:
    records = a_database().database().records
    found = [record.name for record in closure(records, [records[a_hash("top")]], ALL)]
    assert found == ["top", "check", "left", "right", "tool", "base", "kernel", "helper"]


def test_without_build_dependencies_tests_still_go_along() -> None:
    records = a_database().database().records
    found = {record.name for record in closure(records, [records[a_hash("top")]], WITHOUT_BUILD)}
    assert found == {"top", "check", "left", "right", "base", "kernel", "helper"}


def test_what_an_external_needs_its_dependents_need() -> None:
    records = a_database().database().records
    assert names(direct(records, records[a_hash("top")], RUN_TIME)) == ["kernel", "left", "right"]
    assert names(direct(records, records[a_hash("base")], RUN_TIME)) == ["kernel"]


def test_a_hash_that_nobody_recorded_is_needed_all_the_same() -> None:
    records = AStore().add("a", "elsewhere:link").database().records
    assert names(direct(records, records[a_hash("a")], RUN_TIME)) == ["elsewhere"]
    assert [record.name for record in closure(records, list(records.values()), ALL)] == ["a"]


def test_only_recorded_children_of_a_kind_are_walked_to() -> None:
    records = AStore().add("a", "b:link", "c:build", "elsewhere:link").add("b").add("c").database().records
    assert narrowed(records, LINK) == {a_hash("a"): (a_hash("b"),), a_hash("b"): (), a_hash("c"): ()}


CHILDREN = {"top": ("a", "z", "deep"), "a": ("deep",), "deep": ("base",), "z": ("base",), "base": ()}


def test_walks_meet_each_once_in_their_own_order() -> None:
    assert depth_first(CHILDREN, "top") == ["top", "a", "deep", "base", "z"]
    assert breadth_first(CHILDREN, "top") == ["top", "a", "z", "deep", "base"]
    assert dependents_first(CHILDREN, "top") == ["top", "z", "a", "deep", "base"]
