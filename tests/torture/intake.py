"""Jobs from a broker while broker and daemon are killed at random: each message that it confirmed is one job.

python -m tests.torture.intake --broker nats|redis --seconds 60 --seed 1
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import nats.errors
import redis.exceptions

from tests.e2e.a_daemon import serving
from tests.e2e.command import Command
from tests.integration.test_intake import Nats, Redis
from uploader.jobs import open_store
from uploader.testing.brokers import nats_server, redis_server

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tests.e2e.a_daemon import Serving
    from tests.integration.test_intake import Broker

_STRANDED_SECONDS: Final = 2.0
_PUBLISH_SECONDS: Final = 5.0
_DRAIN_SECONDS: Final = 120.0
_MALFORMED_SHARE: Final = 0.05
_LIST_SHARE: Final = 0.2
_BROKEN: Final = (OSError, TimeoutError, nats.errors.Error, redis.exceptions.RedisError)


@dataclass(frozen=True, slots=True)
class Survived:
    """What was published and became a job each; `unconfirmed` may have, once."""

    seed: int
    daemon_kills: int
    broker_kills: int
    confirmed: int
    unconfirmed: int
    malformed: int
    jobs: int


@dataclass(slots=True)
class _Published:
    """The destinations of jobs, and the text of malformed messages; each is published once only."""

    confirmed: list[str] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)


class Torture:
    """Mutable: what was published, and how often what was killed."""

    def __init__(self, home: Path, broker: Broker, seed: int) -> None:
        self._command = Command(home)
        self._broker = broker
        self._chance = random.Random(seed)
        self._seed = seed
        self._published = _Published()
        self.daemon_kills = self.broker_kills = 0

    async def rage(self, seconds: float) -> Survived:
        """Publish and kill for so long, then let all come in, and count; raises AssertionError."""
        await self._publish_jobs(0, 1)  # before anything is killed
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                group.start_soon(self._publish_on)
                group.start_soon(self._kill_daemons)
                group.start_soon(self._kill_brokers)
        await anyio.to_thread.run_sync(self._broker.server.kill)  # it may have been down, or half up
        await anyio.to_thread.run_sync(self._broker.server.start)
        async with self._serving() as daemon:
            with anyio.fail_after(_DRAIN_SECONDS):
                while await self._broker.waiting():  # noqa: ASYNC110 - the broker tells nobody
                    await anyio.sleep(0.1)
            await daemon.end()
        return await self._judge()

    def _serving(self) -> AbstractAsyncContextManager[Serving]:
        url = f"{self._broker.server.url}/push.jobs"
        return serving(self._command, "--intake", url, "--stranded-seconds", _STRANDED_SECONDS)

    async def _publish_on(self) -> None:
        number = 0
        while True:
            await anyio.sleep(self._chance.uniform(0, 0.1))
            number += 1
            if self._chance.random() < _MALFORMED_SHARE:
                await self._publish(f"{{malformed {number}", [], [f"{{malformed {number}"])
                continue
            await self._publish_jobs(number, 2 if self._chance.random() < _LIST_SHARE else 1)

    async def _publish_jobs(self, number: int, count: int) -> None:
        targets = [f"oci://host/cache-{number}-{place}" for place in range(count)]
        jobs = [{"sources": ["none.json"], "to": target} for target in targets]
        await self._publish(json.dumps(jobs if count > 1 else jobs[0]), targets, [])

    async def _publish(self, content: str, targets: list[str], malformed: list[str]) -> None:
        """Once only: what was not confirmed may be there all the same."""
        try:
            with anyio.fail_after(_PUBLISH_SECONDS):
                await self._broker.publish(content.encode())
        except _BROKEN:
            self._published.unconfirmed.extend(targets)
        except anyio.get_cancelled_exc_class():
            self._published.unconfirmed.extend(targets)
            raise
        else:
            self._published.confirmed.extend(targets)
            self._published.malformed.extend(malformed)

    async def _kill_daemons(self) -> None:
        """At any moment: also while it starts."""
        while True:
            with anyio.move_on_after(self._chance.uniform(0.5, 6.0)):
                async with self._serving() as daemon:
                    await daemon.wait_said("drained")  # which nobody asks it to
            self.daemon_kills += 1

    async def _kill_brokers(self) -> None:
        while True:
            await anyio.sleep(self._chance.uniform(0.5, 4.0))
            await anyio.to_thread.run_sync(self._broker.server.kill)
            self.broker_kills += 1
            await anyio.sleep(self._chance.uniform(0, 1.0))
            await anyio.to_thread.run_sync(self._broker.server.start)

    async def _judge(self) -> Survived:
        jobs = Counter(await self._targets())
        said = self._published
        lost = [target for target in said.confirmed if not jobs[target]]
        assert not lost, f"seed {self._seed}: confirmed by the broker and no job: {lost}"
        twice = {target: count for target, count in jobs.items() if count > 1}
        assert not twice, f"seed {self._seed}: more than one job: {twice}"
        unknown = jobs.keys() - {*said.confirmed, *said.unconfirmed}
        assert not unknown, f"seed {self._seed}: nobody published {unknown}"
        aside = {content.decode() for content, _ in await self._broker.refused()}
        assert aside >= set(said.malformed), f"seed {self._seed}: malformed and lost: {set(said.malformed) - aside}"
        return Survived(
            self._seed,
            self.daemon_kills,
            self.broker_kills,
            len(said.confirmed),
            len(said.unconfirmed),
            len(said.malformed),
            len(jobs),
        )

    async def _targets(self) -> list[str]:
        found: list[str] = []
        cursor: str | None = None
        store_path = self._command.home / "state" / "uploader" / "jobs.db"
        async with open_store(f"sqlite:///{store_path}") as store:
            while True:
                page = await store.jobs(limit=1000, cursor=cursor)
                found.extend(json.loads(job.payload)["to"] for job in page.jobs)
                if (cursor := page.next) is None:
                    return found


async def torture(folder: Path, kind: str, *, seconds: float, seed: int) -> Survived:
    """Start the broker, and torture; raises PartMissing, AssertionError."""
    home = folder / "home"
    home.mkdir(parents=True)
    opened = nats_server if kind == "nats" else redis_server
    with opened(folder / "broker") as server:
        broker: Broker = Nats(server) if kind == "nats" else Redis(server)
        return await Torture(home, broker, seed).rage(seconds)


def main(arguments: list[str] | None = None) -> int:
    """Run it, and say what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=["nats", "redis"], default="nats")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args(arguments)
    sys.stderr.write(f"torture of the intake: {options}\n")
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # that the broker is away is no news here
    with tempfile.TemporaryDirectory() as folder:
        work = partial(torture, Path(folder), options.broker, seconds=options.seconds, seed=options.seed)
        sys.stdout.write(f"{anyio.run(work)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
