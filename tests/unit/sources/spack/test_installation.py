from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.sources.spack.a_store import AStore, a_hash
from uploader.sources.spack.installation import Installation, Installations
from uploader.sources.spack.places import Places


def installation(store: AStore, name: str) -> Installation:
    database = store.database()
    return Installations(database, Places(Path("/now"), "/opt/store"), "/spack").of(database.records[a_hash(name)])


def relocated(store: AStore, name: str) -> list[str]:
    return [key.rstrip("2") for key in installation(store, name).hash_to_prefix]


@pytest.mark.parametrize("version", ["7", "8"])
def test_relocated_is_what_is_linked_and_what_is_run_directly(version: str) -> None:
    store = (
        AStore(version).add("top", "left", "right:run", "tool:build", "libc:link").add("left", "base:link").add("tool")
    )
    store.add("right", "base:run", "helper:run").add("base").add("helper").add("libc", "kernel:link", external=True)
    assert sorted(relocated(store.add("kernel"), "top")) == ["base", "kernel", "left", "right", "top"]


def test_the_two_generations_walk_links_in_their_own_order() -> None:
    stores = (AStore(version).add("t", "a", "z").add("a", "deep").add("deep").add("z") for version in "78")
    assert [relocated(store, "t") for store in stores] == [["t", "a", "deep", "z"], ["t", "a", "z", "deep"]]


def test_all_paths_are_recorded_ones() -> None:
    found = installation(AStore().add("a"), "a")
    prefix = f"/opt/store/linux/a-1.0-{a_hash('a')}"
    assert found == Installation("/opt/store", "/spack", prefix, {a_hash("a"): prefix}, ("/opt/store",))


@pytest.mark.parametrize(("version", "sought"), [("7", "bc"), ("8", "b")])
def test_prefixes_outside_of_the_store_are_sought_too(version: str, sought: str) -> None:
    store = AStore(version).add("a", "b", "c:build").add("b").add("c")
    for name in "bc":
        store.installs[a_hash(name)]["path"] = f"/elsewhere/{name}"
    assert installation(store, "a").sought == (*(f"/elsewhere/{name}" for name in sought), "/opt/store")
