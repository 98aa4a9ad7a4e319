"""The short form of `tests.torture.faults`: requests fail, pushes are cut off, and the next one ends them truly."""

from __future__ import annotations

import os
import random
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.torture.faults import SPEED, torture
from uploader.testing.virtual import run_hurried

if TYPE_CHECKING:
    from pathlib import Path

RUNS = 25


@pytest.mark.parametrize("half", ["first", "second"])
def test_nothing_is_lost_and_nothing_false_under_random_faults(tmp_path: Path, half: str) -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"the {half} half: seeds from {seed}")
    environment = dict(os.environ)
    try:
        tally = run_hurried(partial(torture, range(seed, seed + RUNS), tmp_path), speed=SPEED)
    finally:
        os.environ.clear()
        os.environ.update(environment)
    assert tally.outcomes["pushed"] > 0
