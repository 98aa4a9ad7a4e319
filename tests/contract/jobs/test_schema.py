"""A store that another version wrote: brought up to this one, or refused."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
from sqlalchemy import Connection, text

from tests.contract.jobs.places import leased, state_of, submitted
from uploader.errors import JobStoreError
from uploader.jobs import JobSpec
from uploader.jobs.tables import STEPS, Schema

if TYPE_CHECKING:
    from tests.contract.jobs.places import Place
    from uploader.jobs.database import Transaction

pytestmark = pytest.mark.asyncio


def add_colour(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE uploader_jobs ADD COLUMN colour TEXT"))


VERSION = max(STEPS)
NEXT = Schema(VERSION + 1, {**STEPS, VERSION + 1: add_colour})
FIRST = (
    "ALTER TABLE uploader_jobs DROP COLUMN losses",
    "DROP TABLE uploader_messages",
    "UPDATE uploader_store SET value = '1' WHERE name = 'schema'",
)


async def test_store_of_the_first_version_is_brought_up_to_this_one(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store, max_attempts=1)
        for statement in FIRST:
            await store._database.write(partial(_execute, statement=statement))
    async with place.open() as store:
        async with place.open() as killed:
            await leased(killed)
        await store.sweep()
        assert (await leased(store)).job.losses == 1
        assert len(await store.submit([JobSpec(b"{}")], message="m")) == 1
        assert await store.submit([JobSpec(b"{}")], message="m") == []
        assert await state_of(store, job) == "leased"


def _execute(tx: Transaction, statement: str) -> None:
    tx.connection.execute(text(statement))


async def test_older_store_is_brought_up_to_date_with_its_jobs(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store)
    for _ in range(2):
        async with place.open(schema=NEXT) as store:
            assert await state_of(store, job) == "ready"
            await store._database.read(lambda tx: tx.connection.execute(text("SELECT colour FROM uploader_jobs")).all())


async def test_newer_store_is_refused_and_left_as_it_is(place: Place) -> None:
    async with place.open(schema=NEXT) as store:
        job = await submitted(store)
    with pytest.raises(JobStoreError, match=f"schema {VERSION + 1}, written by a newer uploader") as refusal:
        async with place.open():
            pass
    assert refusal.value.problem == "schema"
    async with place.open(schema=NEXT) as store:
        assert await state_of(store, job) == "ready"


async def test_migration_that_fails_changes_nothing(place: Place) -> None:
    def half(connection: Connection) -> None:
        add_colour(connection)
        raise JobStoreError("no further", problem="unavailable")

    async with place.open():
        pass
    with pytest.raises(JobStoreError, match="no further"):
        async with place.open(schema=Schema(VERSION + 1, {VERSION + 1: half})):
            pass
    async with place.open(schema=NEXT) as store:
        await store.check()


async def test_processes_that_come_at_once_make_one_store(place: Place) -> None:
    async def come() -> None:
        async with place.open() as store:
            await submitted(store, key="k")

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(come)
    async with place.open() as store:
        assert (await store.stats()).jobs["ready"] == 1
