"""Standard output and error that are closed, full or unread, and signals while the report is written."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from tests.e2e.a_daemon import serving
from uploader.testing import FakeRegistry, Fault, Hold
from uploader.testing.packages import write_packages

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.command import Command, Ended

PIPE_BYTES = 64 * 1024

pytestmark = pytest.mark.asyncio


async def in_shell(command: Command, arguments: str, redirected: str) -> Ended:
    """Like `command.run`, with the streams as a shell would have them."""
    line = f"{shlex.quote(sys.executable)} -m uploader {arguments} {redirected}"
    return await command.run_line(["sh", "-c", line])


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", "<&- 2>&-"])
@pytest.mark.parametrize("progress", ["plain", "json"])
async def test_no_work_ends_because_nobody_can_read_of_it(command: Command, redirected: str, progress: str) -> None:
    graph = write_packages(command.home / "graph", {"a": [], "b": ["a"]})
    line = f"push {graph} --to oci-layout:cache --report report.json --progress {progress}"
    assert (await in_shell(command, line, redirected)).status == 0
    assert command.report["totals"]["pushed"] == 2
    assert (await in_shell(command, "verify oci-layout:cache", redirected)).status == 0


async def test_an_interrupted_push_whose_reader_is_gone_still_reports(command: Command) -> None:
    """As with `2>&1 | tee log`, where the interrupt ends tee as well."""
    graph = write_packages(command.home / "graph", {"a": []})
    async with FakeRegistry(faults=[Fault(on="put-blob", then=Hold(anyio.Event()))]) as registry:
        reading, writing = os.pipe()
        line = command.line("push", graph, "--to", registry.destination("cache"), "--report", "report.json")
        async with await anyio.open_process(
            line, stderr=writing, env=command.environment(), cwd=command.home
        ) as process:
            os.close(writing)
            await registry.wait_started("put-blob")
            os.close(reading)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        assert command.report["totals"]["interrupted"] == 1
        assert registry.repository("cache").sessions == {}


async def test_a_soft_limit_of_open_files_does_not_bound_a_push(command: Command) -> None:
    graph = write_packages(command.home / "graph", {f"p{number}": [] for number in range(40)})
    release = anyio.Event()
    async with FakeRegistry(faults=[Fault(on="put-blob", then=Hold(release), times=None)]) as registry:
        line = f"push {graph} --to {registry.destination('cache')} --jobs 40 --report report.json"
        async with anyio.create_task_group() as group:

            async def let_go() -> None:
                await registry.wait_started("put-blob", 16)
                release.set()

            group.start_soon(let_go)
            run = shlex.join(command.line(*line.split()))
            ended = await command.run_line(["sh", "-c", f"ulimit -S -n 20; exec {run}"])
        assert (ended.status, command.report["totals"]["pushed"]) == (0, 40)


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full"])
async def test_a_report_that_standard_output_does_not_take_is_a_failure(command: Command, redirected: str) -> None:
    graph = write_packages(command.home / "graph", {"a": []})
    ended = await in_shell(command, f"push {graph} --to oci-layout:cache --report -", redirected)
    assert (ended.status, "Traceback" in ended.stderr) == (1, False)
    assert "cannot write the report to standard output" in ended.stderr


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full"])
async def test_what_a_daemon_says_and_standard_output_does_not_take_is_a_failure(
    command: Command, redirected: str
) -> None:
    async with serving(command) as daemon:
        server = f"--server {daemon.url}"
        first = await in_shell(command, f"submit x.json --to oci+http://localhost/x {server}", redirected)
        job = first.stderr.split()[1]
        asked = ("jobs", "jobs --json", f"jobs {job}", f"jobs {job} --json")
        for ended in (first, *[await in_shell(command, f"{one} {server}", redirected) for one in asked]):
            assert (ended.status, "Traceback" in ended.stderr) == (1, False), ended.stderr
            assert "to standard output" in ended.stderr.splitlines()[-1]


async def test_who_has_seen_enough_of_what_is_printed_sees_no_traceback(command: Command) -> None:
    ended = await in_shell(command, "schema graph", "| true")
    assert (ended.status, ended.stderr) == (0, "")


async def test_what_names_hold_is_no_line_of_its_own(command: Command) -> None:
    graph = write_packages(command.home / "graph", {"a": []})
    ended = await command.push(graph, "oci-layout:/proc/a\nuploader: 2 pushed")
    assert ended.status == 3
    assert "uploader: 2 pushed" not in ended.stderr.splitlines()


async def test_a_signal_waits_until_the_report_is_written(command: Command, tmp_path: Path) -> None:
    """Here to a pipe that is full, with somebody who reads on only after the signal."""
    graph = write_packages(command.home / "graph", {f"p{number}": [] for number in range(300)})
    os.mkfifo(tmp_path / "report")
    async with command.started("push", graph, "--to", "oci-layout:cache", "--report", tmp_path / "report") as process:
        with await anyio.to_thread.run_sync((tmp_path / "report").open) as report:
            process.send_signal(signal.SIGINT)
            text = await anyio.to_thread.run_sync(report.read)
        assert len(text) > PIPE_BYTES
        assert json.loads(text)["totals"]["pushed"] == 300
        assert await process.wait() == 0
