"""A limit of bytes per second, by a clock that is handed in."""

from __future__ import annotations

import pytest

from uploader.registry.bandwidth import Bandwidth
from uploader.testing.clock import Clock


@pytest.mark.asyncio
async def test_what_is_sent_keeps_the_limit() -> None:
    clock = Clock()
    began = clock.timing.monotonic()
    limit = Bandwidth(1000, clock.timing)
    for _ in range(200):
        await limit.wait_for(100)
    assert clock.timing.monotonic() - began == pytest.approx(200 * 100 / 1000, rel=0.05)


def test_pieces_are_small_where_the_limit_is() -> None:
    clock = Clock()
    assert Bandwidth(1000, clock.timing).piece(256 * 1024) == 200
    assert Bandwidth(1e9, clock.timing).piece(256 * 1024) == 256 * 1024
