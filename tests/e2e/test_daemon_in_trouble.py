"""What a daemon says when its disk, its database or what it is asked is bad, and that it goes on when that passes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import anyio.to_thread
import pytest

from tests.contract.jobs.test_schema import NEXT
from tests.contract.jobs.test_sqlite_store import overwrite_header, truncate_half
from tests.e2e.a_daemon import serving, submit
from tests.torture.outage import fill, small_disk
from uploader.jobs import JobSpec, open_store
from uploader.testing import FakeRegistry, Fault, Hold
from uploader.testing.packages import write_packages
from uploader.testing.parts import find_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.a_daemon import Serving
    from tests.e2e.command import Command

pytestmark = pytest.mark.asyncio

HUGE = 100 * 1024 * 1024
SMALL_DISK = 8 * 1024 * 1024
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, which only root may")


async def readiness(daemon: Serving) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{daemon.url}/readyz") as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_a_body_of_100_mb_is_refused_and_takes_no_memory(command: Command, framing: str) -> None:
    async with serving(command) as daemon:
        before = peak_bytes(daemon)
        host, port = daemon.url.removeprefix("http://").split(":")
        async with await anyio.connect_tcp(host, int(port)) as stream, anyio.create_task_group() as group:
            length = f"Content-Length: {HUGE}" if framing == "content-length" else "Transfer-Encoding: chunked"
            head = f"POST /v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
            await stream.send(head.encode())
            group.start_soon(send_on, stream, framing == "chunked")
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += await stream.receive()
            group.cancel_scope.cancel()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"application/problem+json" in answer
        assert peak_bytes(daemon) - before < HUGE / 4
        assert (await readiness(daemon))[0] == 200


async def send_on(stream: anyio.abc.SocketStream, chunked: bool) -> None:
    """Until nobody reads any more."""
    piece = b" " * 65536
    try:
        for _ in range(HUGE // len(piece)):
            await stream.send(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
    except anyio.BrokenResourceError:
        await anyio.sleep_forever()


def peak_bytes(daemon: Serving) -> int:
    with open(f"/proc/{daemon.process.pid}/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


async def test_what_is_no_http_is_one_line_of_the_log(command: Command) -> None:
    async with serving(command) as daemon:
        port = int(daemon.url.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n")
            assert b" 400 " in await stream.receive()
        assert await daemon.end() == 0
        await daemon.wait_said("drained")
    (line,) = [line for line in daemon.log if line.get("library") == "aiohttp.server"]
    assert (line["level"], "no header" in line["error"]) == ("info", True)
    assert "Traceback" not in str(daemon.log)


async def test_a_wrong_token_is_said_with_what_to_do(command: Command) -> None:
    tokens = command.home / "tokens.toml"
    tokens.write_text(f'[[token]]\nname = "me"\nscope = "full"\nsha256 = "{"0" * 64}"\n')
    async with serving(command, "--tokens", tokens) as daemon:
        for arguments in (["jobs"], ["submit", "graph.json", "--to", "oci://host/x"], ["retry", "--dead"]):
            ended = await command.run(*arguments, UPLOADER_SERVER=daemon.url, UPLOADER_TOKEN="wr0ng")  # noqa: S106
            assert (ended.status, ended.stderr.count("\n")) == (3, 1)
            assert "UPLOADER_TOKEN" in ended.stderr
            assert "wr0ng" not in ended.stderr + json.dumps(daemon.log)


async def newer(path: Path) -> None:
    async with open_store(f"sqlite:///{path}", schema=NEXT) as store:
        await store.submit([JobSpec(b"{}")])


async def damaged(path: Path) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        await store.submit([JobSpec(b"x" * 1000) for _ in range(50)])
    truncate_half(path)


async def overwritten(path: Path) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        await store.submit([JobSpec(b"{}")])
    overwrite_header(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(newer, "newer uploader"), (damaged, "restore it from a backup"), (overwritten, "restore it from a backup")],
)
async def test_a_database_that_is_not_ours_to_use_is_exit_3_and_left_as_it_is(
    command: Command, spoil: Callable[[Path], Any], said: str
) -> None:
    path = command.home / "jobs.db"
    await spoil(path)
    before = path.read_bytes()
    ended = await command.run("serve", "--listen", "127.0.0.1:0", "--jobs-url", f"sqlite:///{path}")
    assert (ended.status, ended.stderr.count("\n")) == (3, 1)
    assert said in ended.stderr
    assert path.read_bytes() == before


async def test_a_database_that_is_taken_away_makes_it_not_ready_until_it_is_back(command: Command) -> None:
    path = command.home / "jobs.db"
    graph = write_packages(command.home / "graph", {"a": []})
    async with FakeRegistry() as registry, serving(command, "--jobs-url", f"sqlite:///{path}") as daemon:
        away = path.rename(path.with_name("away"))
        status, said = await readiness(daemon)
        assert (status, said["ready"]) == (503, False)
        assert "is gone now" in said["problem"]
        refused = await submit(command, daemon.url, graph, registry.destination("x"))
        assert (refused.status, refused.stderr.count("\n")) == (3, 1)
        assert "is gone now" in refused.stderr
        away.rename(path)
        assert (await readiness(daemon))[0] == 200
        assert (await submit(command, daemon.url, graph, registry.destination("x"), "--wait")).status == 0


@pytest.mark.parametrize("how", [pytest.param("tmpfs", marks=as_root), "file-size-limit"])
async def test_a_full_disk_is_said_loses_nothing_and_passes_without_a_restart(
    command: Command, tmp_path: Path, how: str
) -> None:
    """A push that ends meanwhile is not made again: its end is told when there is room."""
    graph = write_packages(command.home / "graph", {"a": []})
    release = anyio.Event()
    held = Fault(on="put-manifest", match="first", then=Hold(release), times=None)
    with full_disk(tmp_path, how) as disk:
        url = f"sqlite:///{disk.folder}/jobs.db"
        async with FakeRegistry(faults=[held]) as registry, serving(command, "--jobs-url", url) as daemon:
            first = (await submit(command, daemon.url, graph, registry.destination("first"))).stdout.strip()
            await registry.wait_started("put-manifest")
            disk.fill(daemon)
            status, said = await readiness(daemon)
            assert status == 503, said
            assert "room" in said["problem"] or "full" in said["problem"]
            refused = await submit(command, daemon.url, graph, registry.destination("x"), "--priority", "9")
            assert (refused.status, refused.stderr.count("\n")) == (3, 1)
            release.set()
            await daemon.wait_said("the job store does not answer")
            disk.make_room(daemon)
            await daemon.wait_said("succeeded")
            assert (await readiness(daemon))[0] == 200
            second = await submit(command, daemon.url, graph, registry.destination("second"), "--wait")
            assert second.status == 0, second.stderr
            shown = await command.run("jobs", "--json", UPLOADER_SERVER=daemon.url)
            jobs = {job["id"]: job for job in json.loads(shown.stdout)["jobs"]}
            assert (len(jobs), jobs[first]["state"], jobs[first]["attempts"]) == (2, "succeeded", 1)
            assert len([one for one in registry.requests_of("put-manifest") if one.repository == "first"]) == 1


class Disk:
    """A place that a test fills; `how` is a file system of its own, or a limit for the daemon's process."""

    def __init__(self, folder: Path, how: str) -> None:
        self.folder = folder
        self._how = how
        self._limits: tuple[int, int] | None = None

    def fill(self, daemon: Serving) -> None:
        if self._how == "tmpfs":
            fill(self.folder / "ballast")
        else:
            self._limits = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (4096, self._limits[1]))

    def make_room(self, daemon: Serving) -> None:
        if self._limits is None:
            (self.folder / "ballast").unlink()
        else:
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, self._limits)


@contextmanager
def full_disk(tmp_path: Path, how: str) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if how == "tmpfs":
        with small_disk(folder, SMALL_DISK):
            yield Disk(folder, how)
    else:
        yield Disk(folder, how)


def remount(folder: Path, how: str) -> None:
    subprocess.run([find_program("mount"), "-o", f"remount,{how}", str(folder)], check=True)


@as_root
async def test_a_read_only_disk_is_exit_3_and_its_jobs_are_there_when_it_is_writable(
    command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    url = f"sqlite:///{folder}/jobs.db"
    with small_disk(folder, SMALL_DISK):
        async with open_store(url) as store:
            await store.submit([JobSpec(b"{}")])
        remount(folder, "ro")
        ended = await command.run("serve", "--listen", "127.0.0.1:0", "--jobs-url", url)
        assert (ended.status, ended.stderr.count("\n")) == (3, 1)
        assert "ead-only" in ended.stderr
        remount(folder, "rw")
        async with serving(command, "--jobs-url", url) as daemon:
            await daemon.wait_said("failed")  # an empty object is no job
            assert (await readiness(daemon))[0] == 200


LIBRARY_LOSES_ITS_BROKER = """
import logging
from uploader.cli import logs
logs.configure("json", "info")
try:
    raise ConnectionError("closed by\\nserver")
except ConnectionError:
    logging.getLogger("library").exception("Message fetch error")
"""


async def test_connection_that_a_library_lost_is_one_line_of_the_log_without_a_traceback() -> None:
    done = await anyio.run_process([sys.executable, "-c", LIBRARY_LOSES_ITS_BROKER])
    line = json.loads(done.stderr)
    del line["ts"]
    error = "ConnectionError: closed by server"
    assert line == {"library": "library", "error": error, "level": "warning", "msg": "Message fetch error"}
