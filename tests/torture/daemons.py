"""Several daemons on one PostgreSQL, one of them killed in the middle: all jobs end well, each package is pushed once.

python -m tests.torture.daemons --daemons 3 --jobs 30 --packages 200 --seed 1
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from tests.contract.jobs.postgresql import postgres_server
from tests.e2e.a_daemon import serving
from tests.e2e.command import Command
from uploader.service.daemon_client import DaemonClient
from uploader.testing import FakeRegistry, Quirks
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.e2e.a_daemon import Serving

_IN_FLIGHT: Final = 8
_AT_ONCE: Final = 2


@dataclass(frozen=True, slots=True)
class Work:
    """`jobs`, each of a repository of its own, with so many packages; `kill` the first daemon half way."""

    daemons: int
    jobs: int
    packages: int
    latency_seconds: float
    seed: int
    kill: bool = True


@dataclass(frozen=True, slots=True)
class Done:
    """`seconds` from the first job in to the last one done; `by_daemon`: how many each ended."""

    seed: int
    seconds: float
    by_daemon: list[int]
    leases: int
    requests: int
    blobs: int
    manifests: int


async def work_off(home: Path, work: Work) -> Done:
    """Do it; raises AssertionError when anything was not pushed, or twice."""
    command = Command(home)
    graph = write_graph(home / "graph", work.packages, seed=work.seed, prefixes_share=0)
    repositories = [f"to/{number}" for number in range(work.jobs)]
    with postgres_server() as server:
        url = server.empty_database()
        # One record for each: what one of them knows of a repository does not help another.
        options = ("--jobs-url", url, "--at-once", _AT_ONCE, "--jobs", _IN_FLIGHT, "--state", "none")
        quirks = Quirks(latency_seconds=work.latency_seconds)
        async with FakeRegistry(quirks=quirks, seed=work.seed) as registry, AsyncExitStack() as stack:
            daemons = [await stack.enter_async_context(serving(command, *options)) for _ in range(work.daemons)]
            client = await stack.enter_async_context(DaemonClient(daemons[-1].url))
            began = anyio.current_time()
            jobs = [{"sources": [str(graph)], "to": registry.destination(name)} for name in repositories]
            ids = [job for job, _ in await client.submit_all(jobs)]
            if work.kill:
                half = work.jobs * work.packages // 2
                await registry.wait_until(lambda: len(registry.requests_of("put-manifest")) >= half)
                await daemons[0].end(signal.SIGKILL)
            leases = sum([await _wait_ended(client, job) for job in ids])
            seconds = anyio.current_time() - began
            _judge(registry, repositories, work)
            return Done(
                work.seed,
                round(seconds, 1),
                [_ended(daemon) for daemon in daemons],
                leases,
                len(registry.requests),
                len(_taken(registry, "put-blob")),
                len(_taken(registry, "put-manifest")),
            )


async def _wait_ended(client: DaemonClient, job: str) -> int:
    """How many leases it took."""
    after = leases = 0
    while not (await client.job(job)).ended:
        async for event in client.events(job, after=after):
            after = event.seq
    async for event in client.events(job):
        leases += event.kind == "leased"
    found = await client.job(job)
    assert found.state == "succeeded", found
    return leases


def _ended(daemon: Serving) -> int:
    return len(daemon.said("succeeded"))


def _taken(registry: FakeRegistry, kind: str) -> list[tuple[str, str]]:
    """Repository and digest or tag of all that it took in."""
    return [(one.repository, one.reference) for one in registry.requests if one.kind == kind and one.status == 201]


def _judge(registry: FakeRegistry, repositories: Sequence[str], work: Work) -> None:
    for name in repositories:
        assert len(registry.repository(name).tags) == work.packages, f"seed {work.seed}: {name}"
    for kind in ("put-blob", "put-manifest"):
        twice = {what: count for what, count in Counter(_taken(registry, kind)).items() if count > 1}
        assert not twice, f"seed {work.seed}: {kind} more than once: {twice}"


def main(arguments: list[str] | None = None) -> int:
    """Run it, and say what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--daemons", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--packages", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds for each request to the registry")
    parser.add_argument("--no-kill", action="store_true", help="let all of them live")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args(arguments)
    sys.stderr.write(f"torture of several daemons: {options}\n")
    work = Work(
        options.daemons, options.jobs, options.packages, options.latency, options.seed, kill=not options.no_kill
    )
    with tempfile.TemporaryDirectory() as home:
        sys.stdout.write(f"{anyio.run(partial(work_off, Path(home), work))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
