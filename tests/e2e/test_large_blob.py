"""The small form of `tests/torture/resume.py`: broken connections and a `kill -9` in the middle of a large blob."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.torture.resume import MIB, torture

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio

SIZE: Final = 80 * MIB
BREAKS: Final = 3
ON_THE_WAY: Final = 8 * MIB / SIZE
"""What lies in the buffers of both ends and of the proxy when a connection breaks, in shares of the blob."""


async def test_a_registry_that_can_continue_gets_nothing_twice(tmp_path: Path) -> None:
    survived = await torture(tmp_path, "spec", size=SIZE, breaks=BREAKS, kills=1, seed=4)
    assert survived.sent <= 1 + (BREAKS + 1) * ON_THE_WAY
    assert survived.resent is None
    assert survived.peak_mb < 200


@pytest.mark.real
async def test_a_registry_that_cannot_is_told_of_in_the_report(tmp_path: Path) -> None:
    """Distribution 2.8 loses an upload whose connection broke."""
    survived = await torture(tmp_path, "distribution-2.8", size=SIZE, breaks=2, kills=1, seed=4)
    assert survived.resent is not None
    assert "an earlier push was ended on the way" in survived.resent["why"]
    assert 0 < survived.resent["bytes"] / SIZE <= survived.sent - 1 + 3 * ON_THE_WAY
    assert survived.peak_mb < 200
