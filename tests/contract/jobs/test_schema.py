"""A store that another version wrote: brought up to this one, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from sqlalchemy import Connection, text

from tests.contract.jobs.places import state_of, submitted
from uploader.errors import JobStoreError
from uploader.jobs.tables import Schema

if TYPE_CHECKING:
    from tests.contract.jobs.places import Place

pytestmark = pytest.mark.asyncio


def add_colour(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE uploader_jobs ADD COLUMN colour TEXT"))


NEXT = Schema(2, {2: add_colour})


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
    with pytest.raises(JobStoreError, match="schema 2, written by a newer uploader") as refusal:
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
        async with place.open(schema=Schema(2, {2: half})):
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
