"""Scheduling, by simulation: plan, ranking, engine and pace in virtual time, against what no schedule could beat.

A request takes its latency, then its body goes out: at its connection's own rate, or (`SharedLine`) over a line that
all share.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from uploader.graph import engine
from uploader.graph.plan import Closure, Plan
from uploader.graph.ranking import spread
from uploader.model.outcome import Done, Tagged
from uploader.model.package import Blob, Package, PackageGraph
from uploader.registry.pace import Pace
from uploader.registry.timing import Timing
from uploader.testing.packages import a_layer, a_package
from uploader.testing.pusher import tagged
from uploader.testing.virtual import run_in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable

JOBS: Final = 16
LATENCY: Final = 0.05
RATE: Final = 20_000_000
MANIFEST: Final = 3 * LATENCY  # the config's two requests, and its own
MB: Final = 1_000_000


class OwnLines:
    """A pusher whose requests take their time, and nothing else happens. Mutable: when tags appeared."""

    def __init__(self) -> None:
        timing = Timing(monotonic=anyio.current_time, wall=anyio.current_time)
        self._pace = Pace("registry.example", JOBS, timing=timing, emit=lambda _: None)
        self.tagged_at: list[float] = []

    async def push_layer(self, package: Package) -> Done:
        await self._request(0)
        await self._request(size_of(package))
        return Done(a_layer(package.id), "uploaded")

    async def push_manifest(self, package: Package, closure: Closure) -> Tagged:
        for _ in range(3):
            await self._request(0)
        self.tagged_at.append(anyio.current_time())
        return tagged(package.id, closure)

    async def confirm_manifest(self, package: Package) -> Tagged | None:
        raise AssertionError(f"nothing is cancelled here, but {package.id} is asked for")

    async def _request(self, size: int) -> None:
        async with self._pace.visit(size):
            await anyio.sleep(LATENCY)
            await self._send(size)

    async def _send(self, size: int) -> None:
        await anyio.sleep(size / RATE)


class SharedLine(OwnLines):
    """The same, over one line of `bytes_per_second`, which all bodies share evenly."""

    def __init__(self, bytes_per_second: int) -> None:
        super().__init__()
        self._rate = bytes_per_second
        self._line = anyio.CapacityLimiter(1)

    async def _send(self, size: int) -> None:
        for start in range(0, size, 256 * 1024):
            async with self._line:
                await anyio.sleep(min(256 * 1024, size - start) / self._rate)


# -- shapes of graphs


def sized(key: str, size: int, *needs: str) -> Package:
    return replace(a_package(key, *needs), content=Blob(Path(key), size=size))


def size_of(package: Package) -> int:
    assert isinstance(package.content, Blob)
    return package.content.size or 0


def a_size(random: Random) -> int:
    """Sizes as in a real store: the median is below 1 MB, few are much larger."""
    return min(int(random.lognormvariate(13, 1.5)), 60 * MB)


def key(number: int) -> str:
    return f"p{number:04}"


def chain(random: Random) -> list[Package]:
    return [sized(key(n), a_size(random), *([key(n - 1)] if n else [])) for n in range(60)]


def wide(random: Random) -> list[Package]:
    return [sized(key(n), a_size(random)) for n in range(200)]


def diamond(random: Random) -> list[Package]:
    middle = [sized(key(n), a_size(random), "base") for n in range(100)]
    return [sized("base", a_size(random)), *middle, sized("top", a_size(random), *map(key, range(100)))]


def tree(random: Random) -> list[Package]:
    children = ((key(child) for child in (2 * n + 1, 2 * n + 2) if child < 127) for n in range(127))
    return [sized(key(n), a_size(random), *needs) for n, needs in enumerate(children)]


def one_huge_and_many_tiny(random: Random) -> list[Package]:
    users = (["huge"] if random.random() < 0.1 else [] for _ in range(1000))
    return [sized("huge", 300 * MB), *(sized(key(n), 100_000, *needs) for n, needs in enumerate(users))]


def deep(random: Random) -> list[Package]:
    return store(random, deepest=150)


def dense(random: Random) -> list[Package]:
    needs = ((key(m) for m in range(n) if random.random() < 0.5) for n in range(100))
    return [sized(key(n), a_size(random), *needed) for n, needed in enumerate(needs)]


def store(random: Random, *, deepest: int = 0) -> list[Package]:
    """330 packages: ten over 40 MB; dependencies near by, and at the bottom."""
    packages = []
    for n in range(330):
        near = [random.randrange(max(0, n - 40), n) for _ in range(random.randint(1, 2)) if n]
        bottom = [random.randrange(min(n, 10)) for _ in range(random.randint(0, 2)) if n]
        below = [n - 1] if 0 < n < deepest else []
        size = random.randint(40, 90) * MB if n % 33 == 20 else a_size(random) // 2
        packages.append(sized(key(n), size, *(key(m) for m in {*near, *bottom, *below})))
    return packages


def all_equal(random: Random) -> list[Package]:
    return [sized(key(n), MB, *{key(random.randrange(n)) for _ in range(2) if n}) for n in range(200)]


def two_levels(_: Random) -> list[Package]:
    bottom = [f"base{n}" for n in range(10)]
    return [*(sized(b, 65_536) for b in bottom), *(sized(key(n), 65_536, *bottom) for n in range(190))]


SHAPES: Final = (chain, wide, diamond, tree, one_huge_and_many_tiny, deep, dense, store, all_equal, two_levels)


# -- schedules, and what bounds them


def makespan(graph: PackageGraph, rank: Callable[[Package], float], world: Callable[[], OwnLines]) -> float:
    async def push() -> None:
        plan = Plan(graph, frozenset(package.id for package in graph.packages), rank=rank)
        pusher = world()
        await engine.run(plan, pusher, jobs=JOBS, emit=lambda _: None, stop=anyio.Event())
        assert len(pusher.tagged_at) == len(graph)

    return run_in_virtual_time(push)[1]


def ours(graph: PackageGraph) -> Callable[[Package], float]:
    return spread(graph, frozenset(package.id for package in graph.packages), size_of, jobs=JOBS)


def largest_first(package: Package) -> float:
    return -size_of(package)


def seconds(package: Package) -> float:
    return 2 * LATENCY + size_of(package) / RATE


def lower_bound(graph: PackageGraph) -> float:
    """All the work by all places all the time; or the longest way: a blob, and a manifest that waits for it."""
    work = sum(seconds(package) + MANIFEST for package in graph.packages)
    return max(work / JOBS, max(map(seconds, graph.packages)) + MANIFEST)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_the_makespan_is_within_a_tenth_of_the_lower_bound(shape: Callable[[Random], list[Package]]) -> None:
    graph = PackageGraph(shape(Random(1)))
    assert makespan(graph, ours(graph), OwnLines) <= 1.1 * lower_bound(graph)


@pytest.mark.parametrize("shape", [wide, diamond, tree, deep, dense, store], ids=lambda shape: shape.__name__)
def test_bytes_and_requests_go_on_side_by_side(shape: Callable[[Random], list[Package]]) -> None:
    """Over a line that takes as long for all the bytes as all the requests take."""
    graph = PackageGraph(shape(Random(1)))
    requests = len(graph) * 5 * LATENCY / JOBS
    line = int(sum(map(size_of, graph.packages)) / requests)

    def world() -> OwnLines:
        return SharedLine(line)

    assert makespan(graph, ours(graph), world) <= 0.9 * makespan(graph, largest_first, world)


def test_the_same_push_takes_the_same_virtual_time() -> None:
    graph = PackageGraph(store(Random(2)))
    first, second = (makespan(graph, ours(graph), OwnLines) for _ in range(2))
    assert first == second
