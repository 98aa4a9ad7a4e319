"""Pushes of our own from Python, in one process: how long each takes without its start, and what memory does.

    python -m benchmarks.own_push GRAPH DESTINATION TIMES JOBS

Prints, as JSON, the seconds of the last push, the resident memory after it, and how much of that came in the second
half of the pushes: before, the allocator is still warming up.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path

import anyio

import uploader
import uploader.registry.client
import uploader.sources.graph_file  # both are imported before the clock runs: that belongs to the start
from uploader.api import push


async def _main(graph: str, to: str, times: int, jobs: int) -> None:
    resident: list[int] = []
    seconds = 0.0
    for _ in range(times):
        began = time.perf_counter()
        report = await push(graph, to, uploader.PushOptions(jobs=jobs))
        seconds = time.perf_counter() - began
        if report.error or report.totals.failed:
            raise SystemExit(f"the push failed: {report.totals} {report.error}")
        del report
        gc.collect()
        resident.append(_resident_bytes())
    settled = resident[(len(resident) - 1) // 2]
    print(json.dumps({"push": seconds, "resident": resident[-1], "growth": resident[-1] - settled}))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    anyio.run(_main, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
