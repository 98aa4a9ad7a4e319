from __future__ import annotations

import io
import os
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from uploader.errors import SourceError
from uploader.model.package import Tree
from uploader.packing.cancelling import Cancelled
from uploader.packing.codecs import find_codec
from uploader.packing.pack import pack
from uploader.packing.tree import Fingerprint, entries, estimate, fingerprint, folders_above

if TYPE_CHECKING:
    from collections.abc import Callable


def make(root: Path, *files: str, content: str = "x") -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(content)
    return root


def names(root: Path, *, at: str = "/p", files: tuple[str, ...] | None = None) -> list[str]:
    return [entry.name for entry in entries(Tree(root, at, files))]


def test_the_folders_above_the_tree_are_known_without_looking() -> None:
    assert folders_above(Tree(Path("/nowhere"), "//opt/./soft/zlib/")) == ["opt", "opt/soft"]
    assert folders_above(Tree(Path("/nowhere"), "/")) == []


def test_a_tree_at_the_root_of_the_image_has_no_entry_for_itself(tmp_path: Path) -> None:
    make(tmp_path, "bin/tool")
    assert [entry.name for entry in entries(Tree(tmp_path, "/"))] == ["bin", "bin/tool"]


def test_files_come_before_folders_and_each_by_code_point(tmp_path: Path) -> None:
    make(tmp_path, "b/x", "a/z/1", "a/y/1", "a/b", "zz", "B", "a-b/x", "é", "a/~")
    (tmp_path / "a" / "link").symlink_to("y")
    expected = ["B", "zz", "é", "a", "a/b", "a/link", "a/~", "a/y", "a/y/1", "a/z", "a/z/1", "a-b", "a-b/x", "b", "b/x"]
    assert names(tmp_path) == ["p", *(f"p/{name}" for name in expected)]


@pytest.mark.parametrize(("mode", "normal"), [(0o600, 0o644), (0o4777, 0o755), (0o444, 0o644), (0o100, 0o755)])
def test_modes_are_normalised_by_the_owners_right(tmp_path: Path, mode: int, normal: int) -> None:
    make(tmp_path, "file")
    (tmp_path / "file").chmod(mode)
    assert [entry.mode for entry in entries(Tree(tmp_path, "/p"))] == [0o755, normal]


def test_symlinks_are_kept_as_they_are_and_not_followed(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "file")
    root = make(tmp_path / "root", "real")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "broken").symlink_to("../nowhere")
    links = {entry.path: (entry.target, entry.mode) for entry in entries(Tree(root, "/p")) if entry.kind == "symlink"}
    assert links == {"folder": (str(tmp_path / "elsewhere"), 0o755), "broken": ("../nowhere", 0o755)}


def test_the_root_itself_may_be_a_symlink(tmp_path: Path) -> None:
    make(tmp_path / "real", "file")
    (tmp_path / "current").symlink_to("real")
    assert names(tmp_path / "current") == ["p", "p/file"]


def test_hard_links_are_kept(tmp_path: Path) -> None:
    make(tmp_path, "sub/first")
    (tmp_path / "sub" / "second").hardlink_to(tmp_path / "sub" / "first")
    (tmp_path / "aa").hardlink_to(tmp_path / "sub" / "first")
    found = [(entry.path, entry.kind, entry.target, entry.size) for entry in entries(Tree(tmp_path, "/p"))]
    assert found == [
        ("", "directory", "", 0),
        ("aa", "file", "", 1),
        ("sub", "directory", "", 0),
        ("sub/first", "hardlink", "p/aa", 0),
        ("sub/second", "hardlink", "p/aa", 0),
    ]


def test_empty_folders_are_kept_and_special_files_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)  # a socket's name has a length limit
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert names(tmp_path) == ["p", "p/empty"]


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"latin-\xfc")).write_text("x")
    (tmp_path / "link").symlink_to(os.fsdecode(b"to-\xff"))
    found = [(entry.path, entry.target) for entry in entries(Tree(tmp_path, "/p"))]
    assert found == [("", ""), ("latin-\udcfc", ""), ("link", "to-\udcff")]


@pytest.mark.parametrize("name", [".wh.conf", "etc/.wh..wh..opq", ".wh.d/file"])
@pytest.mark.parametrize("listed", [False, True])
def test_a_name_that_would_hide_a_file_of_another_layer_is_refused(tmp_path: Path, name: str, *, listed: bool) -> None:
    tree = Tree(make(tmp_path, name, "other"), "/p", (name,) if listed else None)
    for walk in (fingerprint, partial(pack, codec=find_codec("none"), out=io.BytesIO())):
        with pytest.raises(SourceError, match=r"/\.wh\.[^ ]*': no file in an image can have a name") as caught:
            walk(tree)
        assert caught.value.stage == "pack"


def test_a_place_that_would_hide_a_folder_of_another_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'/opt/\.wh\.zlib': no file in an image can have a name"):
        folders_above(Tree(tmp_path, "/opt/.wh.zlib"))


def test_names_that_only_look_like_whiteouts_are_kept(tmp_path: Path) -> None:
    make(tmp_path, ".wh", ".white", "a.wh.b")
    assert names(tmp_path) == ["p", "p/.wh", "p/.white", "p/a.wh.b"]


def test_a_listing_takes_its_files_and_the_folders_that_lead_to_them(tmp_path: Path) -> None:
    make(tmp_path, "lib/a/wanted", "lib/a/other", "lib/b/other", "top", "other")
    (tmp_path / "link").symlink_to("lib")
    found = names(tmp_path, files=("./top", "lib//a/wanted", "link", "top"))
    assert found == ["p", "p/link", "p/top", "p/lib", "p/lib/a", "p/lib/a/wanted"]


def test_a_listed_folder_does_not_bring_its_content(tmp_path: Path) -> None:
    make(tmp_path, "lib/file")
    assert names(tmp_path, files=("lib",)) == ["p", "p/lib"]


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("lib/gone", "gone.*missing"),
        ("nowhere/file", "nowhere.*missing"),
        ("../secret", r"'\.\./secret' leads out of it"),
        ("lib/../../secret", "leads out of it"),
        ("/etc/passwd", "leads out of it"),
        ("outside/secret", "'outside/secret' leads through 'outside'"),
        ("file/below", "'file/below' leads through 'file'"),
        ("", "names no file"),
        ("lib/a\0b", "names no file"),
        ("lib/\ud800", "names no file"),
    ],
)
def test_a_listed_path_that_is_not_in_the_tree_is_an_error(tmp_path: Path, listed: str, reason: str) -> None:
    make(tmp_path, "outside/secret", "secret")
    root = make(tmp_path / "root", "lib/there", "file")
    (root / "outside").symlink_to("../outside")
    with pytest.raises(SourceError, match=reason) as caught:
        names(root, files=("lib/there", listed))
    assert caught.value.stage == "read"


@pytest.mark.parametrize(("root", "reason"), [("gone", "missing"), ("file", "not a folder"), ("a/loop", "symbolic")])
def test_a_root_that_cannot_be_walked_is_an_error(tmp_path: Path, root: str, reason: str) -> None:
    make(tmp_path, "file", "a/file")
    (tmp_path / "a" / "loop").symlink_to("loop")
    with pytest.raises(SourceError, match=f"{root}.*{reason}") as caught:
        names(tmp_path / root)
    assert caught.value.stage == "read"


@pytest.mark.parametrize("root", ["a\0b", "a\ud800"])
def test_a_root_that_no_file_can_be_is_an_error(root: str) -> None:
    with pytest.raises(SourceError, match="no file can have this name"):
        names(Path(root))


@pytest.mark.parametrize("at", ["/opt/../etc", "..", "/a\0b", "/\ud800"])
def test_a_place_outside_the_image_is_an_error(tmp_path: Path, at: str) -> None:
    with pytest.raises(SourceError, match="not a path inside an image"):
        names(tmp_path, at=at)


def swap_for_link(folder: Path, other: Path) -> None:
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(other)


def swap_for_folder(folder: Path, other: Path) -> None:
    folder.rename(folder.with_name("moved"))
    other.rename(folder)


@pytest.mark.parametrize("swap", [swap_for_link, swap_for_folder])
@pytest.mark.parametrize("reached", ["sub", "sub/inner"])
def test_a_folder_that_is_swapped_meanwhile_does_not_lead_out(
    tmp_path: Path, swap: Callable[[Path, Path], None], reached: str
) -> None:
    make(tmp_path, "outside/inner/secret", "root/sub/inner/file")
    walk = entries(Tree(tmp_path / "root", "/p"))
    assert next(entry.path for entry in walk if entry.path == reached)
    swap(tmp_path / "root" / "sub", tmp_path / "outside")
    with pytest.raises(SourceError, match="sub"):
        list(walk)


def test_estimate_adds_the_sizes_of_files_once(tmp_path: Path) -> None:
    make(tmp_path, "a", "b/c", content="four")
    (tmp_path / "again").hardlink_to(tmp_path / "a")
    (tmp_path / "link").symlink_to("a")
    assert estimate(Tree(tmp_path, "/p")) == 8


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def write_as_if_nothing_were(path: Path) -> None:
    """Same size, same time of change: only ctime tells."""
    status = path.stat()
    path.write_text("y")
    path.chmod(0o600)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_it(path: Path) -> None:
    status = path.stat()
    other = path.with_name("other")
    other.write_text("x")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


def print_of(tree: Tree) -> tuple[str, int]:
    """The tree's fingerprint; packing must make the same."""
    found, seen = fingerprint(tree), Fingerprint()
    pack(tree, find_codec("none"), io.BytesIO(), seen=seen)
    assert (seen.text, seen.newest_ns) == (found.text, found.newest_ns)
    return found.text, found.newest_ns


@pytest.mark.parametrize(
    "change",
    [
        touch,
        replace_it,
        write_as_if_nothing_were,
        lambda path: path.write_text("longer"),
        lambda path: path.chmod(0o755),
        lambda path: path.rename(path.with_name("renamed")),
        lambda path: path.unlink(),
        lambda path: path.with_name("empty").mkdir(),
    ],
)
def test_the_fingerprint_changes_with_the_tree(tmp_path: Path, change: Callable[[Path], object]) -> None:
    make(tmp_path, "sub/file")
    (tmp_path / "sub" / "file").chmod(0o600)
    os.utime(tmp_path / "sub" / "file", ns=(0, 10**18))
    before = print_of(Tree(tmp_path, "/p"))
    assert print_of(Tree(tmp_path, "/p")) == before
    ctime = (tmp_path / "sub" / "file").stat().st_ctime_ns
    while Path(make(tmp_path.parent, "clock") / "clock").stat().st_ctime_ns == ctime:  # its grain is some ms
        pass
    change(tmp_path / "sub" / "file")
    assert print_of(Tree(tmp_path, "/p")) != before


def test_the_fingerprint_of_a_listing_ignores_its_neighbours(tmp_path: Path) -> None:
    make(tmp_path, "site/ours", "site/theirs")
    before = print_of(Tree(tmp_path, "/p", ("site/ours",)))
    make(tmp_path, "site/more", "site/theirs", content="new")
    assert print_of(Tree(tmp_path, "/p", ("site/ours",))) == before


def test_the_fingerprint_changes_with_a_links_target(tmp_path: Path) -> None:
    prints = set()
    for target in ("one", "two"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(target)
        prints.add(print_of(Tree(tmp_path, "/p"))[0])
    assert len(prints) == 2


@pytest.mark.parametrize("measure", [fingerprint, estimate])
def test_walks_can_be_cancelled(tmp_path: Path, measure: Callable[..., object]) -> None:
    with pytest.raises(Cancelled):
        measure(Tree(tmp_path, "/p"), lambda: True)
