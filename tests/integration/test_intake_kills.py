"""The short form of `tests.torture.intake`: broker and daemon killed at random for a moment; each message is a job."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.torture.intake import torture

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 5.0

pytestmark = pytest.mark.usefixtures("libraries_may_leave_connections")


@pytest.mark.real
@pytest.mark.asyncio
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a broker that was killed leaves the library's connections open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("broker", ["nats", "redis"])
async def test_every_message_becomes_one_job_though_daemon_and_broker_are_killed(tmp_path: Path, broker: str) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    survived = await torture(tmp_path, broker, seconds=SECONDS, seed=seed)
    assert survived.confirmed > 0
    assert survived.broker_kills + survived.daemon_kills > 0
