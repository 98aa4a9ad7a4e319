"""The power cut: what the disk held at one moment, without what the system had not written yet (root).

The store lies on a file system in a file. While a process submits jobs it is stopped, and so is the server with all
its processes where there is one; the file is copied, and the copy is mounted: every job that was confirmed has to be
there. So that the test is known to be able to fail, the same is done with commits that do not wait for the disk, and
then jobs have to be missing.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import anyio
from sqlalchemy import text

from tests.contract.jobs.postgresql import postgres_server
from tests.torture.job_processes import Diary
from uploader.jobs import JobSpec, open_store
from uploader.jobs.postgres import PostgresDatabase
from uploader.testing.parts import PartMissing, find_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from uploader.jobs.store import SqlJobStore

Engine = Literal["sqlite", "postgresql"]

_DISK_BYTES: Final = {"sqlite": 64 * 1024 * 1024, "postgresql": 192 * 1024 * 1024}
_START_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Cut:
    """How many jobs were confirmed before the cut, and how many of them were gone after it."""

    confirmed: int
    lost: int


def power_cut(folder: Path, seconds: float, *, durable: bool, engine: Engine = "sqlite") -> Cut:
    """Submit for so long, cut the power, and count."""
    if os.geteuid() != 0:
        raise PartMissing("a simulated power cut mounts file systems, which only root may")
    disk, after, diary = folder / "disk", folder / "after", folder / "diary"
    _make_disk(disk, _DISK_BYTES[engine])
    with _mounted(disk, folder / "mnt") as place, _store(place, engine) as store:
        os.sync()  # what a new server wrote; what comes from here on is what the test is about
        process = multiprocessing.get_context("spawn").Process(
            target=_submit_for_ever, args=(store.url, diary, durable), daemon=True
        )
        process.start()
        try:
            _wait_for(diary)
            time.sleep(seconds)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            store.freeze()
            confirmed = set(diary.read_text().split())
            shutil.copyfile(disk, after)
        finally:
            process.kill()
            process.join()
            store.end()
    with _mounted(after, folder / "mnt") as place, _store(place, engine) as store:
        present = anyio.run(_ids, store.url)
    return Cut(len(confirmed), len(confirmed - present))


@dataclass(frozen=True, slots=True)
class _Store:
    """`freeze` stops the processes that are the store's own; `end` ends them."""

    url: str
    freeze: Callable[[], None] = lambda: None
    end: Callable[[], None] = lambda: None


@contextmanager
def _store(place: Path, engine: Engine) -> Iterator[_Store]:
    if engine == "sqlite":
        yield _Store(f"sqlite:///{place}/jobs.db")
        return
    with postgres_server(place / "data") as server:
        server.sql("ALTER DATABASE postgres RESET ALL")  # what made it lazy before the cut
        yield _Store(server.url("postgres"), server.freeze, server.kill_all)


def _make_disk(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run([find_program("mkfs.ext4"), "-q", str(path)], check=True)


@contextmanager
def _mounted(disk: Path, point: Path) -> Iterator[Path]:
    point.mkdir(exist_ok=True)
    # The system writes by itself every 300 s only; the store has to ask for it.
    mount = [find_program("mount"), "-o", "loop,commit=300", str(disk), str(point)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        raise PartMissing(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run([find_program("umount"), "--lazy", str(point)], check=True)  # what was killed may still end


def _wait_for(diary: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while not (diary.exists() and diary.stat().st_size):
        assert time.monotonic() < until, "the process that submits does not start"
        time.sleep(0.01)


def _submit_for_ever(url: str, diary: Path, durable: bool) -> None:
    anyio.run(_submit, url, Diary(diary), durable)


async def _submit(url: str, diary: Diary, durable: bool) -> None:
    async with open_store(url) as store:
        if not durable:
            await _be_lazy(store)
        while True:
            for answer in await store.submit([JobSpec(b"{}")]):
                diary.write(answer.id)


async def _be_lazy(store: SqlJobStore) -> None:
    """What the store refuses to be told by a database's settings: so it is told behind its back."""
    if isinstance(store._database, PostgresDatabase):
        lazy = text("ALTER DATABASE postgres SET synchronous_commit = off")
        await store._database.write(lambda tx: tx.connection.execute(lazy) and None)
        await store._database._engine.dispose()
    else:
        writer = store._database._writer.connection.dbapi_connection  # type: ignore[attr-defined]
        writer.execute("PRAGMA synchronous = NORMAL")


async def _ids(url: str) -> set[str]:
    found: set[str] = set()
    async with open_store(url) as store:
        cursor = None
        while True:
            page = await store.jobs(limit=1000, cursor=cursor)
            found.update(job.id for job in page.jobs)
            if (cursor := page.next) is None:
                return found
