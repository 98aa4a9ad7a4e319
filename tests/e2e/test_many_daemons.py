"""Three daemons on one PostgreSQL, one of them killed in the middle; and a broker before them."""

from __future__ import annotations

import json
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio.to_thread
import pytest
import redis.asyncio

from tests.contract.jobs.postgresql import postgres_server
from tests.e2e.a_daemon import serving, submit
from uploader.service.daemon_client import DaemonClient
from uploader.testing import FakeRegistry
from uploader.testing.brokers import redis_server
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from pathlib import Path

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


@pytest.mark.real
@pytest.mark.asyncio
async def test_every_message_becomes_one_job_though_daemon_and_broker_are_killed(
    command: Command, tmp_path: Path
) -> None:
    messages = 12
    with redis_server(tmp_path / "broker") as broker:
        arguments = ("--intake", f"{broker.url}/jobs", "--stranded-seconds", "2")
        for round_number in range(3):
            async with redis.asyncio.Redis.from_url(broker.url) as client:
                for number in range(4):
                    key = round_number * 4 + number
                    job = {"sources": ["none.json"], "to": f"oci://host/cache-{key}"}
                    await client.xadd("jobs", {"job": json.dumps(job)})
            async with serving(command, *arguments) as daemon:
                await daemon.wait_said("message taken")
                if round_number == 1:
                    await anyio.to_thread.run_sync(broker.kill)
                await daemon.end(signal.SIGKILL)
            if round_number == 1:
                await anyio.to_thread.run_sync(broker.start)
        async with serving(command, *arguments) as daemon, DaemonClient(daemon.url) as client:
            while sum((await client.stats())["jobs"].values()) < messages:
                await daemon.more.wait()
            found, _ = await client.jobs(limit=1000)
            targets = sorted(job.to for job in found)
    assert targets == sorted(f"oci://host/cache-{number}" for number in range(messages))
