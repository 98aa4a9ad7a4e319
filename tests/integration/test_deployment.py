"""The files of `deploy/` and docker-compose.yml mean something to our command, to systemd and to the broker."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from uploader.cli.serve import _plan, serve
from uploader.service.tokens import read_tokens

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def unit() -> RawConfigParser:
    parser = RawConfigParser(strict=False)  # a key may come twice
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd minds the case
    parser.read(DEPLOY / "uploader.service")
    return parser


@pytest.mark.parametrize("daemon", ["daemon-1", "daemon-2"])
def test_daemons_of_the_compose_file_can_be_started(daemon: str, tmp_path: Path) -> None:
    """Their command line is taken by ours, with the token file made as the comment above says."""
    (tmp_path / "deploy").mkdir()
    subprocess.run(["sh", "-c", token_command()], check=True, cwd=tmp_path)
    service = compose()["services"][daemon]
    command, *arguments = service["command"]
    assert command == "serve"
    mounted = {target: source for source, target, *_ in (one.split(":") for one in service["volumes"])}
    assert mounted == {"/work": "./work", "/run/tokens.toml": "./deploy/tokens.toml"}
    here = {"/run/tokens.toml": tmp_path / "deploy" / "tokens.toml", "/work": tmp_path}
    replaced = [replace_paths(argument, here) for argument in arguments]
    plan = _plan(serve.make_context("serve", replaced).params)
    assert service["ports"][0].endswith(f":{plan.listen.port}")
    assert plan.tokens is not None
    assert plan.tokens.find("SECRET") is not None
    assert read_tokens(here["/run/tokens.toml"]).find("SECRET") is not None
    hosts = [plan.jobs_url.partition("@")[2].partition("/")[0], plan.intakes[0].server.partition("://")[2]]
    assert set(hosts) == {"postgres", "nats"} <= service["depends_on"].keys()
    assert service["stop_grace_period"] == "90s"
    assert plan.daemon.drain_seconds <= 60


def token_command() -> str:
    """The command in the comment at the top of the compose file."""
    lines = [line.removeprefix("#").strip() for line in (ROOT / "docker-compose.yml").read_text().splitlines()]
    begin = next(number for number, line in enumerate(lines) if line.startswith("printf"))
    return lines[begin].removesuffix("\\") + lines[begin + 1]


def replace_paths(argument: str, here: dict[str, Path]) -> str:
    name, equals, value = argument.partition("=")
    return f"{name}{equals}{here.get(value, value)}"


def test_compose_file_agrees_with_itself() -> None:
    document = compose()
    services = document["services"]
    for name, service in services.items():
        assert {"image", "build"} & service.keys(), name
        assert service.get("depends_on", {}).keys() <= services.keys(), name
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source.startswith("./") or source in document["volumes"], volume
        for published in service.get("ports", []):
            assert published.startswith("127.0.0.1:"), published
    for dependency, condition in services["daemon-1"]["depends_on"].items():
        assert (condition["condition"] == "service_healthy") == ("healthcheck" in services[dependency])


def test_compose_file_is_one_to_compose() -> None:
    """To the old one in Python, which Debian has, and to Docker's plugin; neither needs a running Docker."""
    programs = (["docker-compose"], ["docker", "compose"])
    for program in programs:
        if shutil.which(program[0]) is None:
            continue
        if subprocess.run([*program, "version"], check=False, capture_output=True).returncode:
            continue  # a docker without the plugin
        command = [*program, "-f", str(ROOT / "docker-compose.yml"), "config"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load(done.stdout)["services"].keys() == compose()["services"].keys()


def test_broker_of_the_compose_file_puts_messages_on_the_disk_before_it_has_them() -> None:
    configuration = DEPLOY / "nats.conf"
    broker = compose()["services"]["nats"]
    assert broker["command"] == ["--config", "/nats.conf"]
    assert "./deploy/nats.conf:/nats.conf:ro" in broker["volumes"]
    assert "sync_interval: always" in configuration.read_text()
    beside_python = str(Path(sys.executable).parent)
    if (server := shutil.which("nats-server") or shutil.which("nats-server", path=beside_python)) is not None:
        subprocess.run([server, "-t", "-c", str(configuration)], check=True, capture_output=True)


def test_image_is_made_of_what_is_here() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    steps = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    sources = [source for step in steps if step[0] == "COPY" for source in step[1:-1]]
    assert sources
    assert all((ROOT / source).exists() for source in sources)
    words = {step[0]: " ".join(step[1:]) for step in steps}
    assert json.loads(words["ENTRYPOINT"]) == ["uploader"]
    assert serve.name in json.loads(words["CMD"])
    daemon = compose()["services"]["daemon-1"]
    assert daemon["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile"}
    (state,) = (argument.partition("=")[2] for argument in daemon["command"] if argument.startswith("--state="))
    assert str(Path(state).parent) in text  # a folder that its user may write


def test_unit_starts_the_daemon_with_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = unit()["Service"]
    assert "Environment=XDG_STATE_HOME=%S\n" in (DEPLOY / "uploader.service").read_text()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # as %S is /var/lib
    program, command, *arguments = shlex.split(service["ExecStart"])
    assert (Path(program).name, command) == ("uploader", "serve")
    configuration = tmp_path / "config.toml"
    configuration.write_text(
        f'source_root = ["{tmp_path}", "/usr"]\nallow_destination = ["ghcr.io/org/**", "oci+http://localhost:5000/*"]\n'
        'intake = "nats://host/jobs"\nat_once = 3\n'
    )
    here = [str(configuration) if argument == "/etc/uploader/config.toml" else argument for argument in arguments]
    plan = _plan(serve.make_context("serve", [*here]).params)
    assert plan.jobs_url == f"sqlite:///{tmp_path / service['StateDirectory']}/jobs.db"
    assert plan.options.state == tmp_path / service["StateDirectory"] / "record.db"
    assert plan.allowed.source_roots == (tmp_path, Path("/usr"))
    assert [pattern.text for pattern in plan.allowed.destinations or ()] == [
        "ghcr.io/org/**",
        "oci+http://localhost:5000/*",
    ]
    assert (plan.intakes[0].name, plan.daemon.at_once) == ("jobs", 3)
    configuration.write_text(f'source_root = "{tmp_path}"\njobs_url = "postgresql://host/jobs"\nstate = "none"\n')
    plan = _plan(serve.make_context("serve", [*here]).params)
    assert (plan.jobs_url, plan.options.state) == ("postgresql://host/jobs", None)
    assert service["StateDirectory"] == "uploader"
    assert service["WorkingDirectory"] == "/var/lib/uploader"  # else a daemon without source_root would read from /
    assert float(service["TimeoutStopSec"]) > plan.daemon.drain_seconds
    assert service["Type"] == "notify"


def test_unit_is_one_to_systemd(tmp_path: Path) -> None:
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        return  # what it knows is checked above but for the names of keys; nothing else here needs systemd
    path = tmp_path / "uploader.service"
    path.write_text((DEPLOY / "uploader.service").read_text().replace("/usr/local/bin/uploader", "/bin/true"))
    done = subprocess.run([verifier, "verify", str(path)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
