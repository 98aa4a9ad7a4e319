"""The job store and the daemon under many jobs: how fast they come in and go out, and what the daemon's memory does.

    python -m benchmarks.jobs [--engines sqlite,postgresql] [--queued 10000] [--done 1000]

Rates are of durable operations, through the store as the daemon uses it and through the HTTP API, while so many jobs
wait; the memory is that of `uploader serve` while it pushes so many graphs, each to a repository of its own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Final

import anyio

from tests.contract.jobs.postgresql import postgres_server
from tests.e2e.a_daemon import serving
from tests.e2e.command import Command
from uploader.jobs import JobSpec, open_store
from uploader.service.daemon_client import DaemonClient
from uploader.testing import FakeRegistry
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.e2e.a_daemon import Serving
    from uploader.jobs.store import SqlJobStore

_PAYLOAD: Final = b'{"sources": ["graph.json"], "to": "oci://ghcr.io/org/cache"}'
_OPERATIONS: Final = 2000
_CALLERS: Final = 16
_BATCH: Final = 100
_TTL: Final = 60.0
_PACKAGES: Final = 10
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Rate:
    """`jobs` in `seconds`, by calls that took so long each."""

    what: str
    jobs: int
    seconds: float
    latencies: list[float]

    def __str__(self) -> str:
        cuts = quantiles(self.latencies, n=100, method="inclusive")
        shown = "  ".join(f"{value * 1000:8.1f}" for value in (cuts[49], cuts[98], max(self.latencies)))
        return f"{self.what:44}{self.jobs / self.seconds:8.0f}  {shown}"


async def _measure(what: str, calls: int, callers: int, call: Callable[[], Awaitable[int]]) -> Rate:
    """`callers` side by side make so many calls in all; each tells how many jobs it was for."""
    latencies: list[float] = []
    jobs, left = 0, calls

    async def caller() -> None:
        nonlocal jobs, left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            count = await call()
            jobs += count
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(callers):
            group.start_soon(caller)
    return Rate(what, jobs, time.perf_counter() - began, latencies)


async def rates(url: str, queued: int) -> AsyncIterator[Rate]:
    """Of the store: in, until so many wait; then out while they do."""
    async with open_store(url) as store:

        async def submit(count: int) -> int:
            return len(await store.submit([JobSpec(_PAYLOAD) for _ in range(count)]))

        yield await _measure("submit, one by one", _OPERATIONS, 1, partial(submit, 1))
        yield await _measure(f"submit, {_CALLERS} callers", _OPERATIONS, _CALLERS, partial(submit, 1))
        rest = max(0, queued - 2 * _OPERATIONS)
        yield await _measure(f"submit, {_BATCH} in each call", max(2, rest // _BATCH), 1, partial(submit, _BATCH))
        yield await _measure("lease and complete, one by one", _OPERATIONS // 2, 1, partial(_work, store, 1))
        yield await _measure(f"lease and complete, {_CALLERS} callers", _OPERATIONS, _CALLERS, partial(_work, store, 1))
        yield await _measure("lease 8 at once, complete each", _OPERATIONS // 8, 1, partial(_work, store, 8))


async def _work(store: SqlJobStore, limit: int) -> int:
    leases = await store.lease(limit=limit, ttl=_TTL)
    assert len(leases) == limit
    for lease in leases:
        assert await store.complete(lease, b"{}")
    return limit


async def http_rates(home: Path, url: str) -> AsyncIterator[Rate]:
    """Of the HTTP API, of a daemon that is at work on them."""
    job = {"sources": ["none.json"], "to": "oci://ghcr.io/org/cache"}
    async with serving(Command(home), "--jobs-url", url) as daemon, DaemonClient(daemon.url) as client:

        async def submit() -> int:
            await client.submit(job)
            return 1

        async def submit_all() -> int:
            return len(await client.submit_all([job] * _BATCH))

        yield await _measure(f"POST, {_CALLERS} callers", _OPERATIONS // 2, _CALLERS, submit)
        yield await _measure(f"POST, {_BATCH} in each", _OPERATIONS // _BATCH, 1, submit_all)


async def memory(home: Path, url: str, jobs: int) -> AsyncIterator[tuple[int, float, int]]:
    """Jobs done, seconds, and resident bytes, at some points on the way."""
    graph = write_graph(home / "graph", _PACKAGES, seed=1)
    async with _at_work(home, url) as (registry, daemon, client):
        began = time.perf_counter()
        targets = (registry.destination(f"to/{number}") for number in range(jobs))
        for part in range(1, _SHOWN + 1):
            count = jobs * part // _SHOWN - jobs * (part - 1) // _SHOWN
            await client.submit_all([{"sources": [str(graph)], "to": next(targets)} for _ in range(count)])
            while (await client.stats())["jobs"]["succeeded"] < jobs * part // _SHOWN:  # noqa: ASYNC110
                await anyio.sleep(0.2)
            yield jobs * part // _SHOWN, time.perf_counter() - began, _resident_bytes(daemon)


@asynccontextmanager
async def _at_work(home: Path, url: str) -> AsyncIterator[tuple[FakeRegistry, Serving, DaemonClient]]:
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(FakeRegistry(keep_blobs=False))
        daemon = await stack.enter_async_context(serving(Command(home), "--jobs-url", url))
        yield registry, daemon, await stack.enter_async_context(DaemonClient(daemon.url))


def _resident_bytes(daemon: Serving) -> int:
    pages = int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def _run(engine: str, urls: Callable[[str], str], folder: Path, queued: int, done: int) -> None:
    print(f"{engine}: {queued} jobs wait{'jobs/s':>22}{'p50 ms':>10}{'p99 ms':>10}{'most ms':>10}")
    async for rate in rates(urls("rates"), queued):
        print(rate, flush=True)
    for name in ("http", "memory"):
        (folder / name).mkdir()
    async for rate in http_rates(folder / "http", urls("http")):
        print(rate, flush=True)
    if done:
        async for jobs, seconds, resident in memory(folder / "memory", urls("memory"), done):
            print(f"daemon after {jobs:6} jobs, {seconds:6.1f} s: {resident / 1e6:6.1f} MB resident", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engines", default="sqlite,postgresql")
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--done", type=int, default=1000, help="0 leaves the memory out")
    given = parser.parse_args()
    for engine in given.engines.split(","):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uploader-bench-")))
            if engine == "postgresql":
                urls: Callable[[str], str] = stack.enter_context(postgres_server()).empty_database
            else:
                urls = partial("sqlite:///{}/{}.db".format, folder)
            anyio.run(_run, engine, urls, folder, given.queued, given.done)


if __name__ == "__main__":
    main()
