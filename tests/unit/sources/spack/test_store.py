from __future__ import annotations

import io
import json
import shutil
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.unit.sources.spack.a_store import AStore, a_hash
from uploader.errors import InputError, SourceError
from uploader.model.package import Package, PackageId, Tree
from uploader.model.selection import select
from uploader.packing.codecs import find_codec
from uploader.packing.pack import pack
from uploader.sources.merge import merge
from uploader.sources.spack.store import SpackStore

if TYPE_CHECKING:
    from pathlib import Path

    from uploader.model.descriptor import Layer
    from uploader.packing.pack import Inspector
    from uploader.sources.base import Loaded

TAILS = {
    "ACLOCAL_PATH": "/usr/share/aclocal",
    "MANPATH": "/usr/share/man",
    "PKG_CONFIG_PATH": "/usr/share/pkgconfig:/usr/lib/pkgconfig",
}


def load(root: Path, *specs: str, **options: Any) -> Loaded:
    return SpackStore(root, specs, environment={}, **options).load()


def by_name(loaded: Loaded) -> dict[str, Package]:
    return {package.name: package for package in loaded.packages}


def layer_of(loaded: Loaded, package: Package, codec: str = "gzip") -> Layer:
    assert isinstance(package.content, Tree)
    inspector = cast("Inspector", loaded.formats[package.id].inspector())
    return pack(package.content, find_codec(codec), io.BytesIO(), inspector=inspector)


def test_a_spec_is_a_package(tmp_path: Path) -> None:
    root = AStore().add("a", "b:link", "c:build", explicit=True).add("b").add("c").write(tmp_path / "copy")
    a = by_name(load(root))["a"]
    prefix = f"linux/a-1.0-{a_hash('a')}"
    assert (a.id, a.tag, a.absence, a.config) == (a_hash("a"), f"a-1.0-{a_hash('a')}.spack", None, "{}")
    assert a.content == Tree(root / prefix, f"/opt/store/{prefix}")
    assert a.dependencies == (a_hash("b"),)


def test_what_a_package_was_built_with_is_a_companion_and_no_root(tmp_path: Path) -> None:
    loaded = load(AStore().add("a", "b:link", "c:build", explicit=True).add("b").add("c").write(tmp_path))
    assert set(loaded.roots or ()) == {a_hash("a")}
    assert loaded.companions[PackageId(a_hash("a"))] == {a_hash("c")}
    assert set(by_name(loaded)) == {"a", "b", "c"}


def test_externals_are_no_packages(tmp_path: Path) -> None:
    root = AStore().add("a", "libc:link", explicit=True).add("libc", "k:link", external=True).add("k").write(tmp_path)
    loaded = load(root)
    assert set(by_name(loaded)) == {"a", "k"}
    assert by_name(loaded)["a"].dependencies == (a_hash("k"),)


def test_what_is_only_recorded_is_a_gap_and_said(tmp_path: Path) -> None:
    loaded = load(AStore().add("a", "gone", explicit=True).add("gone", installed=False).write(tmp_path))
    gone = by_name(loaded)["gone"]
    assert (gone.absence, gone.content, gone.id in loaded.formats) == ("not-installed", None, False)
    assert [note for note in loaded.notes if "not installed any more" in note and "gone@1.0/gone222" in note]


def write_recipe(prefix: Path, name: str, line: str) -> None:
    folder = prefix / ".spack/repos/builtin/packages" / name
    folder.mkdir(parents=True)
    (folder / "package.py").write_text(f"class X:\n    {line}\n")


@pytest.mark.parametrize(("private", "absence"), [(False, "not-redistributable"), (True, None)])
def test_what_may_not_be_given_is_left_out_unless_private(tmp_path: Path, private: bool, absence: str | None) -> None:
    store = AStore().add("a", "secret", explicit=True).add("secret")
    root = store.write(tmp_path)
    write_recipe(store.prefix(root, a_hash("secret")), "secret", "redistribute(binary=False, when='@1')")
    loaded = load(root, private=private)
    packages = by_name(loaded)
    assert (packages["secret"].absence, packages["a"].absence) == (absence, None)
    assert len([note for note in loaded.notes if "secret@1.0" in note]) == (0 if private else 2)


def test_the_environment_has_what_is_there_of_the_whole_closure(tmp_path: Path) -> None:
    store = AStore().add("a", "b:link", "c:build", explicit=True).add("b").add("c")
    root = store.write(tmp_path)
    (store.prefix(root, a_hash("b")) / "lib/pkgconfig").mkdir(parents=True)
    env = dict(by_name(load(root))["a"].env)
    a, b = (store.installs[a_hash(name)]["path"] for name in "ab")
    assert env.pop("PATH").startswith(f"{a}/bin:{b}/bin:/usr/local/sbin:")
    assert env == TAILS | {
        "CMAKE_PREFIX_PATH": f"{a}:{b}",
        "PKG_CONFIG_PATH": f"{b}/lib/pkgconfig:{TAILS['PKG_CONFIG_PATH']}",
    }


def test_a_tag_that_no_registry_takes_is_the_failure_of_that_package(tmp_path: Path) -> None:
    root = AStore().add("a", "ü", explicit=True).add("ü").write(tmp_path)
    loaded = load(root)
    layer_of(loaded, by_name(loaded)["a"])
    with pytest.raises(SourceError, match="Spack would look for it under a tag that cannot be"):
        loaded.formats[by_name(loaded)["ü"].id].inspector()


@pytest.mark.parametrize(("version", "layout"), [("7", 2), ("8", 3)])
def test_the_config_holds_the_spec_and_the_checksum_of_the_layer(tmp_path: Path, version: str, layout: int) -> None:
    store = AStore(version).add("a", explicit=True)
    loaded = load(store.write(tmp_path), created="2020-02-02T00:00:00Z")
    layer = layer_of(loaded, loaded.packages[0])
    config = dict(loaded.formats[loaded.packages[0].id].config(layer))
    archive = {"archive_size": layer.descriptor.size, "archive_timestamp": "2020-02-02T00:00:00+00:00"}
    assert config == {
        "spec": {"_meta": {"version": layout + 2}, "nodes": [store.installs[a_hash("a")]["spec"]]},
        "buildcache_layout_version": layout,
        "binary_cache_checksum": {"hash_algorithm": "sha256", "hash": layer.descriptor.digest.hex},
    } | (archive | {"archive_compression": "gzip"} if version == "8" else {})


def test_a_layer_that_is_not_compressed_is_said_to_be_none(tmp_path: Path) -> None:
    loaded = load(AStore("8").add("a", explicit=True).write(tmp_path))
    layer = layer_of(loaded, loaded.packages[0], "none")
    assert loaded.formats[loaded.packages[0].id].config(layer)["archive_compression"] == "none"


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"spec": {}}', b'{"spec": {"nodes": []}}', b"\xff"])
def test_a_broken_spec_is_the_failure_of_that_package_alone(tmp_path: Path, content: bytes | None) -> None:
    store = AStore().add("a", "b", explicit=True).add("b")
    root = store.write(tmp_path)
    spec = store.prefix(root, a_hash("b")) / ".spack" / "spec.json"
    spec.unlink() if content is None else spec.write_bytes(content)
    loaded = load(root)
    packages = by_name(loaded)
    layer = layer_of(loaded, packages["a"])
    for attempt in (loaded.formats[packages["b"].id].inspector, lambda: loaded.formats[packages["b"].id].config(layer)):
        with pytest.raises(SourceError, match=r"spec\.json.*install it anew") as caught:
            attempt()
        assert caught.value.stage == "read"


def test_a_spec_of_another_package_is_refused(tmp_path: Path) -> None:
    store = AStore().add("a", "b", explicit=True).add("b")
    root = store.write(tmp_path)
    document = {"spec": {"_meta": {"version": 4}, "nodes": [store.installs[a_hash("a")]["spec"]]}}
    (store.prefix(root, a_hash("b")) / ".spack" / "spec.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match=r"it is of another spec, with the hash 'a2*' instead of 'b2*'"):
        load(root).formats[PackageId(a_hash("b"))].inspector()


def test_a_prefix_that_vanished_is_the_failure_of_that_package_alone(tmp_path: Path) -> None:
    store = AStore().add("a", "b", explicit=True).add("b")
    root = store.write(tmp_path)
    shutil.rmtree(store.prefix(root, a_hash("b")))
    loaded = load(root)
    layer_of(loaded, by_name(loaded)["a"])
    assert by_name(loaded)["b"].absence is None
    with pytest.raises(
        SourceError, match="the database says that a package is installed there, but the folder is gone"
    ):
        layer_of(loaded, by_name(loaded)["b"])


def test_roots_are_chosen_by_spec_and_errors_name_the_source(tmp_path: Path) -> None:
    root = AStore().add("a", "b").add("b").add("c").write(tmp_path)
    assert set(load(root, "a", "c").roots or ()) == {a_hash("a"), a_hash("c")}
    with pytest.raises(InputError, match=f"spack:{root}: spec 'd': no installed spec matches"):
        load(root, "d")


def test_zstd_is_refused(tmp_path: Path) -> None:
    merged = merge([load(AStore().add("a", explicit=True).write(tmp_path))])
    merged.check_codec("gzip-zlib")
    with pytest.raises(InputError, match="codec zstd: Spack cannot read such layers; use gzip or gzip-zlib or none"):
        merged.check_codec("zstd")


def test_two_loadings_of_one_store_merge(tmp_path: Path) -> None:
    root = AStore().add("a", "b", explicit=True).add("b").add("c").write(tmp_path)
    merged = merge([load(root), load(root, "c")])
    assert (len(merged.graph), set(merged.roots), len(merged.formats)) == (3, {a_hash("a"), a_hash("c")}, 3)


def test_the_library_tells_apart_what_makes_other_bytes(tmp_path: Path) -> None:
    store = AStore().add("a", "b", explicit=True).add("b")
    root = store.write(tmp_path / "one")
    key = PackageId(a_hash("a"))
    libraries = {load(root, spack_root=spack).formats[key].library for spack in ("/s", "/s", "/t")}
    store.version = "8"
    libraries.add(load(store.write(tmp_path / "two"), spack_root="/s").formats[key].library)
    assert len(libraries) == 3


@pytest.mark.parametrize(("needs", "is_refused"), [("b:link", True), ("b:build", False), ("a:link", False)])
def test_a_circle_at_run_time_is_refused_and_others_do_no_harm(tmp_path: Path, needs: str, is_refused: bool) -> None:
    loaded = load(AStore().add("a", needs, explicit=True).add("b", "a:link").write(tmp_path))
    with pytest.raises(InputError, match="run in a circle: a2") if is_refused else nullcontext():
        merge([loaded])


def test_names_select_packages_of_a_store(tmp_path: Path) -> None:
    merged = merge([load(AStore().add("a", "b", explicit=True).add("b").write(tmp_path))])
    assert select(merged.graph, ["b"]) == {a_hash("b")}
