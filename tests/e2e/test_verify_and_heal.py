"""`uploader verify` and `uploader heal` as a user runs them: exit status, standard error, reports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from uploader.model.digest import Digest
from uploader.testing import Answer, FakeRegistry, Fault
from uploader.testing.packages import a_tar, write_packages

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.command import Command

CHAIN = {"app": ["lib"], "lib": ["libc"], "libc": []}
LAYER = str(Digest.of(a_tar("libc")))


@pytest.mark.asyncio
async def test_damage_is_exit_1_until_it_is_healed(command: Command, tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", CHAIN)
    async with FakeRegistry() as registry:
        cache = registry.destination("cache")
        await command.push(graph, cache)
        whole = await command.run("verify", cache)
        assert (whole.status, whole.stdout) == (0, "")
        assert whole.stderr.startswith("3 tags: 3 whole\n")

        del registry.repository("cache").blobs[LAYER]
        damaged = await command.run("verify", cache, graph, "--report", "-")
        assert damaged.status == 1
        assert json.loads(damaged.stdout)["totals"]["damaged"] == 3
        assert "damaged: libc: its layer sha256:" in damaged.stderr

        assert (await command.run("heal", cache)).status == 1
        dry = await command.run("heal", cache, graph, "--dry-run")
        assert (dry.status, "3 would be repaired" in dry.stderr) == (0, True)
        healed = await command.run("heal", cache, graph, "--report", "report.json")
        assert (healed.status, "3 repaired: app, lib, libc" in healed.stderr) == (0, True)
        assert {entry["outcome"] for entry in command.report["tags"]} == {"repaired"}
        again = await command.run("heal", cache, graph)
        assert (again.status, "nothing to do" in again.stderr) == (0, True)


@pytest.mark.asyncio
async def test_gaps_are_said_and_are_exit_0(command: Command, tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", CHAIN)
    async with FakeRegistry(faults=[Fault(on="put-blob", match=f" {LAYER}$", then=Answer(403))]) as registry:
        cache = registry.destination("cache")
        assert (await command.push(graph, cache)).status == 1
        registry.clear_faults()
        assert (await command.push(graph, cache, "--select", "libc")).status == 0
        verified = await command.run("verify", cache)
        assert verified.status == 0
        assert "gap: libc (failed; it is there now, heal adds it) in app, lib\n" in verified.stderr
        healed = await command.run("heal", cache)
        assert (healed.status, "2 completed: app, lib" in healed.stderr) == (0, True)


@pytest.mark.asyncio
async def test_what_could_not_be_asked_is_exit_1_and_nothing_at_all_exit_3(command: Command, tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", CHAIN)
    async with FakeRegistry() as registry:
        cache = registry.destination("cache")
        await command.push(graph, cache)
        registry.inject(Fault(on="get-manifest", match=" lib$", then=Answer(403)))
        some = await command.run("verify", cache)
        assert (some.status, "could not be asked: lib:" in some.stderr) == (1, True)
        registry.inject(Fault(on="get-manifest", then=Answer(403)))
        assert (await command.run("verify", cache)).status == 3
        registry.inject(Fault(on="tags", then=Answer(403)))
        none = await command.run("verify", cache, "--state", graph)
        assert (none.status, "0 tags: not known what is there" in none.stderr) == (3, True)
        assert "left alone" in none.stderr, "the record cannot be used"
        assert (await command.run("heal", cache)).status == 3


@pytest.mark.asyncio
@pytest.mark.parametrize("verb", ["verify", "heal"])
async def test_a_repository_that_is_not_there_is_exit_3(command: Command, verb: str) -> None:
    async with FakeRegistry() as registry:
        for typo in (registry.destination("typo"), "oci-layout:typo"):
            ended = await command.run(verb, typo)
            assert (ended.status, "ended early: list the tags of" in ended.stderr) == (3, True)
            assert "nothing to do" not in ended.stderr


@pytest.mark.asyncio
@pytest.mark.parametrize("verb", ["verify", "heal"])
async def test_bad_input_is_exit_2_in_one_line(command: Command, verb: str) -> None:
    (command.home / "wrong.json").write_text("{")
    for line in (("ftp://host/x",), ("oci-layout:x", "wrong.json"), ("oci-layout:x", "--report", "no/where")):
        ended = await command.run(verb, *line)
        assert (ended.status, ended.stderr.count("\n")) == (2, 1)


@pytest.mark.asyncio
@pytest.mark.parametrize("verb", ["verify", "heal"])
async def test_the_configuration_of_a_push_serves(command: Command, verb: str) -> None:
    (command.home / "c.toml").write_text('strict = true\njobs = 3\ncodec = "zstd"\n')
    graph = write_packages(command.home / "graph", {"libc": []})
    assert (await command.push(graph, "oci-layout:x")).status == 0
    assert (await command.run(verb, "oci-layout:x", "--config", "c.toml")).status == 0
    (command.home / "c.toml").write_text("jbos = 3\n")
    ended = await command.run(verb, "oci-layout:x", "--config", "c.toml")
    assert (ended.status, "did you mean 'jobs'?" in ended.stderr) == (2, True)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["verify", "heal"])
async def test_the_schema_is_that_of_the_report(command: Command, name: str) -> None:
    schema = json.loads((await command.run("schema", name)).stdout)
    report = json.loads((await command.run(name, "oci-layout:x", "--report", "-")).stdout)
    assert schema["properties"]["schema"]["const"] == report["schema"] == f"uploader/{name}-report/v1"
    assert set(report) == set(schema["properties"])
