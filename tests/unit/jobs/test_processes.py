from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from uploader.errors import JobStoreError
from uploader.jobs.processes import ProcessLock, forget, provably_gone

if TYPE_CHECKING:
    from pathlib import Path


def test_process_is_gone_when_its_file_is_free(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path, "me")
    assert not provably_gone(tmp_path, "me")
    lock.close(keep=True)
    assert provably_gone(tmp_path, "me")
    assert provably_gone(tmp_path, "me")
    forget(tmp_path, "me")
    forget(tmp_path, "me")
    assert not provably_gone(tmp_path, "me")


def test_process_that_left_in_order_leaves_no_file(tmp_path: Path) -> None:
    ProcessLock(tmp_path, "me").close(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_no_file_proves_nothing(tmp_path: Path) -> None:
    assert not provably_gone(tmp_path / "nowhere", "me")


def test_folder_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobStoreError, match="lock file of this process"):
        ProcessLock(tmp_path / "file", "me")
