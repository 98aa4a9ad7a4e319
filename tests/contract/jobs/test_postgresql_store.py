"""What only a PostgreSQL store meets: a server that goes away, or whose settings would lose jobs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import asyncpg  # type: ignore[import-untyped]  # it has no types
import pytest
from sqlalchemy import text

from tests.contract.jobs.places import TTL, Hands, Place, leased, state_of, submitted
from uploader.errors import JobStoreError
from uploader.jobs import Heartbeat, JobSpec, open_store, upkeep
from uploader.jobs.postgres import _SESSION

if TYPE_CHECKING:
    from tests.contract.jobs.postgresql import PostgresServer
    from uploader.jobs.database import Transaction
    from uploader.jobs.store import SqlJobStore

pytestmark = pytest.mark.asyncio


@pytest.fixture
def place(postgres: PostgresServer, tmp_path: Path, hands: Hands) -> Place:
    return Place(postgres.empty_database(), tmp_path / "locks", hands)


async def test_server_that_was_killed_is_an_error_and_used_again_when_it_is_back(
    place: Place, postgres: PostgresServer
) -> None:
    async with place.open() as store:
        job = await submitted(store, key="k")
        lease = await leased(store)
        await store._database.listen()
        postgres.kill()
        for call in (store.check, store.stats, store.jobs, store.sweep):
            with pytest.raises(JobStoreError) as refusal:
                await call()
            assert refusal.value.problem == "unavailable"
        with pytest.raises(JobStoreError):
            await store.lease(limit=1, ttl=60)
        await anyio.to_thread.run_sync(postgres.start)
        await store.check()
        assert [answer.created for answer in await store.submit([JobSpec(b"{}", key="k")])] == [False]
        assert await store.renew([Heartbeat(lease)]) == ["held"]
        assert await store.complete(lease, b"{}")
        assert await state_of(store, job) == "succeeded"


async def test_server_that_is_not_there_is_an_error_without_the_password() -> None:
    with pytest.raises(JobStoreError, match="is the server up") as refusal:
        async with open_store("postgresql://me:secret@127.0.0.1:1/jobs"):
            pass
    assert "secret" not in str(refusal.value)


async def test_setting_that_would_lose_jobs_is_refused(place: Place) -> None:
    connection = await asyncpg.connect(place.url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await connection.close()
    with pytest.raises(JobStoreError, match="synchronous_commit = off") as refusal:
        async with place.open():
            pass
    assert refusal.value.problem == "unsuitable"


async def test_row_that_another_process_holds_keeps_nobody_from_the_others(place: Place) -> None:
    async with place.open() as store:
        stuck = await submitted(store, priority=9)
        free = await submitted(store)
        connection = await asyncpg.connect(place.url)
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM uploader_jobs WHERE id = $1 FOR UPDATE", stuck)
            assert [lease.job.id for lease in await store.lease(limit=2, ttl=60)] == [free]
        await connection.close()


async def test_session_whose_process_was_stopped_within_a_statement_keeps_nobody_for_long(place: Place) -> None:
    """It has sent what is to be prepared, and no more: for the server that is no idle session."""
    async with place.open() as store:
        job = await submitted(store)
        lease = await leased(store)
        stopped = await asyncpg.connect(place.url, server_settings=_SESSION)
        await stopped.execute("BEGIN")
        await stopped.execute("SELECT 1 FROM uploader_jobs WHERE id = $1 FOR UPDATE", job)
        await stopped.prepare("SELECT 42")
        async with anyio.create_task_group() as others:
            others.start_soon(_sweep_again_and_again, store)
            assert await store.complete(lease, b"{}")
            others.cancel_scope.cancel()
        stopped.terminate()


async def test_role_that_may_end_no_session_takes_leases_back_all_the_same(
    postgres: PostgresServer, tmp_path: Path, hands: Hands
) -> None:
    url = postgres.empty_database("weak")
    postgres.sql("CREATE ROLE weak LOGIN; GRANT ALL ON SCHEMA public TO weak", "weak")
    postgres.sql("REVOKE EXECUTE ON FUNCTION pg_terminate_backend FROM PUBLIC", "weak")
    async with Place(url.replace("postgres@", "weak@"), tmp_path / "locks", hands).open() as store:
        await submitted(store)
        await leased(store)
        await store.sweep()
        hands.pass_time(TTL + 1)
        assert (await store.sweep()).taken_back == 1


@pytest.mark.parametrize("where", ["at its work", "before its commit"])
async def test_transaction_whose_process_stood_still_for_too_long_is_run_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The server has ended the session, and nothing is written: nobody need hear of it."""
    monkeypatch.setitem(_SESSION, "idle_in_transaction_session_timeout", "500ms")
    tries = 0

    def stand_still(tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        session = Path(f"/proc/{tx.connection.scalar(text('SELECT pg_backend_pid()'))}")
        upkeep.check(tx)  # so that the server knows the statement, and all of it goes out at once below
        if tries == 1 and where == "at its work":
            _wait_gone(session)
        elif tries == 1:
            asyncio.get_running_loop().call_soon(_wait_gone, session)  # when that statement has gone out
        upkeep.check(tx)

    async with place.open() as store:
        await store._database.write(stand_still)
    assert tries == 2


def _wait_gone(process: Path) -> None:
    while process.exists():
        time.sleep(0.01)


async def _sweep_again_and_again(store: SqlJobStore) -> None:
    while True:
        await store.sweep()


async def test_listener_that_died_is_made_anew(place: Place) -> None:
    async with place.open() as store:
        for _ in range(2):
            await store._database.listen()
            listener = store._database._listener  # type: ignore[attr-defined]
            assert not listener.is_closed()
            listener.terminate()
            assert listener.is_closed()


@pytest.mark.parametrize(("times", "answer"), [(3, "done"), (99, "JobStoreError")])
async def test_transaction_that_the_server_rolled_back_is_run_again(place: Place, times: int, answer: str) -> None:
    tries = 0

    def deadlocks_at_first(tx: Transaction) -> str:
        nonlocal tries
        tries += 1
        if tries <= times:
            tx.connection.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$"))
        return "done"

    async with place.open() as store:
        try:
            got = await store._database.write(deadlocks_at_first)
        except JobStoreError as error:
            got = type(error).__name__
    assert got == answer
