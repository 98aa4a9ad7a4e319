"""SIGINT and `kill -9` in the middle of a push: true reports, nothing lost, nothing sent twice without need."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from uploader.testing import FakeRegistry, Fault, Stall
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.command import Command

PACKAGES = 40
JOBS = 8


async def interrupt(command: Command, graph: Path, registry: FakeRegistry, number: signal.Signals) -> int | None:
    """Push until half of the blobs are there and the next ones hang, then send the signal; gives the exit status."""
    stalled = Fault(on="put-blob", skip=PACKAGES // 2, then=Stall())
    registry.inject(stalled)
    line = ("push", graph, "--to", registry.destination("cache"), "--report", "report.json", "--jobs", JOBS)
    async with command.started(*line) as process:
        await registry.wait_started("put-blob", PACKAGES // 2 + JOBS)
        process.send_signal(number)
        status = await process.wait()
    registry.clear_faults()
    return status


def sent_blobs(registry: FakeRegistry) -> list[str]:
    """The digests of the blobs that were accepted, once for each time."""
    accepted = [recorded for recorded in registry.requests_of("put-blob") if recorded.status == 201]
    return [dict(recorded.query)["digest"] for recorded in accepted]


@pytest.mark.asyncio
async def test_interrupted_push_reports_truly_and_the_next_one_finishes_the_rest(
    command: Command, tmp_path: Path
) -> None:
    graph = write_graph(tmp_path / "graph", PACKAGES, seed=5, prefixes_share=0)
    async with FakeRegistry() as registry:
        assert await interrupt(command, graph, registry, signal.SIGINT) == 130
        repository = registry.repository("cache")
        assert repository.sessions == {}
        outcomes = {entry["tag"]: entry["outcome"] for entry in command.report["packages"]}
        assert set(outcomes.values()) == {"pushed", "interrupted"}
        pushed = {tag for tag, outcome in outcomes.items() if outcome == "pushed"}
        assert pushed == set(repository.tags)
        assert command.report["totals"]["interrupted"] == PACKAGES - len(pushed)

        assert (await command.push(graph, registry.destination("cache"))).status == 0
        assert set(repository.tags) == set(outcomes)
        sent = sent_blobs(registry)
        assert len(sent) == len(set(sent))


@pytest.mark.asyncio
async def test_killed_push_is_finished_by_the_next_one(command: Command, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", PACKAGES, seed=6, prefixes_share=0)
    async with FakeRegistry() as registry:
        await interrupt(command, graph, registry, signal.SIGKILL)
        assert (await command.push(graph, registry.destination("cache"))).status == 0
        assert len(registry.repository("cache").tags) == PACKAGES
        sent = sent_blobs(registry)
        assert len(sent) - len(set(sent)) <= JOBS


@pytest.mark.asyncio
async def test_sigterm_ends_with_143(command: Command, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", PACKAGES, seed=7, prefixes_share=0)
    async with FakeRegistry() as registry:
        assert await interrupt(command, graph, registry, signal.SIGTERM) == 143
