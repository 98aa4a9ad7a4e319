"""What becomes of a lease whose holder died, was stopped, or lives by another clock: the same over both engines."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.contract.jobs.places import TTL, kinds, leased, state_of, submitted
from uploader.jobs import Heartbeat, upkeep
from uploader.jobs.base import SUSPECT_LOSSES
from uploader.jobs.machine import most_losses
from uploader.jobs.upkeep import Held

if TYPE_CHECKING:
    from tests.contract.jobs.places import Hands, Place
    from uploader.jobs.store import SqlJobStore

pytestmark = pytest.mark.asyncio

HOUR = 3600.0
LOSSES = most_losses(1)


async def test_silent_lease_is_taken_back_after_its_ttl_and_not_before(place: Place, hands: Hands) -> None:
    async with place.open() as holder, place.open() as other:
        job = await submitted(other)
        await leased(holder)
        await other.sweep()
        hands.pass_time(TTL - 0.01)
        assert (await other.sweep()).taken_back == 0
        hands.pass_time(0.01)
        assert (await other.sweep()).taken_back == 1
        assert (await leased(other)).job.leases == 2
        assert await kinds(other, job) == ["submitted", "leased", "lost", "leased"]


async def test_renewed_lease_is_kept(place: Place, hands: Hands) -> None:
    async with place.open() as holder, place.open() as other:
        await submitted(other)
        lease = await leased(holder)
        for _ in range(8):
            await other.sweep()
            hands.pass_time(TTL / 2)
            assert await holder.renew([Heartbeat(lease)]) == ["held"]
        assert (await other.sweep()).taken_back == 0
        assert await holder.complete(lease, b"{}")


async def test_renewal_between_looking_and_taking_back_keeps_the_lease(place: Place) -> None:
    async with place.open() as holder, place.open() as other:
        job = await submitted(other)
        lease = await leased(holder)
        as_seen = Held(job, lease.token, TTL, beat=0)
        assert await holder.renew([Heartbeat(lease)]) == ["held"]
        take_back = partial(upkeep.take_back, expired=[as_seen], gone=[], silent=[])
        assert await other._database.write(take_back) == 0
        assert await holder.complete(lease, b"{}")


async def test_who_just_came_watches_for_a_whole_ttl(place: Place, hands: Hands) -> None:
    async with place.open() as holder:
        await submitted(holder)
        await leased(holder)
        hands.pass_time(100 * TTL)
        async with place.open() as other:
            assert (await other.sweep()).taken_back == 0
            hands.pass_time(TTL)
            assert (await other.sweep()).taken_back == 1


async def test_lost_token_changes_nothing(place: Place, hands: Hands) -> None:
    async with place.open() as stopped, place.open() as other:
        job = await submitted(other)
        old = await leased(stopped)
        await other.sweep()
        hands.pass_time(TTL)
        await other.sweep()
        new = await leased(other)
        before = await other.get(job), await other.events(job)

        assert await stopped.renew([Heartbeat(old, "I am late", settled=True)]) == ["lost"]
        assert not await stopped.complete(old, b"late")
        assert await stopped.fail(old, "late", retry_in=None, report=b"late") == "lost"
        assert not await stopped.release(old)
        assert (await other.get(job), await other.events(job)) == before
        assert await other.report(job) is None

        assert await other.complete(new, b"in time")
        assert not await stopped.complete(old, b"late")
        assert await other.report(job) == b"in time"


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 24 * HOUR, -24 * HOUR])
async def test_jump_of_the_wall_clock_loses_no_lease_and_keeps_none(place: Place, hands: Hands, jump: float) -> None:
    async with place.open() as holder, place.open() as other:
        await submitted(other)
        await leased(holder)
        await other.sweep()
        hands.wall += jump
        assert (await other.sweep()).taken_back == 0
        hands.pass_time(TTL)
        assert (await other.sweep()).taken_back == 1
        assert (await leased(other)).job.leases == 2


async def test_clock_put_back_holds_nobody_in_back_off(place: Place, hands: Hands) -> None:
    async with place.open() as store:
        await submitted(store)
        await store.fail(await leased(store), "later", retry_in=5)
        hands.wall -= HOUR
        assert (await store.stats()).jobs["ready"] == 1
        assert (await leased(store)).job.attempts == 2


async def test_clock_put_back_holds_back_no_new_job(place: Place, hands: Hands) -> None:
    async with place.open() as store:
        await submitted(store, b"before")
        hands.wall -= HOUR
        await submitted(store, b"after")
        assert {lease.job.payload for lease in await store.lease(limit=2, ttl=TTL)} == {b"before", b"after"}


async def test_lease_of_a_process_that_is_gone_is_taken_over_at_once(place: Place) -> None:
    async with place.open() as store:
        await submitted(store)
        async with place.open() as gone:
            await leased(gone)
            assert await store.lease(limit=1, ttl=TTL) == []
        swept = await store.sweep()
        assert (swept.taken_back, swept.gone) == (1, 1)
        assert (await leased(store)).job.leases == 2
        assert len(await store.workers()) == 1
        assert len(list(place.locks.iterdir())) == 1


async def test_next_process_goes_on_where_a_killed_one_was(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store)
    await anyio.to_thread.run_sync(lease_and_be_killed, place)
    async with place.open() as store:
        (lease,) = await store.lease(limit=1, ttl=TTL)
        assert (lease.job.id, lease.job.leases) == (job, 2)


async def test_poison_ends_among_the_dead_after_so_many_losses(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store, b"poison", max_attempts=1, priority=1)
        other = await submitted(store)
        for _ in range(LOSSES):
            await anyio.to_thread.run_sync(lease_and_be_killed, place)
            await store.sweep()
        dead = await store.get(job)
        assert dead is not None
        assert (dead.state, dead.attempts, dead.losses) == ("dead", 0, LOSSES)
        assert f"{LOSSES} times without getting anything done" in str(dead.error)
        assert [one.outcome for one in await store.history(job)] == ["lost"] * LOSSES
        assert (await leased(store)).job.id == other


async def test_losses_cost_no_attempt_and_those_before_progress_are_forgotten(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store, max_attempts=1)
        for settled in (False, True, False):
            async with place.open() as killed:
                await killed.renew([Heartbeat(await leased(killed), settled=settled)])
            await store.sweep()
        lease = await leased(store)
        assert (lease.job.attempts, lease.job.losses) == (1, 1)
        assert await store.fail(lease, "no", retry_in=0) == "dead"
        assert await store.retry(job)
        assert (await leased(store)).job.losses == 0


async def test_daemon_killed_again_and_again_gets_on_while_it_settles_something(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store, max_attempts=1)
        for _ in range(5):
            async with place.open() as killed:
                await killed.renew([Heartbeat(await leased(killed), settled=True)])
            await store.sweep()
        assert await state_of(store, job) == "ready"
        for _ in range(LOSSES):
            async with place.open() as killed:
                await leased(killed)
            await store.sweep()
        assert await state_of(store, job) == "dead"


async def test_suspect_comes_alone_in_its_turn(place: Place) -> None:
    """It may be what killed its holders: what else they held would be lost with it again, and be dead like it."""
    async with place.open() as store:
        await submitted(store, b"one")
        await submitted(store, b"two")
        await lose_all(store, place, SUSPECT_LOSSES)
        await submitted(store, b"three")
        await submitted(store, b"urgent", priority=1)
        (before,) = await store.lease(limit=9, ttl=TTL)
        assert before.job.payload == b"urgent"
        assert await store.lease(limit=9, ttl=TTL, suspects=False) == []
        (suspect,) = await store.lease(limit=9, ttl=TTL)
        assert (suspect.job.payload, suspect.job.suspect) == (b"one", True)
        assert await store.complete(suspect, b"{}")
        assert (await leased(store)).job.payload == b"two"
        assert [lease.job.suspect for lease in await store.lease(limit=9, ttl=TTL, suspects=False)] == [False]


async def test_job_is_no_suspect_any_more_once_it_got_something_done(place: Place) -> None:
    async with place.open() as store:
        await submitted(store, b"one")
        await submitted(store, b"two")
        await lose_all(store, place, SUSPECT_LOSSES)
        lease = await leased(store)
        assert await store.fail(lease, "no", retry_in=0, settled=True) == "again"
        (again,) = await store.lease(limit=9, ttl=TTL, suspects=False)
        assert (again.job.payload, again.job.suspect) == (b"one", False)


async def lose_all(store: SqlJobStore, place: Place, times: int) -> None:
    for _ in range(times):
        async with place.open() as killed:
            assert len(await killed.lease(limit=9, ttl=TTL)) > 1
        await store.sweep()


async def test_process_without_a_lock_file_here_is_given_its_time(place: Place, hands: Hands) -> None:
    async with place.open() as store:
        await submitted(store)
        async with place.open() as gone:
            await leased(gone)
        for file in place.locks.iterdir():
            file.unlink()
        assert (await store.sweep()).taken_back == 0
        hands.pass_time(TTL)
        assert (await store.sweep()).taken_back == 1
        hands.pass_time(TTL)
        await store.sweep()
        assert len(await store.workers()) == 1


async def test_cancelled_caller_does_not_lose_what_it_leased(place: Place) -> None:
    got: list[bool] = []

    async def lease(store: SqlJobStore) -> None:
        got.extend(True for _ in await store.lease(limit=1, ttl=TTL))

    async with place.open() as store:
        await submitted(store)
        async with anyio.create_task_group() as group:
            group.start_soon(lease, store)
            await anyio.lowlevel.checkpoint()  # so that it has begun
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert ((await store.stats()).jobs["leased"] == 1) == bool(got)


LEASE_AND_DIE = """
import os, pathlib, sys, anyio
from uploader.jobs import open_store

async def main(url, locks):
    async with open_store(url, locks=pathlib.Path(locks)) as store:
        (lease,) = await store.lease(limit=1, ttl=60)
        os._exit(7)

anyio.run(main, *sys.argv[1:])
"""


def lease_and_be_killed(place: Place) -> None:
    """A process that leases one job and ends without a word."""
    command = [sys.executable, "-c", LEASE_AND_DIE, place.url, str(place.locks)]
    assert subprocess.run(command, check=False).returncode == 7
