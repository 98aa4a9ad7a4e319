"""The short form of the power cut, on both engines; it needs root, to mount a file system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.torture.power_cut import power_cut

if TYPE_CHECKING:
    from pathlib import Path

    from tests.torture.power_cut import Engine

SECONDS = 0.5

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, which only root may"),
    pytest.mark.parametrize("engine", ["sqlite", "postgresql"]),
]


def test_power_cut_loses_nothing_confirmed(tmp_path: Path, engine: Engine) -> None:
    cut = power_cut(tmp_path, SECONDS, durable=True, engine=engine)
    assert cut.confirmed > 0
    assert cut.lost == 0


def test_power_cut_loses_something_when_commits_do_not_wait(tmp_path: Path, engine: Engine) -> None:
    """So the test above can fail. A cut right after a checkpoint loses nothing even then, but not five in a row."""
    places = [tmp_path / str(number) for number in range(5)]
    for place in places:
        place.mkdir()
    assert any(power_cut(place, SECONDS, durable=False, engine=engine).lost for place in places)
