"""A daemon whose PostgreSQL takes no writes for a while: it says so, loses nothing, and goes on by itself."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import aiohttp
import anyio
import anyio.to_thread
import pytest

from tests.contract.jobs.postgresql import postgres_server
from tests.e2e.a_daemon import serving
from tests.e2e.test_daemon_in_trouble import readiness
from tests.torture.outage import Crashed, FullDisk, ReadOnly, small_disk
from uploader.errors import UnusableError
from uploader.service.daemon_client import DaemonClient
from uploader.testing import FakeRegistry, Fault, Hold
from uploader.testing.packages import write_packages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.a_daemon import Serving
    from tests.e2e.command import Command
    from tests.torture.outage import Outage

pytestmark = pytest.mark.asyncio

MANY = 200  # jobs: more than the pages that are there have room for
ASKED = 3  # times
DISK_BYTES = 80 * 1024 * 1024
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, which only root may")


async def times_refused(daemon: Serving) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{daemon.url}/metrics") as answer:
        text = await answer.text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("uploader_store_errors_total "))


@contextmanager
def refused(why: str) -> Iterator[None]:
    with pytest.raises(UnusableError, match=why):
        yield


@contextmanager
def trouble(how: str, folder: Path) -> Iterator[tuple[str, Outage]]:
    folder.mkdir()
    with ExitStack() as stack:
        if how == "full":
            stack.enter_context(small_disk(folder, DISK_BYTES))
        server = stack.enter_context(postgres_server(folder / "data"))
        outages: dict[str, Outage] = {
            "full": FullDisk(server, folder),
            "read-only": ReadOnly(server),
            "crashed": Crashed(server),
        }
        yield server.empty_database(), outages[how]


@pytest.mark.parametrize(
    ("how", "advice"),
    [
        pytest.param("full", "make room", marks=as_root),
        ("read-only", "name the primary"),
        ("crashed", "is the server up"),
    ],
)
async def test_a_server_that_takes_no_writes_makes_it_not_ready_and_every_job_ends_once(
    command: Command, tmp_path: Path, how: str, advice: str
) -> None:
    graph = write_packages(command.home / "graph", {"a": []})
    release = anyio.Event()
    held = Fault(on="put-manifest", match="first", then=Hold(release), times=None)
    with trouble(how, tmp_path / "disk") as (url, store):
        async with (
            FakeRegistry(faults=[held]) as registry,
            serving(command, "--jobs-url", url) as daemon,
            DaemonClient(daemon.url) as client,
        ):

            async def submitted(to: str) -> str:
                return (await client.submit({"sources": [str(graph)], "to": registry.destination(to)}))[0]

            confirmed = [await submitted("first")]
            await registry.wait_started("put-manifest")
            await anyio.to_thread.run_sync(store.begin)
            with refused(advice):
                for number in range(MANY):
                    confirmed += [await submitted(f"to/{number}")]
            status, problem = await readiness(daemon)
            assert (status, advice in problem["problem"]) == (503, True)
            release.set()
            while await times_refused(daemon) < ASKED:
                assert (await readiness(daemon))[0] == 503
            await anyio.to_thread.run_sync(store.end)
            await daemon.wait_said("the job store answers again")
            assert (await readiness(daemon))[0] == 200
            confirmed.append(await submitted("last"))
            for job in confirmed:
                async for _ in client.events(job):
                    pass  # until it ended
            jobs = {job.id: job.state for job in (await client.jobs(limit=2 * MANY))[0]}
            while len(daemon.said("succeeded")) < len(confirmed):
                await daemon.more.wait()
            assert jobs == dict.fromkeys(confirmed, "succeeded")
            assert sorted(line["job"] for line in daemon.said("succeeded")) == sorted(confirmed)
            assert len(daemon.said("the job store does not answer")) == 1
            assert len([one for one in registry.requests_of("put-manifest") if one.repository == "first"]) == 1
