from __future__ import annotations

import io
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.unit.unprivileged import unprivileged
from uploader.errors import SourceError
from uploader.model.package import Tree
from uploader.packing.codecs import find_codec
from uploader.packing.pack import pack
from uploader.packing.ready import FileBody
from uploader.packing.tree import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can reach, which pytest's own is not."""
    with TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        (Path(made) / "sub").mkdir()
        (Path(made) / "sub" / "file").write_text("secret")
        yield Path(made)
        (Path(made) / "sub").chmod(0o700)


def test_an_unreadable_file_is_named(folder: Path) -> None:
    (folder / "sub" / "file").chmod(0)
    with unprivileged(), pytest.raises(SourceError, match=r"sub/file': permission denied") as caught:
        pack(Tree(folder, "/p"), find_codec("none"), io.BytesIO())
    assert caught.value.stage == "read"


def test_an_unreadable_folder_is_named(folder: Path) -> None:
    (folder / "sub").chmod(0)
    with unprivileged(), pytest.raises(SourceError, match=r"/sub': permission denied"):
        fingerprint(Tree(folder, "/p"))


def test_a_folder_that_only_lists_its_names_is_named_with_the_child(folder: Path) -> None:
    (folder / "sub").chmod(0o444)
    with unprivileged(), pytest.raises(SourceError, match=r"sub/file': permission denied"):
        fingerprint(Tree(folder, "/p"))


def test_an_unreadable_root_is_an_error_of_reading(folder: Path) -> None:
    (folder / "sub").chmod(0)
    with unprivileged(), pytest.raises(SourceError, match="permission denied") as caught:
        fingerprint(Tree(folder / "sub", "/p"))
    assert caught.value.stage == "read"


def test_an_unreadable_blob_is_named(folder: Path) -> None:
    (folder / "sub" / "file").chmod(0)
    with unprivileged(), pytest.raises(SourceError, match=r"sub/file': Permission denied"):
        FileBody.at(folder / "sub" / "file")


def test_a_folder_too_deep_to_be_read_is_named_in_a_line(tmp_path: Path) -> None:
    inside = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):  # 30 * 251 bytes: longer than any path may be
        os.mkdir("d" * 250, dir_fd=inside)
        outside, inside = inside, os.open("d" * 250, os.O_RDONLY, dir_fd=inside)
        os.close(outside)
    os.close(inside)
    with pytest.raises(SourceError, match=r"/ddd+…ddd") as caught:
        pack(Tree(tmp_path, "/p"), find_codec("none"), io.BytesIO())
    assert len(str(caught.value)) < 500
