"""The rest of the test kit: real programs that are started, and package graphs that are written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest
from anyio.abc import SocketAttribute

from uploader.testing import BreakingProxy, FakeRegistry, PartFailedError, PartMissing, docker_registry, write_graph
from uploader.testing.parts import find_program, running

if TYPE_CHECKING:
    from anyio.abc import SocketStream


def test_missing_program_is_named() -> None:
    with pytest.raises(PartMissing, match="no-such-program is not installed"):
        find_program("no-such-program")


def test_program_that_ends_early_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no configuration')"]
    with pytest.raises(PartFailedError, match="no configuration"), running(command, tmp_path / "log", lambda _: None):
        pass


@pytest.mark.real
@pytest.mark.asyncio
async def test_docker_registry_answers_until_the_block_ends(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with docker_registry(tmp_path) as host, session.get(f"http://{host}/v2/") as answer:
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://{host}/v2/")


@pytest.mark.parametrize(("required", "outcome"), [("", "1 skipped"), ("1", "1 failed")])
def test_missing_part_skips_unless_it_is_required(tmp_path: Path, required: str, outcome: str) -> None:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(
        "from uploader.testing import PartMissing\n\n"
        "def test_it():\n    raise PartMissing('the program x is missing')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path)]
    environment = os.environ | {"UPLOADER_REQUIRE_PARTS": required, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert outcome in ended.stdout
    assert "the program x is missing" in ended.stdout


class TestWriteGraph:
    def test_same_seed_gives_the_same_bytes(self, tmp_path: Path) -> None:
        graphs = [write_graph(tmp_path / name, 20, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
        first, second, third = [_content(graph.parent) for graph in graphs]
        assert first == second != third

    def test_dependencies_are_earlier_packages_and_some_are_shared(self, tmp_path: Path) -> None:
        packages = _packages(write_graph(tmp_path, 60, seed=3))
        ids = [package["id"] for package in packages]
        needed = Counter(need for package in packages for need in package["dependencies"])
        assert all(set(one["dependencies"]) <= set(ids[:place]) for place, one in enumerate(packages))
        assert max(needed.values()) >= 5

    def test_content_is_where_the_graph_says(self, tmp_path: Path) -> None:
        packages = _packages(write_graph(tmp_path, 30, seed=4, blob_bytes=(500, 500)))
        prefixes = [tmp_path / package["prefix"] for package in packages if "prefix" in package]
        blobs = [tmp_path / package["blob"]["path"] for package in packages if "blob" in package]
        assert len(prefixes) + len(blobs) == 30
        assert min(len(prefixes), len(blobs)) >= 5
        assert {(prefix / "share" / "data").stat().st_size for prefix in prefixes} == {500}
        assert {_only_size(blob) for blob in blobs} == {500}

    @pytest.mark.parametrize(("share", "key"), [(0.0, "blob"), (1.0, "prefix")])
    def test_share_of_prefixes_can_be_all_or_nothing(self, tmp_path: Path, share: float, key: str) -> None:
        packages = _packages(write_graph(tmp_path, 10, seed=5, prefixes_share=share))
        assert all(key in package for package in packages)


def _packages(graph: Path) -> list[dict[str, Any]]:
    packages: list[dict[str, Any]] = json.loads(graph.read_text())["packages"]
    return packages


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _only_size(blob: Path) -> int:
    with tarfile.open(blob) as archive:
        [member] = archive.getmembers()
        return member.size


class TestBreakingProxy:
    @pytest.mark.asyncio
    async def test_connections_break_where_they_were_told_to(self) -> None:
        received: list[int] = []

        async def count(stream: SocketStream) -> None:
            async with stream:
                place = len(received)
                received.append(0)
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    while True:
                        received[place] += len(await stream.receive())

        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(listener.serve, count)
            target = f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610
            async with BreakingProxy(target, breaks=[3_000_000, 5_000_000]) as proxy:
                for _ in range(2):
                    async with await anyio.connect_tcp(*_address(proxy.host)) as stream:
                        with pytest.raises(anyio.BrokenResourceError):
                            await _send_for_ever(stream)
                assert proxy.broken == 2
                assert 5_000_000 <= proxy.sent < 5_000_000 + 256 * 1024
                async with await anyio.connect_tcp(*_address(proxy.host)) as stream:
                    await stream.send(bytes(100_000))
                    await proxy.wait_sent(5_100_000)
            group.cancel_scope.cancel()
        assert len(received) == 3

    @pytest.mark.asyncio
    async def test_what_is_not_broken_comes_back_whole(self) -> None:
        async with (
            FakeRegistry() as registry,
            BreakingProxy(registry.host) as proxy,
            aiohttp.ClientSession() as session,
        ):
            digest = registry.repository("a").add_blob(bytes(range(256)) * 10_000)
            async with session.get(f"http://{proxy.host}/v2/a/blobs/{digest}") as answer:
                assert await answer.read() == bytes(range(256)) * 10_000


async def _send_for_ever(stream: SocketStream) -> None:
    while True:
        await stream.send(bytes(100_000))


def _address(host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":")
    return name, int(port)
