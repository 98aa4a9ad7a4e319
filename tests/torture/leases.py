"""Daemons stopped, killed, and cut off from their store at random: nothing is written under a lost lease.

python -m tests.torture.leases --engine sqlite|postgresql --seconds 60 --away 30 --seed 1
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from tests.component.a_daemon import a_job
from tests.contract.jobs.postgresql import postgres_server
from tests.torture.daemon_process import Orders, daemon_process
from tests.torture.job_processes import quiet
from tests.torture.outage import Crashed, FullDisk, Killed, OneOf, ReadOnly, TakenAway, small_disk
from uploader.errors import JobStoreError
from uploader.jobs import FINAL, JobSpec, open_store
from uploader.testing import FakeRegistry, Quirks
from uploader.testing.packages import write_packages

if TYPE_CHECKING:
    from tests.e2e.a_daemon import Serving
    from tests.torture.outage import Outage
    from uploader.jobs import JobId
    from uploader.jobs.store import SqlJobStore

_TTL: Final = 1.5
_MARGIN: Final = 0.4
_DAEMONS: Final = 3
_WAITING: Final = 4
_PACKAGES: Final = 40
_ATTEMPTS: Final = 1000
_DRAIN_SECONDS: Final = 120.0
_DISK_BYTES: Final = 512 * 1024 * 1024
_WRITES: Final = frozenset({"POST", "PUT", "PATCH"})


@dataclass(frozen=True, slots=True)
class Survived:
    """`takeovers`: leases beyond the first of a job."""

    seed: int
    stops: int
    kills: int
    outages: int
    jobs: int
    takeovers: int
    writes: int


class Torture:
    """Mutable: the daemons that live, the jobs, and how often what was done."""

    def __init__(self, orders: Orders, outage: Outage, seed: int) -> None:
        self._orders = orders
        self._outage = outage
        self._seed = seed
        self._chance = random.Random(seed)
        self._living: dict[int, Serving] = {}
        self._ready = anyio.Event()
        self._jobs: dict[str, JobId] = {}
        self.stops = self.kills = self.outages = 0

    async def rage(self, seconds: float, away: float) -> Survived:
        """For so long, and then once without the store for `away` seconds; raises AssertionError."""
        graph = write_packages(Path(self._orders.root) / "graph", {f"p{n}": [] for n in range(_PACKAGES)})
        async with (
            FakeRegistry(quirks=Quirks(latency_seconds=0.02)) as registry,
            open_store(self._orders.url, locks=Path(self._orders.locks)) as store,
            anyio.create_task_group() as group,
        ):
            for number in range(_DAEMONS):
                group.start_soon(self._keep, number)
            with anyio.move_on_after(seconds):
                async with anyio.create_task_group() as raging:
                    raging.start_soon(self._submit_on, store, graph, registry)
                    await self._haunt(raging)
            self._outage.end()
            await self._all_live()  # one that starts without a store ends, as it should
            await self._be_away(away)
            await self._wait_ended(store)
            group.cancel_scope.cancel()
        async with open_store(self._orders.url, locks=Path(self._orders.locks)) as store:
            return await self._judge(store, registry)

    async def _keep(self, number: int) -> None:
        """Start it again whenever it was killed; it never ends by itself, whatever its store does."""
        while True:
            async with daemon_process(self._orders) as daemon:
                self._living[number] = daemon
                self._tell_ready()
                status = await daemon.process.wait()
                assert status == -signal.SIGKILL, f"seed {self._seed}: ended with {status}: {daemon.log[-40:]}"
                del self._living[number]

    async def _all_live(self) -> None:
        while len(self._living) < _DAEMONS:
            await self._ready.wait()

    def _tell_ready(self) -> None:
        self._ready.set()
        self._ready = anyio.Event()

    async def _submit_on(self, store: SqlJobStore, graph: Path, registry: FakeRegistry) -> None:
        for number in itertools.count():
            name = f"to/{number}"
            payload = a_job(graph, registry.destination(name)).spec(_ATTEMPTS).payload
            while name not in self._jobs:
                with suppress(JobStoreError):
                    spec = JobSpec(payload, key=name, max_attempts=_ATTEMPTS)
                    self._jobs[name] = (await store.submit([spec]))[0].id
                await anyio.sleep(0.05)
            while await self._waiting(store) >= _WAITING:  # noqa: ASYNC110 - the store may be away
                await anyio.sleep(0.2)

    @staticmethod
    async def _waiting(store: SqlJobStore) -> int:
        with suppress(JobStoreError):
            counts = (await store.stats()).jobs
            return counts["ready"] + counts["scheduled"]
        return _WAITING

    async def _haunt(self, group: anyio.abc.TaskGroup) -> None:
        """One thing after the other, save that a stopped daemon stays so meanwhile."""
        while True:
            await anyio.sleep(self._chance.uniform(0.2, 1.5))
            await self._all_live()
            daemon = self._living[self._chance.randrange(_DAEMONS)]
            match self._chance.choices(["stop", "kill", "away"], [70, 15, 15])[0]:
                case "stop":
                    group.start_soon(self._stop, daemon, self._chance.uniform(0.2, 2.5) * _TTL)
                case "kill":
                    self.kills += 1
                    daemon.process.send_signal(signal.SIGKILL)
                    await daemon.process.wait()
                case _:
                    await self._be_away(self._chance.uniform(0.1, 2.0) * _TTL)

    async def _stop(self, daemon: Serving, seconds: float) -> None:
        with suppress(ProcessLookupError):
            daemon.process.send_signal(signal.SIGSTOP)
            self.stops += 1
            try:
                await anyio.sleep(seconds)
            finally:
                daemon.process.send_signal(signal.SIGCONT)

    async def _be_away(self, seconds: float) -> None:
        self.outages += 1
        await anyio.to_thread.run_sync(self._outage.begin)
        try:
            await anyio.sleep(seconds)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._outage.end)

    async def _wait_ended(self, store: SqlJobStore) -> None:
        with anyio.fail_after(_DRAIN_SECONDS):
            while True:
                with suppress(JobStoreError):
                    counts = (await store.stats()).jobs
                    if not sum(count for state, count in counts.items() if state not in FINAL):
                        return
                await anyio.sleep(0.2)

    async def _judge(self, store: SqlJobStore, registry: FakeRegistry) -> Survived:
        by_repository: dict[str, list[str]] = defaultdict(list)
        for one in registry.requests:
            if one.method in _WRITES:
                by_repository[one.repository].append(one.headers["user-agent"])
        takeovers = 0
        for name, job in self._jobs.items():
            found, leases = await store.get(job), len(await store.history(job))
            context = f"seed {self._seed}: {name} {found}"
            assert found is not None, context
            assert found.state == "succeeded", context
            assert len(registry.repository(name).tags) == _PACKAGES, context
            # Whoever writes after another has begun does so with a lease of its own.
            turns = [who for who, _ in itertools.groupby(by_repository[name])]
            assert len(turns) <= leases, f"{context}: written by {turns} in {leases} leases"
            takeovers += leases - 1
        writes = sum(map(len, by_repository.values()))
        return Survived(self._seed, self.stops, self.kills, self.outages, len(self._jobs), takeovers, writes)


def main(arguments: list[str] | None = None) -> int:
    """Run it, and say what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--away", type=float, default=30.0, help="how long the store is away in the end")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args(arguments)
    quiet()
    sys.stderr.write(f"torture of the leases: {options}\n")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        outage: Outage
        if options.engine == "postgresql":
            disk = folder / "disk"
            disk.mkdir()
            if os.geteuid() == 0:
                stack.enter_context(small_disk(disk, _DISK_BYTES))
            server = stack.enter_context(postgres_server(disk / "data"))
            outages: list[Outage] = [Killed(server), Crashed(server), ReadOnly(server)]
            if os.geteuid() == 0:
                outages.append(FullDisk(server, disk))
            url, outage = server.empty_database(), OneOf(outages, random.Random(options.seed))
        else:
            url, outage = f"sqlite:///{folder}/jobs.db", TakenAway(folder / "jobs.db")
        orders = Orders(url, str(folder / "locks"), str(folder), _TTL, _MARGIN, at_once=2)
        work = partial(Torture(orders, outage, options.seed).rage, options.seconds, options.away)
        sys.stdout.write(f"{anyio.run(work)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
