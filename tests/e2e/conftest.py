from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.command import Command

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def command(tmp_path: Path) -> Command:
    home = tmp_path / "home"
    home.mkdir()
    return Command(home)
