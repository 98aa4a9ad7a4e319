"""A push and a daemon with everything switched on that talks; then all that is left behind is searched for secrets."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import anyio
import pytest

from tests.e2e.a_daemon import serving, submit
from uploader.testing import Answer, Bearer, FakeRegistry, Fault, Quirks
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from tests.e2e.command import Command

USER, PASSWORD = "alice", "hidden-0123456789"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
PAGES = ("/metrics", "/v1/jobs", "/v1/stats", "/v1/workers")
LOGIN = {"UPLOADER_USERNAME": USER, "UPLOADER_PASSWORD": PASSWORD}


def secrets_of(registry: FakeRegistry) -> set[str]:
    """The login, every token that was issued, and the state that upload locations carry."""
    states = {value for request in registry.requests for key, value in request.query if key == "_state"}
    assert states
    return {PASSWORD, BASIC, *registry._gate._tokens, *states}


def left_in(folder: Path, *, but: tuple[Path, ...] = ()) -> bytes:
    """Every byte of every file."""
    files = [path for path in folder.rglob("*") if path.is_file() and path not in but]
    return b"".join(path.read_bytes() for path in files)


def a_registry() -> FakeRegistry:
    """One that says in its refusals what it was sent."""
    faults = [
        Fault("put-blob", Answer(400, message=f"Authorization: Basic {BASIC}"), times=1, skip=2),
        Fault(
            "put-blob",
            Answer(403, message="see http://127.0.0.1/v2/x/blobs/uploads/1?_state=0123456789abcdef"),
            times=1,
        ),
        Fault("put-manifest", Answer(503), times=2),
    ]
    quirks = Quirks(location_state=True, absolute_location=True)
    return FakeRegistry(auth=Bearer(USER, PASSWORD, seconds=1), quirks=quirks, faults=faults)


@pytest.mark.asyncio
async def test_a_push_that_tells_everything_tells_no_secret(command: Command) -> None:
    graph = write_graph(command.home / "graph", 12, seed=1)
    async with a_registry() as registry:
        ended = await command.push(graph, registry.destination("cache"), "--progress", "json", **LOGIN)
        assert ended.status == 1
        assert command.report["totals"]["failed"] == 2
        said = (ended.stdout + ended.stderr).encode() + left_in(command.home)
        assert (command.home / "state" / "uploader" / "record.db").is_file()
        found = [secret for secret in secrets_of(registry) if secret.encode() in said]
        assert found == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["serve", "--jobs-url", "postgresql://me:Kq7@Zx9@127.0.0.1:1/db"], 3),
        (["serve", "--jobs-url", "postgresql://me:Kq7#Zx9@127.0.0.1:1/db"], 3),
        (["serve", "--intake", "nats://me:Kq7/Zx9@127.0.0.1/jobs"], 2),
        (["jobs", "--server", "http://me:Kq7Zx9@127.0.0.1:1"], 3),
        (["jobs", "--server", "http://me:Kq7/Zx9@127.0.0.1:1"], 2),
        (["jobs", "--server", "ftp://me:Kq7@Zx9@127.0.0.1:1"], 2),
    ],
)
async def test_no_part_of_a_login_in_a_url_is_shown(command: Command, arguments: list[str], status: int) -> None:
    ended = await command.run(*arguments)
    assert (ended.status, "127.0.0.1" in ended.stderr) == (status, True), ended.stderr
    assert [part for part in ("Kq7", "Zx9") if part in ended.stderr] == []


@pytest.mark.asyncio
async def test_a_daemon_that_tells_everything_tells_no_secret(command: Command, tmp_path: Path) -> None:
    graph = write_graph(command.home / "graph", 12, seed=2)
    docker = tmp_path / "docker"
    docker.mkdir()
    async with a_registry() as registry:
        (docker / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": BASIC}}}))
        loud = ("--log", "json", "--log-level", "debug", "--max-attempts", "2")
        async with serving(command, *loud, DOCKER_CONFIG=str(docker)) as daemon:
            to = registry.destination("cache")
            ended = await submit(command, daemon.url, graph, to, "--wait", "--report", "report.json")
            shown = await command.run("jobs", "--json", UPLOADER_SERVER=daemon.url)
            (job,) = json.loads(shown.stdout)["jobs"]
            details = await command.run("jobs", job["id"], UPLOADER_SERVER=daemon.url)
            async with aiohttp.ClientSession() as session:
                pages = [await (await session.get(f"{daemon.url}{page}")).text() for page in PAGES]
            process = Path("/proc") / str(daemon.process.pid)
            seen_by_others = await anyio.Path(process / "cmdline").read_bytes()
            await daemon.end()
        said = [ended.stdout, ended.stderr, shown.stdout, details.stdout, details.stderr, *pages, repr(daemon.log)]
        everything = "".join(said).encode() + seen_by_others + left_in(command.home)
        assert (command.home / "state" / "uploader" / "jobs.db").is_file()
        found = [secret for secret in secrets_of(registry) if secret.encode() in everything]
        assert found == []
