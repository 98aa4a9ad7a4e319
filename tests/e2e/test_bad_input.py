"""Bad input: one clear line, nothing sent, exit status 2. Bad content: that package fails, the rest goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from uploader.testing import FakeRegistry
from uploader.testing.graphs import write_graph
from uploader.testing.packages import write_packages

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.command import Command

A = {"id": "a", "name": "a", "version": "1", "blob": {"path": "a.tar"}}
B = {"id": "b", "name": "b", "version": "1", "blob": {"path": "b.tar"}}


def graph(*packages: dict[str, Any], **more: object) -> str:
    return json.dumps({"schema": "uploader/graph/v1", "packages": list(packages), **more})


CASES = {
    "not JSON": ("{", "JSON"),
    "empty file": ("", "empty"),
    "wrong schema": (json.dumps({"schema": "uploader/graph/v9", "packages": [A]}), "uploader/graph/v9"),
    "unknown key": (graph({**A, "dependancies": []}), "dependancies"),
    "duplicate id": (graph(A, A), "'a'"),
    "cycle": (graph({**A, "dependencies": ["b"]}, {**B, "dependencies": ["a"]}), "a -> b -> a"),
    "wrong type": (graph({**A, "version": 1}), "version"),
    "absurd nesting": ("[" * 100_000, ""),
    "invalid tag": (graph({**A, "tag": "no/slash"}), "no/slash"),
    "invalid digest": (graph({**A, "blob": {"path": "a.tar", "digest": "sha256:12"}}), "sha256:12"),
    "two packages with one tag": (graph({**A, "tag": "t"}, {**B, "tag": "t"}), "'t'"),
    "both contents": (graph({**A, "prefix": "store"}), "prefix"),
    "no content": (graph({"id": "a", "name": "a", "version": "1"}), "blob"),
    "empty graph": (graph(), "packages"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("case", CASES)
async def test_bad_graph_is_one_line_and_exit_2_with_nothing_sent(command: Command, case: str) -> None:
    content, named = CASES[case]
    (command.home / "graph.json").write_text(content)
    async with FakeRegistry() as registry:
        ended = await command.push("graph.json", registry.destination("cache"))
        assert ended.status == 2
        assert registry.requests == []
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("uploader: ")
    assert named in ended.stderr
    assert ended.stdout == ""


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "destination", ["ftp://host/x", "oci://", "oci://host", "oci://user:secret@host/x", "oci://h/U//x"]
)
async def test_bad_destination_is_exit_2_and_shows_no_secret(command: Command, destination: str) -> None:
    (command.home / "graph.json").write_text(graph(A))
    ended = await command.push("graph.json", destination)
    assert ended.status == 2
    assert ended.stderr.count("\n") == 1
    assert "secret" not in ended.stderr


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("option", "url"),
    [
        ("--intake", "nats://u:secret@[::1/jobs"),
        ("--intake", "redis://:secret@127.0.0.1:abc/jobs"),
        ("--intake", "redis://:secret@127.0.0.1:99999/jobs"),
        ("--intake", "nats://u:secret@127.0.0.1:0/jobs"),
        ("--intake", "nats://u:not/secret@127.0.0.1/jobs"),
        ("--intake", "redis://127.0.0.1/jobs?password=secret"),
        ("--intake", "redis://127.0.0.1/jobs?password=not@secret"),
        ("--intake", "redis://127.0.0.1/jobs#secret"),
        ("--jobs-url", "postgresql://u:secret@127.0.0.1:abc/db"),
        ("--jobs-url", "postgresql://u:secret@127.0.0.1:99999/db"),
        ("--jobs-url", "postgresql://u:not@secret@[::1/db"),
    ],
)
async def test_a_url_that_is_none_ends_serve_with_exit_2_and_shows_no_secret(
    command: Command, option: str, url: str
) -> None:
    ended = await command.run("serve", "--listen", "unix:socket", option, url)
    assert (ended.status, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert url.partition(":")[0] in ended.stderr
    assert "secret" not in ended.stderr
    assert "not@" not in ended.stderr


@pytest.mark.asyncio
async def test_bad_usage_is_exit_2(command: Command) -> None:
    (command.home / "graph.json").write_text(graph(A))
    for arguments in (
        ["push"],
        ["push", "graph.json"],
        ["push", "graph.json", "--to", "oci-layout:x", "--level", "99"],
        ["push", "graph.json", "--to", "oci-layout:x", "--temp-dir", "gone"],
        ["push", "graph.json", "--to", "oci-layout:x", "--limit-requests", "60/d"],
        ["push", "graph.json", "--to", "oci-layout:x", "--limit-rate", "9" * 400],
    ):
        assert (await command.run(*arguments)).status == 2
    assert (await command.run("config", "check", UPLOADER_LIMIT_REQUESTS="sixty")).status == 2


@pytest.mark.asyncio
async def test_that_gaps_are_the_failure_is_said(command: Command, tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": ["lib"], "lib": []}, keys={"lib": {"push": False}})
    ended = await command.push(graph, "oci-layout:cache", "--strict")
    assert (ended.status, ended.stderr.splitlines()[-1]) == (1, "--strict: what is incomplete counts as failed")


@pytest.mark.asyncio
async def test_unusable_content_fails_its_package_alone(command: Command, tmp_path: Path) -> None:
    path = write_graph(tmp_path / "graph", 12, seed=1, prefixes_share=0)
    document = json.loads(path.read_text())
    missing, wrong, *_ = document["packages"]
    (path.parent / missing["blob"]["path"]).unlink()
    wrong["blob"]["digest"] = f"sha256:{'0' * 64}"
    path.write_text(json.dumps(document))
    ended = await command.push(path, "oci-layout:cache")
    assert ended.status == 1
    failed = {entry["id"]: entry["error"] for entry in command.report["packages"] if entry["outcome"] == "failed"}
    assert set(failed) == {missing["id"], wrong["id"]}
    assert {error["stage"] for error in failed.values()} == {"read"}
    assert {error["kind"] for error in failed.values()} == {"source"}
    assert command.report["totals"]["pushed"] == 10


@pytest.mark.asyncio
async def test_no_registry_is_exit_3(command: Command) -> None:
    (command.home / "graph.json").write_text(graph(A))
    ended = await command.push("graph.json", "oci+http://127.0.0.1:9/cache")
    assert ended.status == 3
    assert "127.0.0.1:9" in ended.stderr
    assert command.report["totals"]["interrupted"] == 1


@pytest.mark.asyncio
async def test_unknown_configuration_key_is_named(command: Command) -> None:
    (command.home / "graph.json").write_text(graph(A))
    (command.home / "c.toml").write_text("jbos = 3\n")
    ended = await command.push("graph.json", "oci-layout:cache", "--config", "c.toml")
    assert ended.status == 2
    assert ended.stderr == "uploader: the configuration c.toml has an unknown key 'jbos'; did you mean 'jobs'?\n"
