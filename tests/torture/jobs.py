"""The torture of the job store: processes and server killed at random, and then nothing may be lost or done twice.

python -m tests.torture.jobs --seconds 30 --seed 1 --engine sqlite|postgresql [--races 1000] [--power-cuts 3]
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from tests.contract.jobs.places import Hands
from tests.contract.jobs.postgresql import postgres_server
from tests.torture.forkserver import forkserver
from tests.torture.job_processes import DIED, TTL, Orders, quiet, run
from tests.torture.power_cut import power_cut
from tests.torture.races import ACTS, race
from uploader.errors import JobStoreError
from uploader.jobs import FINAL, JobId, open_store
from uploader.testing import PartMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from multiprocessing.context import ForkServerProcess

    from tests.torture.power_cut import Engine
    from uploader.jobs import Job, JobEvent
    from uploader.jobs.store import SqlJobStore

ROLES: Final = ("client", "client", "worker", "worker", "worker")
_START_SECONDS: Final = 60.0
_DRAIN_SECONDS: Final = 60.0
_CUT_SECONDS: Final = 2.0
_SERVER_SECONDS: Final = 1.5


@dataclass(frozen=True, slots=True)
class Torture:
    """What to do to which store; `restart_server` kills it and starts it again."""

    url: str
    folder: Path
    seconds: float
    seed: int
    restart_server: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Survived:
    """What went on, of which nothing was lost."""

    seed: int
    kills: int
    pauses: int
    server_kills: int
    jobs: int
    confirmed: int
    completed: int
    states: dict[str, int]
    lost_leases: int


async def torture(orders: Torture) -> Survived:
    """Let it go on for so long, then see whether all is well; raises AssertionError."""
    nemesis = Nemesis(orders)
    followed: list[JobEvent] = []
    try:
        async with open_store(orders.url, locks=orders.folder / "locks") as store:
            async with anyio.create_task_group() as group:
                group.start_soon(_follow, store, followed)
                if orders.restart_server is not None:
                    group.start_soon(nemesis.kill_servers, orders.restart_server)
                await nemesis.rage()
                group.cancel_scope.cancel()
            nemesis.end()
            if orders.restart_server is not None:
                await anyio.to_thread.run_sync(orders.restart_server)
            await _drain(store)
            return await _judge(store, orders, nemesis, followed)
    finally:
        nemesis.end()


class Nemesis:
    """Starts the processes, kills and stops them, and starts others in their place."""

    def __init__(self, orders: Torture) -> None:
        self._orders = orders
        self._chance = random.Random(orders.seed)
        self._numbers = itertools.count()
        self._living: list[tuple[str, ForkServerProcess]] = []
        self.kills = self.pauses = self.server_kills = 0

    async def rage(self) -> None:
        """Every 50 to 250 ms something happens to one of them, once the first job is confirmed."""
        for role in ROLES:
            self._start(role)
        with anyio.fail_after(_START_SECONDS):
            while not _diaries(self._orders.folder)[1]:  # noqa: ASYNC110 - other processes write them
                await anyio.sleep(0.01)
        with anyio.move_on_after(self._orders.seconds):
            async with anyio.create_task_group() as group:
                while True:
                    await anyio.sleep(self._chance.uniform(0.05, 0.25))
                    self._bury()
                    role, process = self._living.pop(self._chance.randrange(len(self._living)))
                    if self._chance.random() < 0.1:
                        group.start_soon(self._pause, process)
                        self._living.append((role, process))
                    else:
                        self._kill(process)
                        self._start(role)

    def _bury(self) -> None:
        """Start others for those that ended by themselves, as a worker now and then does on purpose."""
        for role, process in [pair for pair in self._living if not pair[1].is_alive()]:
            assert process.exitcode == DIED, f"a {role} ended with status {process.exitcode}"
            self._living.remove((role, process))
            self._start(role)

    async def kill_servers(self, restart: Callable[[], None]) -> None:
        """And now and then to the server."""
        while True:
            await anyio.sleep(self._chance.uniform(0.5, 2) * _SERVER_SECONDS)
            await anyio.to_thread.run_sync(restart)
            self.server_kills += 1

    def end(self) -> None:
        """Kill them all."""
        while self._living:
            self._kill(self._living.pop()[1])

    def _start(self, role: str) -> None:
        number = next(self._numbers)
        orders = Orders(
            "client" if role == "client" else "worker",
            self._orders.url,
            self._orders.folder / "locks",
            self._orders.folder / f"{number}.diary",
            self._chance.randrange(2**32),
        )
        process = forkserver().Process(target=run, args=(orders,), daemon=True)
        process.start()
        self._living.append((role, process))

    def _kill(self, process: ForkServerProcess) -> None:
        process.kill()
        process.join()
        self.kills += 1

    async def _pause(self, process: ForkServerProcess) -> None:
        """Stop it for longer than its leases last; whatever it does then, it does too late."""
        assert process.pid is not None
        with suppress(ProcessLookupError):  # it just died
            os.kill(process.pid, signal.SIGSTOP)
            self.pauses += 1
            try:
                await anyio.sleep(2 * TTL)
            finally:
                if process.is_alive():
                    os.kill(process.pid, signal.SIGCONT)


async def _follow(store: SqlJobStore, followed: list[JobEvent]) -> None:
    """Read events as somebody does who comes back whenever the connection broke."""
    while True:
        after = followed[-1].seq if followed else 0
        try:
            followed.extend(await store.events(after=after, wait=0.5))
        except JobStoreError:
            await anyio.sleep(0.05)


async def _drain(store: SqlJobStore) -> None:
    """Bring what is left to an end."""
    with anyio.fail_after(_DRAIN_SECONDS):
        while True:
            await store.sweep()
            for lease in await store.lease(limit=100, ttl=TTL):
                await store.complete(lease, lease.token.encode())
            counts = (await store.stats()).jobs
            if not counts["ready"] + counts["scheduled"] + counts["leased"]:
                return
            await anyio.sleep(0.05)


async def _judge(store: SqlJobStore, orders: Torture, nemesis: Nemesis, followed: list[JobEvent]) -> Survived:
    jobs = {job.id: job async for job in _all_jobs(store)}
    meant, confirmed, done = _diaries(orders.folder)
    events = [event async for event in _all_events(store)]
    assert not confirmed - jobs.keys(), f"seed {orders.seed}: confirmed and lost: {confirmed - jobs.keys()}"
    unknown = {job.id for job in jobs.values() if job.key not in meant}
    assert not unknown, f"seed {orders.seed}: nobody submitted {unknown}"
    assert [event.seq for event in followed] == [event.seq for event in events[: len(followed)]], "gaps in the events"
    told: dict[str, list[str]] = defaultdict(list)
    for event in events:
        told[event.job].append(event.kind)
    for job in jobs.values():
        context = f"seed {orders.seed}: {job} {told[job.id]}"
        assert job.state in FINAL, context
        assert [kind for kind in told[job.id] if kind in FINAL] == [job.state], context
        assert told[job.id].count("leased") == job.leases == len(await store.history(job.id)), context
        assert job.attempts <= job.max_attempts, context
    for job_id, ends in done.items():
        assert len(ends) == 1, f"seed {orders.seed}: {job_id} was ended by {ends}"
        (state, token), *_ = ends
        assert jobs[job_id].state == state, f"seed {orders.seed}: {jobs[job_id]} though {ends}"
        if state == "succeeded":
            assert await store.report(jobs[job_id].id) == token.encode(), f"seed {orders.seed}: {job_id}"
    return Survived(
        orders.seed,
        nemesis.kills,
        nemesis.pauses,
        nemesis.server_kills,
        len(jobs),
        len(confirmed),
        len(done),
        dict(Counter(job.state for job in jobs.values())),
        sum(kinds.count("lost") for kinds in told.values()),
    )


async def _all_jobs(store: SqlJobStore) -> AsyncIterator[Job]:
    cursor = None
    while True:
        page = await store.jobs(limit=1000, cursor=cursor)
        for job in page.jobs:
            yield job
        if (cursor := page.next) is None:
            return


async def _all_events(store: SqlJobStore) -> AsyncIterator[JobEvent]:
    after = 0
    while events := await store.events(after=after, limit=1000):
        for event in events:
            yield event
        after = events[-1].seq


def _diaries(folder: Path) -> tuple[set[str], set[JobId], dict[JobId, set[tuple[str, str]]]]:
    """What was meant to be submitted, what was confirmed, and who was told to have ended which job how."""
    meant: set[str] = set()
    confirmed: set[JobId] = set()
    done: dict[JobId, set[tuple[str, str]]] = defaultdict(set)
    for path in folder.glob("*.diary"):
        for line in path.read_text().splitlines():
            match line.split():
                case ["meant", key]:
                    meant.add(key)
                case ["confirmed", job]:
                    confirmed.add(JobId(job))
                case ["completed", job, token]:
                    done[JobId(job)].add(("succeeded", token))
                case ["failed", job, token]:
                    done[JobId(job)].add(("failed", token))
    return meant, confirmed, done


async def races(url: str, locks: Path, times: int) -> int:
    """Every pair of the race matrix so many times; how many races that was."""
    hands = Hands()
    pairs = list(itertools.combinations_with_replacement(ACTS, 2))
    async with (
        open_store(url, locks=locks, clock=hands.clock) as one,
        open_store(url, locks=locks, clock=hands.clock) as other,
    ):
        for _, pair in itertools.product(range(times), pairs):
            await race(one, other, pair, hands)
    return times * len(pairs)


def cut_power(folder: Path, times: int, engine: Engine) -> None:
    """Nothing confirmed is lost, and something is where commits do not wait for the disk: so the test can fail."""
    for durable in [True] * times + [False]:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            try:
                cut = power_cut(Path(place), _CUT_SECONDS, durable=durable, engine=engine)
            except PartMissing as missing:
                sys.stdout.write(f"power cut: left out, {missing}\n")
                return
        sys.stdout.write(f"power cut, {'durable' if durable else 'lazy'} commits: {cut}\n")
        assert (cut.lost == 0) == durable, cut


def main(arguments: list[str] | None = None) -> int:
    """Run both, and say what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--races", type=int, default=0, help="how often each pair of the race matrix is run")
    parser.add_argument("--power-cuts", type=int, default=0, help="how many (root)")
    options = parser.parse_args(arguments)
    quiet()
    sys.stderr.write(f"torture of the job store: {options}\n")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, racing, restart = f"sqlite:///{folder}/jobs.db", f"sqlite:///{folder}/races.db", None
        if options.engine == "postgresql":
            server = stack.enter_context(postgres_server())
            url, racing, restart = server.empty_database(), server.empty_database("races"), server.restart
        survived = anyio.run(torture, Torture(url, folder, options.seconds, options.seed, restart))
        sys.stdout.write(f"{survived}\n")
        raced = anyio.run(partial(races, racing, folder / "locks", options.races))
        sys.stdout.write(f"{raced} races, each with one winner\n")
        if options.power_cuts:
            cut_power(folder, options.power_cuts, options.engine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
