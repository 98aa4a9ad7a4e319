from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.sources.spack.a_store import AStore, a_hash
from uploader.sources.spack.places import Places, find_places, find_spack_root

STORE = AStore().add("a").add("b")


def prefixes(store: AStore = STORE) -> list[str]:
    return [entry["path"] for entry in store.installs.values()]


def test_the_recorded_root_is_found_from_where_the_prefixes_lie(tmp_path: Path) -> None:
    root = STORE.write(tmp_path / "copy")
    assert find_places(root, prefixes()) == Places(root, "/opt/store")


def test_a_store_that_was_never_moved_is_where_it_is(tmp_path: Path) -> None:
    store = AStore().add("a")
    store.installs[a_hash("a")]["path"] = str(tmp_path / "store/linux/a")
    (tmp_path / "store/linux/a/.spack").mkdir(parents=True)
    assert find_places(tmp_path / "store", prefixes(store)) == Places(tmp_path / "store", str(tmp_path / "store"))


def test_through_a_link_the_recorded_root_stays(tmp_path: Path) -> None:
    root = STORE.write(tmp_path / "copy")
    link = tmp_path / "link"
    link.symlink_to(root)
    assert find_places(link, prefixes()) == Places(link, "/opt/store")


def test_prefixes_that_vanished_do_not_lead_astray(tmp_path: Path) -> None:
    root = AStore().add("a").write(tmp_path / "copy")
    assert find_places(root, ["/opt/store/linux/gone", "/other/gone", *prefixes()]).recorded == "/opt/store"


def test_where_nothing_is_left_the_store_is_where_it_is(tmp_path: Path) -> None:
    assert find_places(tmp_path, ["/opt/store/gone"]).recorded == str(tmp_path)


def test_a_prefix_is_now_below_the_actual_root() -> None:
    places = Places(Path("/mnt/x"), "/opt/store")
    assert places.now("/opt/store/linux/a") == Path("/mnt/x/linux/a")
    assert places.now("/opt/store2/a") == Path("/opt/store2/a")


@pytest.mark.parametrize(
    ("given", "environment", "found"),
    [
        ("/my/spack/", {"SPACK_ROOT": "/env"}, "/my/spack"),
        (None, {"SPACK_ROOT": "/env"}, "/env"),
        (None, {"SPACK_ROOT": ""}, "/opt/store"),
    ],
)
def test_spacks_own_folder_is_what_was_said_or_else_the_store(
    tmp_path: Path, given: str | None, environment: dict[str, str], found: str
) -> None:
    assert find_spack_root(given, environment, Places(tmp_path, "/opt/store")) == found


@pytest.mark.parametrize(("recorded", "found"), [("/home/u/spack/opt/spack", "/home/u/spack"), ("/else", None)])
def test_a_checkout_that_the_store_lies_in_is_its_spack(tmp_path: Path, recorded: str, found: str | None) -> None:
    for folder in ("bin", "lib/spack/spack", "opt/spack"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin/spack").touch()
    assert find_spack_root(None, {}, Places(tmp_path / "opt/spack", recorded)) == (found or str(tmp_path))
