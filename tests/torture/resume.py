"""One large blob over a connection that breaks, by a process that is killed: `python -m tests.torture.resume`."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import sys
import tarfile
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
import anyio.to_thread

from tests.e2e.command import Command
from uploader.testing import BreakingProxy, FakeRegistry, docker_registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Kind = Literal["spec", "distribution-2.8"]

MIB: Final = 1024 * 1024
_SAMPLE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Survived:
    """`sent` counts all bytes that left the uploader, in shares of the blob; `peak_mb` is the largest process's memory.

    `resent` is what the report of the last push says of that.
    """

    registry: Kind
    seed: int
    size: int
    broken: int
    killed: int
    sent: float
    peak_mb: float
    resent: dict[str, Any] | None = field(default=None)


async def torture(home: Path, kind: Kind, *, size: int, breaks: int, kills: int, seed: int) -> Survived:
    """Push one blob through all that; raises AssertionError where it does not arrive whole."""
    chance = random.Random(seed)
    places = _places(kind, size, breaks + kills, chance)
    graph = await anyio.to_thread.run_sync(write_blob, home / "graph", size, seed)
    command, peak = Command(home, seconds=600), 0.0
    async with _registry(kind, home) as host, BreakingProxy(host, places[:breaks]) as proxy:
        to = f"oci+http://{proxy.host}/team/cache"
        for place in [*places[breaks:], None]:
            status, memory = await _push(command, graph, to, proxy, kill_at=place)
            peak = max(peak, memory)
            assert status == (-signal.SIGKILL if place else 0), f"seed {seed}: ended with {status}"
        assert proxy.broken == breaks, f"seed {seed}: {proxy.broken} connections broke"
        again = await command.run("push", graph, "--to", f"oci+http://{host}/team/cache", "--state", "none")
        assert " 1 present" in again.stderr, f"seed {seed}: {again.stderr}"
        (entry,) = command.report["packages"]
        assert (entry["outcome"], entry["blob"]["size"]) == ("pushed", (graph.parent / "blob.tar").stat().st_size)
        return Survived(
            kind, seed, size, breaks, kills, round(proxy.sent / size, 3), round(peak, 1), entry["blob"].get("resent")
        )


def _places(kind: Kind, size: int, count: int, chance: random.Random) -> list[int]:
    """After how many bytes in all something breaks. Where all is lost then, each time after a part of the blob."""
    if kind == "spec":
        return [int((place + chance.uniform(0.2, 0.8)) / count * 0.95 * size) for place in range(count)]
    return list(accumulate(int(chance.uniform(0.02, 0.6) * size) for _ in range(count)))


async def _push(
    command: Command, graph: Path, to: str, proxy: BreakingProxy, *, kill_at: int | None
) -> tuple[int | None, float]:
    """Push, until so many bytes went out if that is given; exit status, and peak memory in MB."""
    peak = 0.0

    async def watch(pid: int) -> None:
        nonlocal peak
        while True:
            peak = max(peak, await anyio.to_thread.run_sync(_peak_mb, pid))
            await anyio.sleep(_SAMPLE_SECONDS)

    async with (
        command.started("push", graph, "--to", to, "--report", "report.json") as process,
        anyio.create_task_group() as group,
    ):
        group.start_soon(watch, process.pid)
        if kill_at is not None:
            await proxy.wait_sent(kill_at)
            process.send_signal(signal.SIGKILL)
        status = await process.wait()
        group.cancel_scope.cancel()
    return status, peak


def _peak_mb(pid: int) -> float:
    """The most that the process has held so far; nothing once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM:")), 0.0)


@asynccontextmanager
async def _registry(kind: Kind, home: Path) -> AsyncIterator[str]:
    if kind == "spec":
        async with FakeRegistry(keep_blobs=False) as registry:
            yield registry.host
    else:
        async with docker_registry(home / "registry") as host:
            yield host


def write_blob(folder: Path, size: int, seed: int) -> Path:
    """A graph of one package, whose layer is a tar of about `size` bytes, no two pieces of it alike."""
    folder.mkdir(parents=True)
    header = tarfile.TarInfo("opt/data")
    header.size = size - size % MIB
    with (folder / "blob.tar").open("wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for number in range(header.size // MIB):
            file.write(hashlib.shake_128(f"{seed} {number}".encode()).digest(MIB))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
    graph = folder / "graph.json"
    package = {"id": "data", "name": "data", "version": "1", "tag": "data", "blob": {"path": "blob.tar"}}
    graph.write_text(json.dumps({"schema": "uploader/graph/v1", "packages": [package]}))
    return graph


def main(arguments: list[str] | None = None) -> int:
    """Run it, and say what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", choices=("spec", "distribution-2.8"), default="spec")
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--breaks", type=int, default=10)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args(arguments)
    sys.stderr.write(f"torture of one large blob: {options}\n")
    with tempfile.TemporaryDirectory() as home:
        work = partial(
            torture,
            Path(home),
            options.registry,
            size=options.mib * MIB,
            breaks=options.breaks,
            kills=options.kills,
            seed=options.seed,
        )
        survived = anyio.run(work)
    sys.stdout.write(f"{survived}\n")
    most = 1.1 if options.registry == "spec" else float("inf")
    return int(survived.sent > most or survived.peak_mb > 200)


if __name__ == "__main__":
    sys.exit(main())
