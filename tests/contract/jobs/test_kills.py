"""The short form of `tests.torture.jobs`: clients and workers killed at random for a moment, and nothing is lost."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.torture.jobs import Torture, torture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.jobs.places import Place

SECONDS = 2.0


@pytest.mark.asyncio
async def test_every_confirmed_job_ends_once_under_kills(
    place: Place, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    restart = None if place.url.startswith("sqlite") else request.getfixturevalue("postgres").restart
    survived = await torture(Torture(place.url, tmp_path, SECONDS, seed, restart))
    assert survived.kills > 0
    assert survived.confirmed > 0
