"""Pushes to a registry that takes 60 requests a second, in real time, as users call it.

    python -m benchmarks.throttled --runs 3

The registry answers 429 with `Retry-After: 2` to everything beyond. A push is told the quota (`--limit-requests`), or
is not; comes again with what the local record learnt; and two run at once on one machine, not knowing it and then
having learnt it. Printed is the wall time of the commands, their start included, over what the requests that were
taken need at 60/s, and the share that was refused; behind them what issue and tests allow.

    python -m benchmarks.throttled serve

is the registry, in a process of its own: it prints HOST, and for each line that it reads what it has counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from benchmarks.measure import Program, python, run
from uploader.oci.profile import Throttling
from uploader.testing import FakeRegistry, Quirks, write_graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_RATE: Final = 60
_RETRY_AFTER: Final = 2.0
_PACKAGES: Final = 400
"""Five requests each."""


@dataclass(frozen=True, slots=True)
class Case:
    """Pushes that begin together, each of its share of the packages."""

    name: str
    pushes: int
    most_time: float
    most_refused: float
    flags: tuple[str, ...] = ()


_KNOWN: Final = Case("known", 1, 1.3, 0.02, ("--limit-requests", str(_RATE)))
_GROUPS: Final = (
    (_KNOWN,),
    (Case("unknown", 1, 1.5, 0.04), Case("learnt", 1, 1.3, 0.02)),
    (Case("two unknown", 2, 1.5, 0.04), Case("two learnt", 2, 1.3, 0.02)),
    (Case("two known", 2, 1.3, 0.02, _KNOWN.flags),),
)
"""Those of a group have one registry, and one local record."""


@dataclass(slots=True)
class _Measured:
    """Mutable: a value for each run."""

    time: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def line(self, case: Case) -> str:
        time, refused = median(self.time), median(self.refused)
        holds = time <= case.most_time and refused <= case.most_refused
        return (
            f"{case.name:12} {time:5.2f} x ideal ({_listed(self.time)}), at most {case.most_time}; "
            f"{refused:6.2%} refused, at most {case.most_refused:.0%}{'' if holds else '  MISSED'}"
        )


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


class _Registry:
    """The other process, by its pipes. Mutable: how far its counts were read."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.host = self._read()
        self._seen = (0, 0)

    def counted(self) -> tuple[int, int]:
        """Requests taken and refused since it was asked last."""
        assert self._process.stdin is not None
        print("count", file=self._process.stdin, flush=True)
        taken, refused = json.loads(self._read())
        before, self._seen = self._seen, (taken, refused)
        return taken - before[0], refused - before[1]

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def _registry() -> Iterator[_Registry]:
    command = python("benchmarks.throttled", "serve")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield _Registry(process)
        process.communicate()  # it ends with its input


async def _serve() -> None:
    throttling = Throttling("seconds", seconds=_RETRY_AFTER)
    quirks = Quirks(requests_per_second=_RATE, throttling=throttling)
    async with FakeRegistry(quirks=quirks, keep_blobs=False) as registry:
        print(registry.host, flush=True)
        while await anyio.to_thread.run_sync(sys.stdin.readline):
            statuses = [request.status for request in registry.requests]
            print([len(statuses) - statuses.count(429), statuses.count(429)], flush=True)


def _measure(group: Sequence[Case], graphs: Path, results: dict[str, _Measured]) -> None:
    with TemporaryDirectory() as name, _registry() as registry:
        scratch = Path(name)
        for number, case in enumerate(group):
            began = time.perf_counter()
            with ThreadPoolExecutor(case.pushes) as pool:
                push = partial(_push, case, graphs, scratch, f"oci+http://{registry.host}/bench/{number}")
                list(pool.map(push, range(case.pushes)))
            seconds = time.perf_counter() - began
            taken, refused = registry.counted()
            results[case.name].time.append(seconds / (taken / _RATE))
            results[case.name].refused.append(refused / (taken + refused))
            print(f"{case.name}: {taken} requests in {seconds:.1f} s, {refused} refused", file=sys.stderr, flush=True)


def _push(case: Case, graphs: Path, scratch: Path, to: str, number: int) -> None:
    graph = graphs / f"{case.pushes}-{number}" / "graph.json"
    own = scratch / f"push-{number}"
    own.mkdir(exist_ok=True)
    command = python("uploader", "push", graph, "--to", f"{to}-{number}", "--progress", "none", *case.flags)
    run(Program(command, {"XDG_STATE_HOME": str(scratch)}), own)


def main() -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throttled", description="Pushes to a registry that takes 60 requests a second."
    )
    parser.add_argument("serve", nargs="?", choices=["serve"], help="be the registry")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", metavar="TEXT", help="only the groups with a case of this name")
    given = parser.parse_args()
    if given.serve:
        anyio.run(_serve)
        return
    groups = [group for group in _GROUPS if not given.only or given.only in [case.name for case in group]]
    results = {case.name: _Measured() for group in groups for case in group}
    with TemporaryDirectory() as name:
        graphs = Path(name)
        for pushes in (1, 2):
            for number in range(pushes):
                folder = graphs / f"{pushes}-{number}"
                write_graph(folder, _PACKAGES // pushes, seed=10 * pushes + number, prefixes_share=0.0)
        for _ in range(given.runs):
            for group in groups:
                _measure(group, graphs, results)
    for group in groups:
        for case in group:
            print(results[case.name].line(case))


if __name__ == "__main__":
    main()
