"""Whatever two processes do to one job at the same moment, one of them wins and the job is in a legal state."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import pytest

from tests.torture.races import ACTS, race

if TYPE_CHECKING:
    from tests.contract.jobs.places import Hands, Place

TIMES = 2


@pytest.mark.asyncio
async def test_one_of_two_wins(place: Place, hands: Hands) -> None:
    async with place.open() as one, place.open() as other:
        for pair in combinations_with_replacement(ACTS, 2):
            for _ in range(TIMES):
                await race(one, other, pair, hands)
