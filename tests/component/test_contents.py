"""What is remembered of contents between pushes. The record wants files that have been at rest: Python's own are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from uploader.errors import SourceError
from uploader.model.digest import Digest
from uploader.model.package import Blob, Content, Package, Tree
from uploader.oci.media_types import OCI_LAYER, OCI_LAYER_ZSTD
from uploader.packing.codecs import find_codec
from uploader.record import NoRecord, Record
from uploader.service.contents import Contents, PackingRules
from uploader.testing.packages import a_package

if TYPE_CHECKING:
    from uploader.model.descriptor import Layer

OLD = Path(json.__file__)
ONE, OTHER = Digest.of(b"one"), Digest.of(b"other")


def having(content: Content | None, key: str = "p") -> Package:
    blank = a_package(key)
    return Package(blank.id, blank.name, "1", blank.tag, content)


def contents(record: Record, *, check_diff_ids: bool = False) -> Contents:
    return Contents(record, PackingRules(find_codec("gzip", None), "1", check_diff_ids=check_diff_ids))


async def layer_of(opened: Contents, content: Content) -> Layer:
    async with opened.open(having(content)) as (layer, _):
        return layer


@pytest.mark.asyncio
async def test_what_was_believed_of_a_file_once_is_not_believed_without_being_said_again(tmp_path: Path) -> None:
    """A given diff ID or media type is not checked, so it may be wrong: the next graph may know better."""
    with Record(tmp_path / "state.sqlite") as record:
        first = await layer_of(contents(record), Blob(OLD, media_type=OCI_LAYER, diff_id=ONE))
        again = await layer_of(contents(record), Blob(OLD, media_type=OCI_LAYER, diff_id=ONE))
        better = await layer_of(contents(record), Blob(OLD, media_type=OCI_LAYER_ZSTD, diff_id=OTHER))
        assert first == again
        assert (first.descriptor.media_type, first.diff_id) == (OCI_LAYER, ONE)
        assert (better.descriptor.media_type, better.diff_id) == (OCI_LAYER_ZSTD, OTHER)
        with pytest.raises(SourceError, match="neither a tar nor"):  # with nothing said, the file itself must tell
            await layer_of(contents(record), Blob(OLD))


@pytest.mark.asyncio
async def test_a_given_digest_is_verified_whatever_the_record_says(tmp_path: Path) -> None:
    with Record(tmp_path / "state.sqlite") as record:
        await layer_of(contents(record), Blob(OLD, media_type=OCI_LAYER, diff_id=ONE))
        with pytest.raises(SourceError, match="expected"):
            await layer_of(contents(record), Blob(OLD, OTHER, media_type=OCI_LAYER, diff_id=ONE))


@pytest.mark.asyncio
async def test_packages_that_share_a_root_are_each_remembered(tmp_path: Path) -> None:
    """As the distributions of a Python environment do."""
    one, other = (Tree(OLD.parent, "/opt/json", (name,)) for name in ("decoder.py", "encoder.py"))
    with Record(tmp_path / "state.sqlite") as record:
        layers = [await layer_of(contents(record), tree) for tree in (one, other)]
        assert layers[0] != layers[1]
        assert [await contents(record).recall(having(tree)) for tree in (one, other)] == layers


@pytest.mark.asyncio
async def test_without_a_record_no_tree_is_walked_for_nothing() -> None:
    gone = having(Tree(Path("/nowhere/at/all"), "/opt"))
    assert await contents(NoRecord()).recall(gone) is None


@pytest.mark.asyncio
async def test_a_ready_blob_is_not_recalled(tmp_path: Path) -> None:
    with Record(tmp_path / "state.sqlite") as record:
        assert await contents(record).recall(having(Blob(OLD))) is None


@pytest.mark.asyncio
async def test_a_package_without_content_fails_at_reading() -> None:
    with pytest.raises(SourceError, match="'p' has no content"):
        async with contents(NoRecord()).open(having(None)):
            pass


@pytest.mark.asyncio
async def test_a_folder_for_packed_layers_that_is_not_there_is_named(tmp_path: Path) -> None:
    rules = PackingRules(find_codec("gzip", None), "1", temp_dir=tmp_path / "gone")
    with pytest.raises(SourceError, match="--temp-dir") as failure:
        await layer_of(Contents(NoRecord(), rules), Tree(OLD.parent, "/opt", ("decoder.py",)))
    assert failure.value.stage == "pack"


@pytest.mark.asyncio
async def test_a_machine_without_any_temporary_folder_is_an_error_of_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a container whose file system is read-only."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    rules = PackingRules(find_codec("gzip", None), "1")
    with pytest.raises(SourceError, match=r"No usable temporary directory .* --temp-dir"):
        await layer_of(Contents(NoRecord(), rules), Tree(OLD.parent, "/opt", ("decoder.py",)))
