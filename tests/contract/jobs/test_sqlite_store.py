"""What only an SQLite store meets: full and read-only disks, damaged and foreign files, other processes' locks."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from sqlalchemy import text

from tests.contract.jobs.places import Hands, Place, kinds, leased, state_of, submitted
from uploader.errors import InputError, JobStoreError
from uploader.jobs import JobSpec, open_store, transitions, upkeep
from uploader.jobs.gate import Gate
from uploader.jobs.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from uploader.jobs.database import Transaction
    from uploader.jobs.store import SqlJobStore

pytestmark = pytest.mark.asyncio


@pytest.fixture
def place(tmp_path: Path, hands: Hands) -> Place:
    return Place(f"sqlite:///{tmp_path}/jobs.db", tmp_path / "locks", hands)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


async def with_pragma(store: SqlJobStore, pragma: str) -> None:
    """Set on the connection that writes; gone when it is made anew."""
    await store._database.write(lambda tx: tx.connection.execute(text(f"PRAGMA {pragma}")))


async def filled(place: Place, jobs: int = 200) -> None:
    async with place.open() as store:
        await store.submit([JobSpec(b"x" * 1000) for _ in range(jobs)])


async def test_commits_wait_for_the_disk(place: Place) -> None:
    async with place.open() as store:
        settings = [
            await store._database.write(lambda tx, name=name: tx.connection.scalar(text(f"PRAGMA {name}")))  # type: ignore[misc]
            for name in ("journal_mode", "synchronous")
        ]
    assert settings == ["wal", 2]


@pytest.mark.parametrize(
    ("pragma", "problem", "said"),
    [("max_page_count = 1", "full", "make room"), ("query_only = 1", "read-only", "make it writable")],
)
async def test_disk_that_takes_no_more_is_an_error_and_used_again_without_a_restart(
    place: Place, pragma: str, problem: str, said: str
) -> None:
    async with place.open() as store:
        job = await submitted(store)
        lease = await leased(store)
        await with_pragma(store, pragma)
        with pytest.raises(JobStoreError, match=said) as refusal:
            await store.submit([JobSpec(b"x" * 60_000) for _ in range(20)])
        assert refusal.value.problem == problem
        assert (await store.stats()).jobs["leased"] == 1
        assert await store.complete(lease, b"{}")
        assert await state_of(store, job) == "succeeded"
        await store.check()


async def test_file_that_may_not_grow_is_an_error_for_each_caller_and_loses_nothing(place: Place) -> None:
    """In a process of its own: the limit is the whole process's, and can be raised again."""
    await anyio.to_thread.run_sync(run, LIMITED, place.url, str(place.locks))
    async with place.open() as store:
        assert (await store.stats()).jobs["ready"] == 2


LIMITED = """
import pathlib, resource, sys, anyio
from uploader.errors import JobStoreError
from uploader.jobs import JobSpec, open_store

async def main(url, locks):
    async with open_store(url, locks=pathlib.Path(locks)) as store:
        await store.submit([JobSpec(b"before")])
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        errors = []

        async def submit():
            try:
                await store.submit([JobSpec(b"x" * 60_000)])
            except JobStoreError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(submit)
        assert len(errors) == 5, errors
        try:
            await store.check()
        except JobStoreError:
            pass
        else:
            raise AssertionError("ready though nothing can be written")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await store.check()
        await store.submit([JobSpec(b"after")])

anyio.run(main, *sys.argv[1:])
"""


def run(program: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def truncate_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def truncate_whole(path: Path) -> None:
    os.truncate(path, 0)


def overwrite_one_page(path: Path) -> None:
    """One that nobody needs for opening: some jobs."""
    middle = path.stat().st_size // 4096 // 2
    with path.open("r+b") as file:
        file.seek(middle * 4096)
        file.write(b"\xff" * 40)


def overwrite_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not a database" * 10)


def begin_anew(path: Path) -> None:
    """As a program does that opens what is not there any more."""
    path.unlink()
    empty = sqlite3.connect(path)
    empty.execute("PRAGMA journal_mode = WAL")
    empty.close()


@pytest.mark.parametrize(
    "damage", [truncate_half, truncate_whole, overwrite_one_page, overwrite_header, begin_anew, Path.unlink]
)
async def test_damaged_file_is_refused_and_never_an_empty_queue(
    place: Place, database: Path, damage: Callable[[Path], None]
) -> None:
    await filled(place)
    damage(database)
    with pytest.raises(JobStoreError, match="restore it from a backup") as refusal:
        async with place.open():
            pass
    assert refusal.value.problem == "corrupt"


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def test_a_backup_put_back_beside_the_log_of_a_killed_daemon_is_not_spoilt(place: Place, database: Path) -> None:
    """The log holds the later pages alone: the database that they belong to is gone."""
    await filled(place)
    backup, log = content_of(database), database.with_name(f"{database.name}-wal")
    async with place.open() as store:
        for _ in range(40):
            await store.submit([JobSpec(bytes(10_000)) for _ in range(50)])
        written = content_of(log)
    put(log, written)
    put(database, backup)
    with pytest.raises(JobStoreError, match="remove the -wal and -shm files beside it"):
        async with place.open():
            pass
    assert content_of(database) == backup
    log.unlink()
    async with place.open() as store:
        assert (await store.stats()).jobs["ready"] == 200


async def test_other_store_in_the_same_place_is_refused(place: Place, database: Path, tmp_path: Path) -> None:
    await filled(place)
    async with open_store(f"sqlite:///{tmp_path}/other.db"):
        pass
    (tmp_path / "other.db").replace(database)
    with pytest.raises(JobStoreError, match="holds another store"):
        async with place.open():
            pass


async def test_file_that_is_taken_away_from_a_running_store_is_missed(place: Place, database: Path) -> None:
    away = database.with_name("away")
    async with place.open() as store:
        job = await submitted(store)
        os.rename(database, away)  # noqa: PTH104 - of one file system
        with pytest.raises(JobStoreError, match="is gone now"):
            await submitted(store)
        os.rename(away, database)  # noqa: PTH104
        assert await state_of(store, job) == "ready"
        await submitted(store)


async def test_a_log_that_is_taken_away_from_a_running_store_is_missed(place: Place, database: Path) -> None:
    """What it held is carried over: a kill would have lost it without a word."""
    async with place.open() as store:
        await filled(place, 20)
        database.with_name(f"{database.name}-wal").unlink()
        await submitted(store)
        async with place.open() as other:
            assert (await other.stats()).jobs["ready"] == (await store.stats()).jobs["ready"] == 21


async def test_other_programs_database_is_refused_and_left_as_it_is(place: Place, database: Path) -> None:
    with sqlite3.connect(database) as theirs:
        theirs.execute("CREATE TABLE theirs (x)")
    theirs.close()
    with pytest.raises(JobStoreError, match="another program's database"):
        async with place.open():
            pass
    again = sqlite3.connect(database)
    assert again.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    again.close()


async def test_files_are_for_this_user_only(place: Place, database: Path) -> None:
    async with place.open() as store:
        await submitted(store)
        files = [*database.parent.glob("jobs.db*"), *place.locks.iterdir()]
        assert {oct(file.stat().st_mode & 0o777) for file in files if file.is_file()} == {"0o600"}


async def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobStoreError, match="use the jobs in"):
        async with open_store(f"sqlite:///{tmp_path}/file/jobs.db"):
            pass


@pytest.mark.parametrize("url", ["mysql://secret@host/db", "sqlite://", "sqlite:///", "sqlite:///jobs.db?mode=ro"])
async def test_url_that_names_no_store_is_bad_input(url: str) -> None:
    with pytest.raises(InputError) as refusal:
        async with open_store(url):
            pass
    assert "secret" not in str(refusal.value)


async def test_next_job_is_found_by_an_index_however_many_wait(place: Place) -> None:
    async with place.open() as store:

        def plan(tx: Transaction) -> str:
            asked = text(f"EXPLAIN QUERY PLAN {transitions._NEXT_READY_SQLITE.text}")
            return str(tx.connection.execute(asked, {"now": tx.now, "most": 1}).all())

        steps = await store._database.read(plan)
        assert "uploader_jobs_ready" in steps
        assert "ORDER BY" not in steps


async def test_gate_that_another_process_never_leaves_is_an_error(tmp_path: Path) -> None:
    with locked(tmp_path / "gate"):
        gate = Gate(tmp_path / "gate", patience_seconds=0.01)
        with pytest.raises(JobStoreError, match="another process has held"), gate.passed():
            pass
    with gate.passed():
        gate.expect_store("me")
    assert gate.expected_store() == "me"
    gate.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def test_one_callers_mistake_is_not_the_others(place: Place) -> None:
    """They share a transaction until one of them fails."""
    outcomes: list[str] = []

    async def wrong(store: SqlJobStore) -> None:
        with pytest.raises(JobStoreError):
            await store._database.write(lambda tx: tx.connection.execute(text("SELECT * FROM nowhere")))
        outcomes.append("wrong")

    async def right(store: SqlJobStore) -> None:
        await submitted(store)
        outcomes.append("right")

    async with place.open() as store:
        async with anyio.create_task_group() as group:
            for number in range(9):
                group.start_soon(wrong if number == 4 else right, store)
        assert sorted(outcomes) == ["right"] * 8 + ["wrong"]
        assert (await store.stats()).jobs["ready"] == 8


async def test_gate_that_stays_shut_is_an_error_for_all_who_wait_and_passes(database: Path) -> None:
    store = SqliteDatabase(database, patience_seconds=0.01)
    await store.open()
    errors: list[JobStoreError] = []

    async def write() -> None:
        try:
            await store.write(upkeep.check)
        except JobStoreError as error:
            errors.append(error)

    with locked(database.with_name("jobs.db.lock")):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(write)
    assert [error.problem for error in errors] == ["unavailable"] * 3
    await store.write(upkeep.check)
    await store.close()


async def test_bug_in_one_work_is_raised_and_changes_nothing(place: Place) -> None:
    def fails(tx: Transaction) -> float:
        tx.note("nobody", "leased")
        return 1 / 0

    async with place.open() as store:
        with pytest.raises(ZeroDivisionError):
            await store._database.write(fails)
        assert await kinds(store) == []
        await submitted(store)
