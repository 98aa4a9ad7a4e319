"""The journal of one blob: what is written down when, and who may continue."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.oci.media_types import OCI_LAYER
from uploader.record import Record, RecordedSession
from uploader.service.journal import BlobJournal, journal

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
pytestmark = pytest.mark.asyncio


@dataclass(frozen=True, slots=True)
class Zeros:
    size: int = 200 * MIB

    def read(self, offset: int, length: int) -> bytes:  # noqa: ARG002
        return bytes(length)


BLOB = Descriptor(OCI_LAYER, Digest("sha256", "a" * 64), Zeros().size)


def carry(notes: BlobJournal, mib: int) -> None:
    for offset in range(mib):
        notes.read(offset * MIB, MIB)


async def test_what_went_out_is_noted_every_64_mib(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record, journal(record, "here", BLOB, Zeros()) as notes:
        assert await notes.begin() == ""
        notes.opened("/1")
        carry(notes, 63)
        assert record.session("here", BLOB.digest) == RecordedSession("/1", 0)
        carry(notes, 2)
        assert record.session("here", BLOB.digest) == RecordedSession("/1", 64 * MIB)
        notes.opened("/2")
        assert record.session("here", BLOB.digest) == RecordedSession("/2", 65 * MIB)
        carry(notes, 200)
        notes.sent_again("it broke")
        assert notes.resent is not None
        assert (notes.resent.bytes, notes.resent.why) == (65 * MIB, "it broke")
        notes.ended()
        assert record.session("here", BLOB.digest) is None


async def test_nothing_is_noted_by_whoever_does_not_hold_the_lock(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record, journal(record, "here", BLOB, Zeros()) as first:
        assert await first.begin() == ""
        first.opened("/1")
        with journal(record, "here", BLOB, Zeros()) as second:
            assert await second.begin() is None
            second.opened("/2")
            second.ended()
        assert record.session("here", BLOB.digest) == RecordedSession("/1", 0)
        with journal(record, "elsewhere", BLOB, Zeros()) as third:
            assert await third.begin() == ""


async def test_a_folder_that_went_bad_meanwhile_ends_no_upload(tmp_path: Path) -> None:
    folder = tmp_path / "record-uploads"
    with Record(tmp_path / "record") as record:
        with journal(record, "here", BLOB, Zeros()) as notes:
            assert await notes.begin() == ""
            shutil.rmtree(folder)
            folder.write_text("")
            notes.opened("/1")
        with journal(record, "here", BLOB, Zeros()) as notes:
            assert await notes.begin() is None


async def test_the_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record:
        for _ in range(2):
            with journal(record, "here", BLOB, Zeros()) as notes:
                assert await notes.begin() == ""
    assert [path.name for path in (tmp_path / "record-uploads").iterdir()] == []
