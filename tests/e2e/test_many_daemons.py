"""The short form of `tests.torture.daemons`: three daemons on one PostgreSQL, one of them killed in the middle."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.torture.daemons import Work, work_off

if TYPE_CHECKING:
    from tests.e2e.command import Command


@pytest.mark.real
@pytest.mark.asyncio
async def test_the_jobs_of_a_killed_daemon_are_taken_over_and_each_package_is_pushed_once(command: Command) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    done = await work_off(command.home, Work(daemons=3, jobs=6, packages=10, latency_seconds=0.02, seed=seed))
    assert done.manifests == 6 * 10
