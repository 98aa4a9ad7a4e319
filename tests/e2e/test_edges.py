"""What a hostile user finds: inputs that hang, files that are not ours, programs that read what we print."""

from __future__ import annotations

import json
import os
import signal
import stat
import tomllib
from typing import TYPE_CHECKING

import anyio
import pytest

from uploader.cli.serve import serve
from uploader.testing import FakeRegistry
from uploader.testing.faults import Answer, Fault
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.command import Command


@pytest.mark.asyncio
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "line",
    [
        "push graph.json --to oci-layout:cache",
        "plan graph.json --to oci-layout:cache",
        "verify oci-layout:cache graph.json",
        "heal oci-layout:cache graph.json",
    ],
)
async def test_a_graph_that_never_comes_can_be_interrupted(
    command: Command, line: str, number: signal.Signals, status: int
) -> None:
    os.mkfifo(command.home / "graph.json")
    async with command.started(*line.split()) as process:
        # Opening for writing waits for the reader: then it is reading, and nothing ever comes.
        descriptor = await anyio.to_thread.run_sync(os.open, command.home / "graph.json", os.O_WRONLY)
        try:
            process.send_signal(number)
            assert await process.wait() == status
        finally:
            os.close(descriptor)


@pytest.mark.asyncio
async def test_a_record_that_is_the_graph_itself_is_left_alone(command: Command, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", 3, seed=1, prefixes_share=0)
    before = graph.read_bytes()
    ended = await command.push(graph, "oci-layout:cache", "--state", graph)
    assert (ended.status, graph.read_bytes()) == (0, before)
    assert "left alone" in ended.stderr


@pytest.mark.asyncio
async def test_json_progress_is_json_to_its_last_line(command: Command, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", 5, seed=2)
    async with FakeRegistry(faults=[Fault(on="put-blob", then=Answer(403), times=1)]) as registry:
        ended = await command.push(graph, registry.destination("cache"), "--progress", "json")
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert events[0]["event"] == "push-started"
    assert (events[-1]["event"], events[-1]["status"], events[-1]["totals"]["failed"]) == ("finished", 1, 1)


@pytest.mark.asyncio
async def test_a_blob_that_is_gone_from_a_layout_is_written_again(command: Command, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", 5, seed=3, prefixes_share=0)
    await command.push(graph, "oci-layout:cache")
    layer = command.report["packages"][0]["blob"]["digest"].partition(":")[2]
    blob = command.home / "cache" / "blobs" / "sha256" / layer
    kept = blob.read_bytes()
    blob.unlink()
    assert (await command.push(graph, "oci-layout:cache")).status == 0
    assert blob.read_bytes() == kept
    blob.write_bytes(b"")
    assert (await command.push(graph, "oci-layout:cache", "--state", "none")).status == 0
    assert blob.read_bytes() == kept


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("jobs = true", "jobs is True"),
        ('jobs = "x"', "jobs"),
        ("jobs = [1]", "jobs"),
        ('strict = "yes"', "strict is 'yes': expected true or false"),
        ("source_date_epoch = 1979-05-27", "source_date_epoch"),
        ("source_date_epoch = inf", "source_date_epoch is inf"),
        ("jobs = inf", "jobs is inf"),
        ("jobs = 3.7", "jobs is 3.7"),
        ("report = 5", "report is 5: expected path"),
        ('temp_dir = "\\u0000"', "temp_dir holds a null character"),
        ('select = ["\\u0000"]', "select holds a null character"),
        (f"limit_rate = {10**30}", "more than 1 EiB"),
        (f"jobs = {'9' * 5000}", "is not TOML"),
    ],
)
async def test_a_setting_of_the_wrong_type_names_the_file_and_the_key(command: Command, line: str, said: str) -> None:
    (command.home / "c.toml").write_text(line)
    for arguments in (["push", "graph.json", "--to", "oci-layout:cache"], ["config", "check"]):
        ended = await command.run(*arguments, "--config", "c.toml")
        assert (ended.status, ended.stderr.count("\n")) == (2, 1)
        assert ended.stderr.startswith("uploader: the configuration c.toml")
        assert said in ended.stderr


@pytest.mark.asyncio
@pytest.mark.parametrize("line", ["jobs = inf", "jobs = 3.7", "report = 5", 'temp_dir = "\\u0000"'])
async def test_a_setting_of_the_wrong_type_is_refused_by_other_commands_too(command: Command, line: str) -> None:
    (command.home / "c.toml").write_text(line)
    ended = await command.run("verify", "oci-layout:cache", "--config", "c.toml")
    assert ended.status == 2
    assert "Traceback" not in ended.stderr


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('only = ""', "only is ''"),
        ("limit_rate = 0", "limit_rate is 0"),
        ("source_date_epoch = -1", "SOURCE_DATE_EPOCH is -1"),
        ('base_image = "a//b"', "not a repository name"),
    ],
)
async def test_what_a_push_refuses_is_not_in_order(command: Command, tmp_path: Path, line: str, said: str) -> None:
    graph = write_graph(tmp_path / "graph", 2, seed=4, prefixes_share=0)
    (command.home / "c.toml").write_text(line)
    for arguments in (["push", graph, "--to", "oci-layout:cache"], ["config", "check"]):
        ended = await command.run(*arguments, "--config", "c.toml")
        assert (ended.status, ended.stdout) == (2, "")
        assert said in ended.stderr


@pytest.mark.asyncio
async def test_lists_and_flags_in_the_file_work(command: Command, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", 5, seed=4, prefixes_share=0)
    first = json.loads(graph.read_text())["packages"][0]["id"]
    (command.home / "c.toml").write_text(f'select = ["{first}"]\nonly = ["package"]\nstrict = true\n')
    assert (await command.push(graph, "oci-layout:cache", "--config", "c.toml")).status == 0
    assert command.report["totals"]["pushed"] == 1


@pytest.mark.asyncio
async def test_what_config_shows_is_a_configuration(command: Command) -> None:
    (command.home / "c.toml").write_text('exclude = ["a\\"b", "ü"]\njobs = 7\n')
    shown = await command.run("config", "show", "--config", "c.toml")
    (command.home / "shown.toml").write_text(shown.stdout)
    assert tomllib.loads(shown.stdout)["exclude"] == ['a"b', "ü"]
    assert (await command.run("config", "check", "--config", "shown.toml")).status == 0


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("/srv/my builds", ["/srv/my builds"]),
        ("/srv/a:b, /srv/c", ["/srv/a:b", "/srv/c"]),
        ("/srv/a,b\n/srv/c d\n", ["/srv/a,b", "/srv/c d"]),
        ("", []),
    ],
)
def test_variable_of_an_option_that_may_be_repeated_holds_several_values(
    monkeypatch: pytest.MonkeyPatch, text: str, values: list[str]
) -> None:
    for variable in ("UPLOADER_SOURCE_ROOT", "UPLOADER_ALLOW_DESTINATION", "UPLOADER_INTAKE"):
        monkeypatch.setenv(variable, text)
    given = serve.make_context("serve", []).params
    assert [str(path) for path in given["source_root"]] == values
    assert list(given["allow_destination"]) == list(given["intake"]) == values


@pytest.mark.asyncio
async def test_variables_with_lists_select_packages_and_are_shown_as_lists(command: Command, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", 5, seed=4, prefixes_share=0)
    names = [package["id"] for package in json.loads(graph.read_text())["packages"]]
    given = {"UPLOADER_SELECT": f"{names[0]}, {names[1]}", "UPLOADER_ONLY": "package"}
    assert (await command.push(graph, "oci-layout:cache", **given)).status == 0
    assert command.report["totals"]["pushed"] == 2
    shown = await command.run("config", "show", **given)
    assert tomllib.loads(shown.stdout)["select"] == names[:2]


@pytest.mark.asyncio
async def test_a_list_of_nothing_but_commas_is_a_mistake(command: Command) -> None:
    ended = await command.run("push", "graph.json", "--to", "oci-layout:cache", "--select", ",")
    assert ended.status == 2
    assert "names nothing" in ended.stderr


@pytest.mark.asyncio
async def test_a_report_that_would_be_a_folder_is_refused_before_anything_is_sent(
    command: Command, tmp_path: Path
) -> None:
    graph = write_graph(tmp_path / "graph", 3, seed=5, prefixes_share=0)
    ended = await command.run("push", graph, "--to", "oci-layout:cache", "--report", command.home)
    assert ended.status == 2
    assert not (command.home / "cache").exists()
    assert (await command.run("push", graph, "--to", "oci-layout:cache", "--report", "/dev/full")).status == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(("umask", "mode"), [("022", 0o644), ("077", 0o600)])
async def test_a_report_may_be_read_by_whom_the_umask_lets(
    command: Command, tmp_path: Path, umask: str, mode: int
) -> None:
    graph = write_graph(tmp_path / "graph", 3, seed=5, prefixes_share=0)
    push = command.line("push", graph, "--to", "oci-layout:cache", "--report", "report.json")
    ended = await command.run_line(["sh", "-c", f'umask {umask}; exec "$@"', "sh", *push])
    assert (ended.status, stat.S_IMODE((command.home / "report.json").stat().st_mode)) == (0, mode)
