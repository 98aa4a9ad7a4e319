"""The processes that a torture of the job store kills: clients that submit, workers that lease. Each keeps a diary."""

from __future__ import annotations

import logging
import os
import random
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import anyio
import structlog

from uploader.errors import JobStoreError
from uploader.jobs import Heartbeat, JobSpec, open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from uploader.jobs import Lease
    from uploader.jobs.store import SqlJobStore

T = TypeVar("T")

TTL: Final = 1.0
ATTEMPTS: Final = 4
DIED: Final = 9
_SHARED_KEYS: Final = 5
_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Orders:
    """What a process is to do; `diary` is a file of lines, each in the page cache before the next step."""

    role: Literal["client", "worker"]
    url: str
    locks: Path
    diary: Path
    seed: int


class Diary:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def write(self, *words: str) -> None:
        self._file.write(" ".join(words) + "\n")


def quiet() -> None:
    """Thousands of lost leases are no news here."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


def run(orders: Orders) -> None:
    """Do it until killed."""
    quiet()
    anyio.run(_run, orders)


async def _run(orders: Orders) -> None:
    chance, diary = random.Random(orders.seed), Diary(orders.diary)
    act = _submit if orders.role == "client" else _work
    while True:
        try:
            async with open_store(orders.url, locks=orders.locks) as store:
                while True:
                    await act(store, chance, diary)
        except JobStoreError:
            await anyio.sleep(_PAUSE_SECONDS)


async def _submit(store: SqlJobStore, chance: random.Random, diary: Diary) -> None:
    keys = [_key(chance) for _ in range(chance.randint(1, 4))]
    for key in keys:
        diary.write("meant", key)
    specs = [JobSpec(b"{}", key=key, max_attempts=ATTEMPTS, priority=chance.randint(0, 2)) for key in keys]
    for answer in await _insist(lambda: store.submit(specs)):
        diary.write("confirmed", answer.id)
    await anyio.sleep(chance.uniform(0, 0.05))


def _key(chance: random.Random) -> str:
    return f"shared-{chance.randrange(_SHARED_KEYS)}" if chance.random() < 0.2 else uuid.uuid4().hex


async def _work(store: SqlJobStore, chance: random.Random, diary: Diary) -> None:
    for lease in await store.lease(limit=chance.randint(1, 4), ttl=TTL, wait=0.5):
        await _work_on(store, lease, chance, diary)


async def _work_on(store: SqlJobStore, lease: Lease, chance: random.Random, diary: Diary) -> None:
    await anyio.sleep(chance.uniform(0, 0.03))
    beat = Heartbeat(lease, f"{chance.randrange(9)} of 9", settled=chance.random() < 0.1)
    if await store.renew([beat]) == ["lost"]:
        return
    match chance.choices(["complete", "fail", "again", "release", "die"], [80, 5, 8, 5, 2])[0]:
        case "complete":
            if await _insist(lambda: store.complete(lease, lease.token.encode())):
                diary.write("completed", lease.job.id, lease.token)
        case "fail":
            if await _insist(lambda: store.fail(lease, "no", retry_in=None)) == "failed":
                diary.write("failed", lease.job.id, lease.token)
        case "again":
            await store.fail(lease, "later", retry_in=chance.uniform(0, 0.2))
        case "release":
            await store.release(lease)
        case "die":
            os._exit(DIED)


async def _insist(call: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer, as whoever wants to know must when the connection broke."""
    while True:
        try:
            return await call()
        except JobStoreError:
            await anyio.sleep(_PAUSE_SECONDS)
