"""Three daemons on one PostgreSQL, one of them killed in the middle."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.contract.jobs.postgresql import postgres_server
from tests.e2e.a_daemon import serving, submit
from uploader.service.daemon_client import DaemonClient
from uploader.testing import FakeRegistry
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from tests.e2e.command import Command

JOBS, PACKAGES = 6, 15


@pytest.mark.real
@pytest.mark.asyncio
async def test_the_jobs_of_a_killed_daemon_are_taken_over_by_the_others(command: Command) -> None:
    graphs = [write_graph(command.home / f"g{n}", PACKAGES, seed=n, prefixes_share=0) for n in range(JOBS)]
    with postgres_server() as server:
        url = server.empty_database()
        async with FakeRegistry() as registry, AsyncExitStack() as stack:
            arguments = ("--jobs-url", url, "--at-once", "2", "--jobs", "2", "--state", "none")
            daemons = [await stack.enter_async_context(serving(command, *arguments)) for _ in range(3)]
            jobs = [
                (await submit(command, daemons[1].url, graph, registry.destination(f"to/{n}"))).stdout.strip()
                for n, graph in enumerate(graphs)
            ]
            await daemons[0].wait_said("leased")
            await daemons[0].end(signal.SIGKILL)
            async with DaemonClient(daemons[1].url) as client:
                for job in jobs:
                    after = 0
                    while not (await client.job(job)).ended:
                        async for event in client.events(job, after=after):
                            after = event.seq
                    assert (await client.job(job)).state == "succeeded"
            for n in range(JOBS):
                assert len(registry.repository(f"to/{n}").tags) == PACKAGES
            assert [await daemon.end() for daemon in daemons[1:]] == [0, 0]
