"""The daemon by its command: started, given jobs, drained, killed."""

from __future__ import annotations

import json
import os
import random
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import aiohttp
import anyio
import pytest

from tests.e2e.a_daemon import serving, submit
from uploader.testing import Answer, FakeRegistry, Fault, Hold, Stall
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from tests.e2e.command import Command
    from uploader.testing import Kind

WRITES: Final[tuple[Kind, ...]] = ("put-blob", "put-manifest")


@pytest.mark.asyncio
async def test_submit_and_wait_does_what_push_would(command: Command) -> None:
    graph = write_graph(command.home / "graph", 12, seed=1)
    async with FakeRegistry() as registry, serving(command) as daemon:
        ended = await submit(
            command, daemon.url, graph, registry.destination("cache"), "--wait", "--report", "report.json"
        )
        assert ended.status == 0, ended.stderr
        assert command.report["totals"]["pushed"] == len(registry.repository("cache").tags) == 12
        shown = await command.run("jobs", "--json", UPLOADER_SERVER=daemon.url)
        (job,) = json.loads(shown.stdout)["jobs"]
        assert (job["state"], job["attempts"], job["sources"]) == ("succeeded", 1, [str(graph)])
        assert [line["job"] for line in daemon.said("succeeded")] == [job["id"]]
        assert await daemon.end() == 0


@pytest.mark.asyncio
async def test_submit_waits_for_the_end_where_the_daemon_takes_no_more_listeners(command: Command) -> None:
    graph = write_graph(command.home / "graph", 2, seed=1, prefixes_share=0)
    held = Fault(on="put-blob", match="held", then=Hold(anyio.Event()), times=None)
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(FakeRegistry(faults=[held]))
        daemon = await stack.enter_async_context(serving(command, "--drain-seconds", 0))
        job = (await submit(command, daemon.url, graph, registry.destination("held"))).stdout.strip()
        events = f"{daemon.url}/v1/jobs/{job}/events"
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        while (await stack.enter_async_context(session.get(events))).status == 200:
            pass
        ended = await submit(command, daemon.url, graph, registry.destination("cache"), "--wait")
        assert ended.status == 0, ended.stderr
        assert "2 pushed" in ended.stderr


@pytest.mark.asyncio
async def test_submit_whose_report_cannot_be_written_fails_as_push_would(command: Command) -> None:
    graph = write_graph(command.home / "graph", 2, seed=1, prefixes_share=0)
    async with FakeRegistry() as registry, serving(command) as daemon:
        arguments = (command, daemon.url, graph, registry.destination("cache"))
        for more in (["--wait", "--report", "none/report.json"], ["--report", "report.json"]):
            ended = await submit(*arguments, *more)
            assert (ended.status, ended.stdout, "report" in ended.stderr) == (2, "", True)
        assert registry.requests == []
        (command.home / "link").symlink_to("/dev/full")
        ended = await submit(*arguments, "--wait", "--report", "link")
        assert (ended.status, json.loads(ended.stdout)["totals"]["pushed"]) == (1, 2)
        assert "cannot write the report to link" in ended.stderr


@pytest.mark.asyncio
async def test_list_says_why_a_job_waits_and_options_are_as_they_were_given(command: Command) -> None:
    graph = write_graph(command.home / "graph", 2, seed=1, prefixes_share=0)
    release = anyio.Event()
    faults = [Fault(on="put-blob", then=Hold(release)), Fault(on="put-manifest", then=Answer(400), times=None)]
    async with FakeRegistry(faults=faults) as registry, serving(command) as daemon:
        options = ("--codec", "zstd", "--force", "--key", "one")
        job = (await submit(command, daemon.url, graph, registry.destination("cache"), *options)).stdout.strip()
        await registry.wait_started("put-blob")
        async with aiohttp.ClientSession() as session, session.post(f"{daemon.url}/v1/pause") as answer:
            assert answer.status == 200
        release.set()
        await daemon.wait_said("again")
        listed = await command.run("jobs", UPLOADER_SERVER=daemon.url)
        assert "2 of 2 packages failed" in listed.stdout
        shown = await command.run("jobs", job, UPLOADER_SERVER=daemon.url)
        assert 'options: {"codec": "zstd", "force": true}' in shown.stdout
        taken = await submit(command, daemon.url, graph, registry.destination("other"), *options)
        assert (taken.status, f"'one' is that of job {job}" in taken.stderr) == (2, True)


@pytest.mark.asyncio
async def test_a_name_that_is_no_text_is_listed_and_steers_no_terminal(command: Command) -> None:
    name = os.fsdecode(b"\xff\x1b[2J.json")
    async with serving(command) as daemon:
        job = (await submit(command, daemon.url, name, "oci+http://localhost/x")).stdout.strip()
        for arguments in ([], [job]):
            listed = await command.run("jobs", *arguments, UPLOADER_SERVER=daemon.url)
            assert (listed.status, r"\udcff\x1b[2J.json" in listed.stdout) == (0, True), listed.stderr
        as_json = await command.run("jobs", job, "--json", UPLOADER_SERVER=daemon.url)
        assert json.loads(as_json.stdout)["sources"] == [f"{command.home}/{name}"]


@pytest.mark.asyncio
async def test_bad_graph_fails_at_once_and_exits_as_push_would(command: Command) -> None:
    (command.home / "graph.json").write_text("{")
    async with serving(command) as daemon:
        ended = await submit(command, daemon.url, "graph.json", "oci+http://127.0.0.1:9/cache", "--wait")
        assert ended.status == 2
        assert "JSON" in ended.stderr
        listed = await command.run("jobs", "--state", "failed", UPLOADER_SERVER=daemon.url)
        assert listed.stdout.count("\n") == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("source", "to", "named"),
    [
        ("/etc/passwd", "oci://host/cache", "--source-root"),
        ("link.json", "oci://host/cache", "--source-root"),
        ("graph.json", "oci-layout:out", "--dest-root"),
        ("graph.json", "oci://elsewhere/cache", "--allow-destination"),
    ],
)
async def test_what_is_not_allowed_is_refused_on_submission(command: Command, source: str, to: str, named: str) -> None:
    (command.home / "link.json").symlink_to("/etc/passwd")
    (command.home / "graph.json").write_text("{}")
    async with serving(command, "--allow-destination", "host/**") as daemon:
        ended = await submit(command, daemon.url, source, to)
        assert ended.status == 2
        assert named in ended.stderr


@pytest.mark.asyncio
async def test_no_daemon_is_exit_3(command: Command) -> None:
    ended = await command.run("jobs", UPLOADER_SERVER="http://127.0.0.1:9")
    assert (ended.status, ended.stderr.count("\n")) == (3, 1)
    assert "uploader serve" in ended.stderr


@pytest.mark.asyncio
async def test_sigterm_gives_back_what_does_not_end_and_the_next_daemon_ends_it(command: Command) -> None:
    graph = write_graph(command.home / "graph", 10, seed=2, prefixes_share=0)
    stalled = Fault(on="put-blob", skip=5, then=Stall())
    async with FakeRegistry(faults=[stalled]) as registry:
        async with serving(command, "--drain-seconds", "0.2") as daemon:
            job = (await submit(command, daemon.url, graph, registry.destination("cache"))).stdout.strip()
            await registry.wait_started("put-blob", 6)
            assert await daemon.end() == 0
            assert [line["job"] for line in daemon.said("released")] == [job]
            assert daemon.said("stopping; once more to stop at once")
            assert [line for line in daemon.log if "level" not in line] == []
        registry.clear_faults()
        async with serving(command) as daemon:
            await registry.wait_until(lambda: len(registry.repository("cache").tags) == 10)
            assert await daemon.end() == 0
            assert daemon.said("leased")[0]["attempts"] == 1


@pytest.mark.asyncio
async def test_a_second_signal_ends_it_at_once(command: Command) -> None:
    graph = write_graph(command.home / "graph", 3, seed=3, prefixes_share=0)
    async with FakeRegistry(faults=[Fault(on="put-blob", then=Stall())]) as registry, serving(command) as daemon:
        await submit(command, daemon.url, graph, registry.destination("cache"))
        await registry.wait_started("put-blob")
        daemon.process.send_signal(signal.SIGTERM)
        await daemon.wait_said("draining")
        assert await daemon.end(signal.SIGTERM) == 128 + signal.SIGTERM


@pytest.mark.asyncio
async def test_a_daemon_that_is_killed_again_and_again_gets_the_job_done(command: Command) -> None:
    """Each kill comes after some more was written. The job is taken over at once, and what is there is not sent again.

    What would be written beyond that is held for good: so no daemon is done before it is killed.
    """
    chance = random.Random(7)
    graph = write_graph(command.home / "graph", 120, seed=4, prefixes_share=0)
    async with FakeRegistry() as registry:
        to, job = registry.destination("cache"), ""
        tags = registry.repository("cache").tags
        for kill in range(5):
            more = chance.randint(15, 60)
            registry.inject(Fault(on=frozenset(WRITES), skip=more, then=Hold(anyio.Event())))
            held = len(registry.requests_of(*WRITES)) + more + 1
            async with serving(command, "--jobs", "4") as daemon:
                if not kill:
                    job = (await submit(command, daemon.url, graph, to)).stdout.strip()
                await registry.wait_until(lambda held=held: len(registry.requests_of(*WRITES)) >= held)  # type: ignore[misc]
                await daemon.end(signal.SIGKILL)
            registry.clear_faults()
        async with serving(command) as daemon:
            await registry.wait_until(lambda: len(tags) == 120)
            await daemon.wait_said("succeeded")
            shown = json.loads((await command.run("jobs", job, "--json", UPLOADER_SERVER=daemon.url)).stdout)
        assert (shown["state"], shown["attempts"]) == ("succeeded", 1)
        taken = [one for one in registry.requests_of("put-blob") if one.status == 201]
        whole = sum({one.reference: one.body_bytes for one in taken}.values())
        assert sum(one.body_bytes for one in registry.requests_of("put-blob")) <= 1.3 * whole
