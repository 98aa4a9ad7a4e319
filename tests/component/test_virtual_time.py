"""Virtual time: hours pass at once, in order, and a program that would wait for ever says so."""

from __future__ import annotations

import anyio
import pytest

from uploader.testing.virtual import run_in_virtual_time


def test_sleeps_side_by_side_take_as_long_as_the_longest() -> None:
    woken: list[int] = []

    async def nap(hours: int) -> None:
        await anyio.sleep(3600 * hours)
        woken.append(hours)

    async def work() -> str:
        async with anyio.create_task_group() as group:
            for hours in (3, 1, 2):
                group.start_soon(nap, hours)
        return "rested"

    assert run_in_virtual_time(work) == ("rested", 3 * 3600)
    assert woken == [1, 2, 3]


def test_deadlines_are_kept_to_the_second() -> None:
    async def work(seconds: float) -> bool:
        with anyio.move_on_after(60) as scope:
            await anyio.sleep(seconds)
        return scope.cancelled_caught

    assert run_in_virtual_time(work, 59.0) == (False, 59.0)
    assert run_in_virtual_time(work, 61.0) == (True, 60.0)


def test_waiting_for_what_never_happens_is_an_error() -> None:
    async def work() -> None:
        await anyio.Event().wait()

    with pytest.raises(RuntimeError, match="never happens"):
        run_in_virtual_time(work)
