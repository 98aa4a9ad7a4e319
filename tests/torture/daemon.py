"""The daemon killed again and again while it pushes one large graph: `python -m tests.torture.daemon --kills 50`."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from tests.e2e.a_daemon import serving, submit
from tests.e2e.command import Command
from uploader.testing import FakeRegistry, Quirks
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from uploader.testing import Recorded

_LONGEST_IDLE_SECONDS = 2.0
_MOST_SENT_SHARE = 1.3


@dataclass(frozen=True, slots=True)
class Survived:
    """`longest_idle_seconds`: from when a daemon was ready to its first request; `sent_share` of the graph's bytes."""

    seed: int
    kills: int
    packages: int
    attempts: int
    longest_idle_seconds: float
    sent_share: float


async def torture(home: Path, *, packages: int, kills: int, seed: int, pause_seconds: tuple[float, float]) -> Survived:
    """Kill it so often, at random moments; raises AssertionError."""
    chance = random.Random(seed)
    command = Command(home)
    graph = write_graph(home / "graph", packages, seed=seed, blob_bytes=(2_000, 60_000))
    longest, job, done = 0.0, "", False
    async with FakeRegistry(quirks=Quirks(latency_seconds=0.02)) as registry:
        to = registry.destination("cache")
        for kill in range(kills):
            async with serving(command, "--jobs", "4") as daemon:
                ready_at, before = anyio.current_time(), len(registry.requests)
                if not kill:
                    job = (await submit(command, daemon.url, graph, to)).stdout.strip()
                    before, ready_at = len(registry.requests), anyio.current_time()
                with anyio.move_on_after(chance.uniform(*pause_seconds)):
                    await registry.wait_until(lambda before=before: len(registry.requests) > before)  # type: ignore[misc]
                    longest = max(longest, anyio.current_time() - ready_at)
                    await daemon.wait_said("succeeded")
                await daemon.end(signal.SIGKILL)
                if done := bool(daemon.said("succeeded")):
                    break
        async with serving(command) as daemon:
            if not done:
                await daemon.wait_said("succeeded")
            shown = json.loads((await command.run("jobs", job, "--json", UPLOADER_SERVER=daemon.url)).stdout)
        assert shown["state"] == "succeeded", f"seed {seed}: {shown}"
        assert len(registry.repository("cache").tags) == packages, f"seed {seed}"
        share = sent_share(registry.requests_of("put-blob"))
        assert share <= _MOST_SENT_SHARE, f"seed {seed}: sent {share:.2f} times the graph"
        assert longest <= _LONGEST_IDLE_SECONDS, f"seed {seed}: idle for {longest:.1f} s after a restart"
    return Survived(seed, kill + 1, packages, shown["attempts"], round(longest, 2), round(share, 3))


def sent_share(uploads: list[Recorded]) -> float:
    """All bytes of blobs that were sent, over those of the blobs that are there."""
    whole = sum({one.reference: one.body_bytes for one in uploads if one.status == 201}.values())
    return sum(one.body_bytes for one in uploads) / whole


def main(arguments: list[str] | None = None) -> int:
    """Run it, and say what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--packages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args(arguments)
    sys.stderr.write(f"torture of the daemon: {options}\n")
    with tempfile.TemporaryDirectory() as home:
        work = partial(
            torture,
            Path(home),
            packages=options.packages,
            kills=options.kills,
            seed=options.seed,
            pause_seconds=(0.5, 2.5),
        )
        sys.stdout.write(f"{anyio.run(work)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
