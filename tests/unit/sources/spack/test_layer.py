from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from uploader.errors import SourceError
from uploader.model.package import Tree
from uploader.packing.codecs import find_codec
from uploader.packing.pack import pack
from uploader.sources.spack.installation import Installation
from uploader.sources.spack.layer import NewInspector, OldInspector, stale_trailer

if TYPE_CHECKING:
    from pathlib import Path

    from uploader.packing.pack import Inspector

ELF = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0"
MENTION = b"see /opt/store/linux\n"
INSTALLATION = Installation(
    "/opt/store", "/opt/spack", "/opt/store/linux/a", {"h" * 32: "/opt/store/linux/a"}, ("/opt/store",)
)


@dataclass
class Packed:
    names: list[str]
    trailer: dict[str, Any]


def packed(prefix: Path, kind: type[OldInspector | NewInspector], installation: Installation = INSTALLATION) -> Packed:
    out = io.BytesIO()
    inspector = cast("Inspector", kind(installation, stale_trailer(prefix)))
    pack(Tree(prefix, "/opt/store/linux/a"), find_codec("none"), out, inspector=inspector, parents=False)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        names = [name.removeprefix("opt/store/linux/a/") for name in archive.getnames()]
        last = archive.extractfile(archive.getmembers()[-1])
        assert last is not None
        return Packed(names, yaml.safe_load(last.read()))


def write(prefix: Path, path: str, content: bytes = MENTION) -> Path:
    file = prefix / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


BOTH = pytest.mark.parametrize("kind", [OldInspector, NewInspector])


@BOTH
def test_the_last_entry_says_where_everything_was(tmp_path: Path, kind: type[OldInspector | NewInspector]) -> None:
    write(tmp_path, "bin/run", ELF)
    found = packed(tmp_path, kind)
    assert found.names[-1] == ".spack/binary_distribution"
    assert found.trailer == {
        "sbang_install_path": "/opt/store/bin/sbang",
        "buildpath": "/opt/store",
        "spackprefix": "/opt/spack",
        "relative_prefix": "linux/a",
        "relocate_textfiles": [],
        "relocate_binaries": ["bin/run"],
        "relocate_links": [],
        "hardlinks_deduped": True,
        "hash_to_prefix": {"h" * 32: "/opt/store/linux/a"},
    }


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".spack" / "binary_distribution").mkdir(parents=True)
    with pytest.raises(SourceError, match="binary_distribution in it is a folder"):
        stale_trailer(tmp_path)


@BOTH
def test_a_stale_one_is_left_out_by_all_its_names(tmp_path: Path, kind: type[OldInspector | NewInspector]) -> None:
    stale = write(tmp_path, ".spack/binary_distribution", b"stale")
    os.link(stale, tmp_path / "copy")
    assert packed(tmp_path, kind).names == ["opt/store/linux/a", ".spack", ".spack/binary_distribution"]


def test_what_is_looked_at(tmp_path: Path) -> None:
    for path in ("share/man/man1/a.1", "lib/.spack/text", ".spack/text", "share/text"):
        write(tmp_path, path)
    assert packed(tmp_path, OldInspector).trailer["relocate_textfiles"] == ["share/text"]
    new = packed(tmp_path, NewInspector).trailer["relocate_textfiles"]
    assert new == ["lib/.spack/text", "share/text", "share/man/man1/a.1"]


def test_each_generation_lists_in_the_order_of_its_walk(tmp_path: Path) -> None:
    for path in ("a/text", "b", "c/text", "d", "a-b"):
        write(tmp_path, path)
    assert packed(tmp_path, OldInspector).trailer["relocate_textfiles"] == ["a/text", "a-b", "b", "c/text", "d"]
    assert packed(tmp_path, NewInspector).trailer["relocate_textfiles"] == ["a-b", "b", "d", "a/text", "c/text"]


def test_a_file_of_several_names_is_listed_by_the_first_that_each_generation_meets(tmp_path: Path) -> None:
    first = write(tmp_path, "z")
    (tmp_path / "a").mkdir()
    os.link(first, tmp_path / "a" / "text")
    assert packed(tmp_path, OldInspector).trailer["relocate_textfiles"] == ["a/text"]
    assert packed(tmp_path, NewInspector).trailer["relocate_textfiles"] == ["z"]


def test_a_file_whose_first_name_is_not_looked_at_is_listed_by_another(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    os.link(write(tmp_path, "man/text"), tmp_path / "share" / "text")
    assert packed(tmp_path, OldInspector).trailer["relocate_textfiles"] == ["share/text"]


@BOTH
def test_absolute_links_into_the_store_are_listed(tmp_path: Path, kind: type[OldInspector | NewInspector]) -> None:
    for name, target in (("in", "/opt/store/x"), ("out", "/usr/x"), ("relative", "in"), ("tail", "/mnt/opt/store/x")):
        (tmp_path / name).symlink_to(target)
    assert packed(tmp_path, kind).trailer["relocate_links"] == ["in"]


def test_links_are_listed_in_the_order_and_with_the_exceptions_of_each_walk(tmp_path: Path) -> None:
    for path in ("a/link", "b", "man/link", ".spack/link"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).symlink_to("/opt/store/x")
    assert packed(tmp_path, OldInspector).trailer["relocate_links"] == ["a/link", "b"]
    assert packed(tmp_path, NewInspector).trailer["relocate_links"] == ["b", ".spack/link", "a/link", "man/link"]


@BOTH
def test_a_prefix_in_another_place_is_sought_too(tmp_path: Path, kind: type[OldInspector | NewInspector]) -> None:
    write(tmp_path, "text", b"see /elsewhere/b and more")
    installation = Installation("/opt/store", "/s", "/opt/store/a", {}, ("/elsewhere/b", "/opt/store"))
    assert packed(tmp_path, kind, installation).trailer["relocate_textfiles"] == ["text"]


@BOTH
def test_names_that_are_not_utf_8_are_listed(tmp_path: Path, kind: type[OldInspector | NewInspector]) -> None:
    name = os.fsdecode(b"caf\xe9")
    write(tmp_path, name)
    assert [os.fsencode(text) for text in packed(tmp_path, kind).trailer["relocate_textfiles"]] == [b"caf\xe9"]


@BOTH
def test_a_file_larger_than_one_batch_is_judged_as_a_whole(
    tmp_path: Path, kind: type[OldInspector | NewInspector]
) -> None:
    write(tmp_path, "text", b"x" * 700_000 + b" " + MENTION)
    write(tmp_path, "tail", b"/" + b"x" * 700_000 + MENTION.removeprefix(b"see "))
    assert packed(tmp_path, kind).trailer["relocate_textfiles"] == ["text"]
