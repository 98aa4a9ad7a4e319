from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given

from tests.unit.sources.spack.a_store import ANYTHING, AStore, a_hash
from tests.unit.unprivileged import unprivileged
from uploader.errors import InputError
from uploader.sources.spack.database import Edge, parse_database, read_database


def test_a_record_says_what_is_installed() -> None:
    database = AStore().add("a", "b:build+run", version="2.1", explicit=True).add("b", external=True).database()
    a, b = database.records.values()
    assert (a.hash, a.name, a.version, a.prefix) == (a_hash("a"), "a", "2.1", f"/opt/store/linux/a-2.1-{a_hash('a')}")
    assert a.edges == (Edge(a_hash("b"), "b", frozenset({"build", "run"})),)
    assert (a.is_explicit, a.is_installed, a.is_external) == (True, True, False)
    assert (b.is_explicit, b.is_installed, b.is_external) == (False, True, True)


def test_edges_are_by_name_then_hash() -> None:
    store = AStore().add("a", "c", "b")
    assert [edge.name for edge in store.database().records[a_hash("a")].edges] == ["b", "c"]


def test_the_types_of_an_edge_may_lie_where_older_spacks_put_them() -> None:
    store = AStore().add("a", "b")
    store.installs[a_hash("a")]["spec"]["dependencies"] = [{"name": "b", "hash": a_hash("b"), "type": ["link", "odd"]}]
    assert store.database().records[a_hash("a")].edges[0].types == {"link"}


@pytest.mark.parametrize("version", ["6", "9", "", "7.1"])
def test_another_version_is_refused_by_name(version: str) -> None:
    with pytest.raises(InputError, match=rf"its version is {version}, and this program reads 7 and 8"):
        AStore(version).add("a").database()


def test_a_truncated_database_is_an_error_of_the_store(tmp_path: Path) -> None:
    root = AStore().add("a").write(tmp_path)
    path = root / ".spack-db" / "index.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"index\.json: not JSON, or cut short .* `spack reindex`"):
        read_database(root)


def test_a_folder_that_is_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory; give the root of an installed store"):
        read_database(tmp_path)


def test_a_database_that_may_not_be_read_is_said() -> None:
    with TemporaryDirectory() as made:  # which everybody can reach, unlike pytest's own
        Path(made).chmod(0o755)
        root = AStore().add("a").write(Path(made))
        (root / ".spack-db" / "index.json").chmod(0)
        with unprivileged(), pytest.raises(InputError, match="Permission denied; run as a user who may read it"):
            read_database(root)


def test_a_database_without_end_is_not_read(tmp_path: Path) -> None:
    root = AStore().add("a").write(tmp_path)
    with pytest.raises(InputError, match="longer than 100 bytes"):
        read_database(root, most_bytes=100)


def broken(**changes: Any) -> bytes:
    store = AStore().add("a", "b")
    store.installs[a_hash("a")]["spec"] |= changes
    return store.content()


@pytest.mark.parametrize(
    "content",
    [
        broken(name=None),
        broken(version=3),
        broken(dependencies=[{"name": "b"}]),
        broken(dependencies=[{"name": "b", "hash": "h", "parameters": {}}]),
        broken(dependencies="b"),
        broken(hash="another"),
        broken(arch="x86_64"),
        broken(parameters=[1]),
        broken(compiler={"name": "gcc"}),
        broken(compiler={"name": "gcc", "version": 12}),
        b'{"database": {"version": "7", "installs": {"a": 1}}}',
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_with_its_hash(content: bytes) -> None:
    with pytest.raises(InputError, match=r"the entry 'a2*' is not one of an installed spec"):
        parse_database(content)


@given(ANYTHING)
def test_whatever_is_in_it_there_is_one_kind_of_error(value: object) -> None:
    for document in (value, {"database": value}, {"database": {"version": "7", "installs": {"h": {"spec": value}}}}):
        with pytest.raises(InputError):
            parse_database(json.dumps(document).encode())
