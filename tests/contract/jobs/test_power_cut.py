"""The short form of the power cut; it needs root, to mount a file system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.torture.power_cut import power_cut

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 0.5


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, which only root may")
@pytest.mark.parametrize("durable", [True, False], ids=["as it is", "with commits that do not wait"])
def test_power_cut_loses_nothing_confirmed_unless_commits_do_not_wait(tmp_path: Path, durable: bool) -> None:
    cut = power_cut(tmp_path, SECONDS, durable=durable)
    assert cut.confirmed > 0
    assert (cut.lost == 0) == durable
