"""A transient fault on any request, now and then: the push is complete, and nothing is sent without need."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import anyio
import pytest

import uploader
from uploader.testing import AcceptThenReset, Answer, FakeRegistry, Fault, Reset, SessionLost
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = 500
SHARE = 0.05
FAULTS = (
    Answer(500),
    Answer(502),
    Answer(503),
    Answer(504),
    Answer(429),
    Answer(429, retry_after=1),
    Answer(408),
    Reset(after_bytes=0),
    Reset(after_bytes=100),
    AcceptThenReset(),
)


@pytest.mark.asyncio
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
async def test_push_is_complete_when_one_request_in_twenty_fails(tmp_path: Path, seed: int) -> None:
    graph = write_graph(tmp_path / "graph", PACKAGES, seed=seed)
    faults = [Fault(on="any", chance=SHARE / len(FAULTS), then=action) for action in FAULTS]
    faults.append(Fault(on="put-blob", chance=SHARE / len(FAULTS), then=SessionLost()))
    async with FakeRegistry(faults=faults, seed=seed) as registry:
        with anyio.fail_after(250):
            report = await uploader.push(str(graph), registry.destination("cache"))
        assert report.error is None
        assert [entry for entry in report.packages if entry.error] == []
        assert report.totals.pushed == PACKAGES
        repository = registry.repository("cache")
        assert len(repository.tags) == PACKAGES
        assert report.totals.retries > 0

        puts = [(dict(recorded.query)["digest"], recorded.status) for recorded in registry.requests_of("put-blob")]
        tries = Counter(digest for digest, _ in puts)
        broken = Counter(digest for digest, status in puts if status != 201)
        assert all(count <= broken[digest] + 1 for digest, count in tries.items())
