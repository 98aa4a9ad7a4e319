"""Files that hold anything at all, through the command itself: one line, exit status 2, nothing sent."""

from __future__ import annotations

import base64
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.component.hostile import DEEP, WIDE, Ended, a_graph, carried_out, push
from uploader.cli.main import run
from uploader.testing import Basic, FakeRegistry
from uploader.testing.parts import find_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ended]:
    """The command line, in this process: whatever it raises but SystemExit is a traceback."""

    def call(*arguments: object) -> Ended:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setattr(sys, "argv", ["uploader", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, said.err + said.out)

    return call


def is_refused(ended: Ended) -> bool:
    """Exit status 2, and one line that can be shown on a terminal."""
    return (
        ended.status == 2 and ended.said.count("\n") == 1 and ended.said[:-1].isprintable() and len(ended.said) < 2000
    )


PACKAGE: dict[str, Any] = {"id": "a", "name": "a", "version": "1", "blob": {"path": "a.tar"}}
HEADER: dict[str, Any] = {"schema": "uploader/graph/v1"}


def graph(*packages: object, **header: object) -> bytes:
    return json.dumps({**HEADER, "packages": packages, **header}).encode()


ESCAPE = "\x1b]0;x\x07\r\n"
GRAPHS: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n\t\n ",
    "zeros": bytes(1000),
    "random bytes": bytes(range(256)) * 8,
    "UTF-16": graph(PACKAGE).decode().encode("utf-16"),
    "a broken UTF-8": b'{"schema": "uploader/graph/v1\xff"}',
    "a lone surrogate": b'{"schema": "\\ud800"}',
    "a list": b"[1, 2, 3]",
    "a number": b"17",
    "NaN": b"NaN",
    "deep lists": DEEP.encode(),
    "deep objects": b'{"a":' * 50_000,
    "deep config": graph({**PACKAGE, "config": json.loads("[" * 900 + "]" * 900)}),
    "a long key": graph({**PACKAGE, WIDE: 1}),
    "a key of control characters": graph({**PACKAGE, ESCAPE: 1}),
    "an id of control characters": graph({**PACKAGE, "id": ESCAPE, "bad": 1}),
    "an id that is long": graph({**PACKAGE, "id": WIDE, "bad": 1}),
    "no packages": graph(),
    "packages of wrong types": graph(1, None, "x", []),
    "packages that are an object": json.dumps({**HEADER, "packages": {"a": PACKAGE}}).encode(),
    "packages twice": b'{"schema": "uploader/graph/v1", "packages": [], "packages": []}',
    "ten thousand times the same id": graph(*[PACKAGE] * 10_000),
    "an unknown schema": graph(PACKAGE, schema="uploader/graph/v2"),
    "a schema of a wrong type": graph(PACKAGE, schema=1),
    "a cycle of one": graph({**PACKAGE, "dependencies": ["a"]}),
    "a cycle of a thousand": graph(
        *({**PACKAGE, "id": f"p{n}", "tag": f"p{n}", "dependencies": [f"p{(n + 1) % 1000}"]} for n in range(1000))
    ),
    "dependencies of wrong types": graph({**PACKAGE, "dependencies": [1]}),
    "dependencies that are text": graph({**PACKAGE, "dependencies": "abc"}),
    "a tag with a slash": graph({**PACKAGE, "tag": "../../x"}),
    "a tag that is long": graph({**PACKAGE, "tag": "x" * 129}),
    "an empty tag": graph({**PACKAGE, "tag": ""}),
    "two packages with one tag": graph({**PACKAGE, "tag": "t"}, {**PACKAGE, "id": "b", "tag": "t"}),
    "a digest of wrong length": graph({**PACKAGE, "blob": {"path": "a", "digest": "sha256:00"}}),
    "a digest of an unknown kind": graph({**PACKAGE, "blob": {"path": "a", "digest": "md5:" + "0" * 32}}),
    "a size below zero": graph({**PACKAGE, "blob": {"path": "a", "size": -1}}),
    "a size that is a float": graph({**PACKAGE, "blob": {"path": "a", "size": 1.5}}),
    "a path of a wrong type": graph({**PACKAGE, "blob": {"path": 1}}),
    "an empty path": graph({**PACKAGE, "blob": {"path": ""}}),
    "a path with a zero": graph({**PACKAGE, "blob": {"path": "a\0b"}}),
    "a media type of a wrong type": graph({**PACKAGE, "blob": {"path": "a", "media_type": []}}),
    "a prefix at a place above": graph({"id": "a", "name": "a", "version": "1", "prefix": "x", "at": "/../.."}),
    "a prefix at no absolute place": graph({"id": "a", "name": "a", "version": "1", "prefix": "x", "at": "x"}),
    "env of wrong types": graph({**PACKAGE, "env": {"A": 1}}),
    "env with a bad name": graph({**PACKAGE, "env": {"A=B": "x"}}),
    "env with a zero": graph({**PACKAGE, "env": {"A": "x\0y"}}),
    "annotations of wrong types": graph({**PACKAGE, "annotations": []}),
    "an empty platform": graph({**PACKAGE, "platform": {"os": "", "architecture": ""}}),
    "a platform with more": graph({**PACKAGE, "platform": {"os": "linux", "architecture": "x", "kernel": "6"}}),
    "push that is text": graph({**PACKAGE, "push": "yes"}),
    "a huge number": b'{"schema": "uploader/graph/v1", "packages": [' + b"9" * 5000 + b"]}",
    "lines that break off": b'{"schema": "uploader/graph/v1"}\n{"id": "a"\n',
    "lines with a list": b'{"schema": "uploader/graph/v1"}\n[]\n',
    "a line that is long": b'{"schema": "uploader/graph/v1"}\n{"id": "' + b"x" * (17 << 20) + b'"}\n',
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_files(command: Callable[..., Ended], tmp_path: Path, name: str) -> None:
    for ending in ("json", "jsonl") if name.startswith("line") else ("json",):
        path = tmp_path / f"graph.{ending}"
        path.write_bytes(GRAPHS[name])
        ended = command("push", path, "--to", f"oci-layout:{tmp_path / 'layout'}", "--progress", "none")
        assert is_refused(ended), ended
    assert not (tmp_path / "layout").exists()


SPEC: dict[str, Any] = {"name": "a", "version": "1", "hash": "a" * 32, "dependencies": []}
ENTRY: dict[str, Any] = {"spec": SPEC, "path": "/opt/a", "installed": True, "explicit": True}


def database(**entry: object) -> bytes:
    installs = {"a" * 32: {**ENTRY, **entry}}
    return json.dumps({"database": {"version": "7", "installs": installs}}).encode()


DATABASES: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(100),
    "null": b"null",
    "a list": b"[]",
    "deep": DEEP.encode(),
    "no version": b'{"database": {"installs": {}}}',
    "a version of a wrong type": b'{"database": {"version": {}, "installs": {}}}',
    "a version of control characters": json.dumps({"database": {"version": ESCAPE, "installs": {}}}).encode(),
    "an unknown version": b'{"database": {"version": "99", "installs": {}}}',
    "installs that are a list": b'{"database": {"version": "7", "installs": []}}',
    "an entry of a wrong type": b'{"database": {"version": "7", "installs": {"a": 1}}}',
    "a hash of control characters": json.dumps({"database": {"version": "7", "installs": {ESCAPE: 1}}}).encode(),
    "a spec of a wrong type": database(spec=[]),
    "a spec without a name": database(spec={**SPEC, "name": None}),
    "a name with a path": database(spec={**SPEC, "name": 5}),
    "another hash": database(spec={**SPEC, "hash": "b" * 32}),
    "dependencies of wrong types": database(spec={**SPEC, "dependencies": [1]}),
}
HALF_WRONG: dict[str, bytes] = {
    "a path of a wrong type": database(path=7),
    "a path that is not there": database(path="/not/there"),
    "a dependency on itself": database(
        spec={**SPEC, "dependencies": [{"name": "a", "hash": "a" * 32, "parameters": {"deptypes": ["link"]}}]}
    ),
}


@pytest.mark.parametrize("name", DATABASES)
def test_spack_databases(command: Callable[..., Ended], tmp_path: Path, name: str) -> None:
    (tmp_path / "store" / ".spack-db").mkdir(parents=True)
    (tmp_path / "store" / ".spack-db" / "index.json").write_bytes(DATABASES[name])
    ended = command(
        "push", f"spack:{tmp_path / 'store'}", "--to", f"oci-layout:{tmp_path / 'layout'}", "--progress", "none"
    )
    assert is_refused(ended), ended
    assert not (tmp_path / "layout").exists()


@pytest.mark.parametrize("name", HALF_WRONG)
def test_spack_databases_of_which_one_package_cannot_be_had(
    command: Callable[..., Ended], tmp_path: Path, name: str
) -> None:
    (tmp_path / "store" / ".spack-db").mkdir(parents=True)
    (tmp_path / "store" / ".spack-db" / "index.json").write_bytes(HALF_WRONG[name])
    source, to = f"spack:{tmp_path / 'store'}", f"oci-layout:{tmp_path / 'layout'}"
    ended = command("push", source, "--to", to, "--progress", "none")
    assert ended.status in {0, 1}
    assert "1 package: 1" in ended.said


LAYOUTS: dict[str, bytes] = {
    "zeros": bytes(100),
    "a list": b"[]",
    "deep": DEEP.encode(),
    "manifests of a wrong type": b'{"schemaVersion": 2, "manifests": {"a": 1}}',
    "entries of wrong types": b'{"schemaVersion": 2, "manifests": [1, null, "x"]}',
    "an entry without a digest": b'{"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "app"}}]}',
    "a digest that leads out": json.dumps(
        {
            "manifests": [
                {
                    "mediaType": "x",
                    "digest": "sha256:../../../../etc/passwd",
                    "size": 1,
                    "annotations": {"org.opencontainers.image.ref.name": "app"},
                }
            ]
        }
    ).encode(),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("what", ["push", "verify"])
def test_layout_folders(command: Callable[..., Ended], tmp_path: Path, what: str, name: str) -> None:
    layout = tmp_path / "layout"
    layout.mkdir()
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_bytes(LAYOUTS[name])
    source = a_graph(tmp_path)
    line = ("push", source, "--to") if what == "push" else ("verify",)
    ended = command(*line, f"oci-layout:{layout}", "--progress", "none")
    assert ended.status in {0, 1, 3}
    assert ended.said.replace("\n", "").isprintable()


HOST = "HOST"
SECRET = "hidden-0123456789"  # noqa: S105
LOGIN = {"auth": base64.b64encode(f"alice:{SECRET}".encode()).decode()}
CONFIGS: dict[str, str] = {
    "nothing": "",
    "zeros": "\0" * 100,
    "no JSON": f'{{"auths": "{SECRET}',
    "a list": json.dumps([SECRET]),
    "deep": DEEP,
    "long": json.dumps({"auths": {HOST: LOGIN}, "x": "y" * (2 << 20)}),
    "auths of a wrong type": json.dumps({"auths": [SECRET]}),
    "an entry of a wrong type": json.dumps({"auths": {HOST: SECRET}}),
    "an auth of a wrong type": json.dumps({"auths": {HOST: {"auth": [SECRET]}}}),
    "an auth that is no base64": json.dumps({"auths": {HOST: {"auth": SECRET + "!"}}}),
    "an auth that is no UTF-8": json.dumps({"auths": {HOST: {"auth": "//79"}}}),
    "an auth without a colon": json.dumps({"auths": {HOST: {"auth": "aGlkZGVu"}}}),
    "a user with a line break": json.dumps({"auths": {HOST: {"username": "a\r\nX: y", "password": SECRET}}}),
    "a user of surrogates": '{"auths": {"HOST": {"username": "\\ud800", "password": "x"}}}',
    "an identity token of a wrong type": json.dumps({"auths": {HOST: {**LOGIN, "identitytoken": {"a": SECRET}}}}),
    "a helper with a path": json.dumps({"credsStore": "../../../bin/sh"}),
    "a helper of a wrong type": json.dumps({"credsStore": {"a": 1}}),
    "a helper that is not there": json.dumps({"credHelpers": {HOST: "not-there"}}),
    "a helper of control characters": json.dumps({"credsStore": ESCAPE}),
    "helpers of a wrong type": json.dumps({"credHelpers": ["x"]}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_docker_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Unusable ones are exit status 2; those without a login for the host end like no login at all: 3."""
    source = a_graph(tmp_path)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for variable in ("UPLOADER_USERNAME", "UPLOADER_PASSWORD"):
        monkeypatch.delenv(variable, raising=False)

    async def work() -> Ended:
        async with FakeRegistry(auth=Basic("bob", "another")) as registry:
            (tmp_path / "config.json").write_text(CONFIGS[name].replace(HOST, registry.host))
            return await push(source, registry.destination("cache"))

    ended = carried_out(work)
    assert ended.status in {2, 3}
    assert SECRET not in ended.said


@pytest.mark.parametrize(
    "script",
    [
        "exit 0",
        "exit 7",
        f"echo {SECRET}; exit 1",
        f"echo {SECRET} >&2; kill -9 $$",
        "head -c 5000000 /dev/zero",
        "echo [[[[",
    ],
)
def test_credential_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    source = a_graph(tmp_path)
    helper = tmp_path / "docker-credential-odd"
    helper.write_text(f"#!{find_program('sh')}\n{script}\n")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "odd"}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for variable in ("UPLOADER_USERNAME", "UPLOADER_PASSWORD"):
        monkeypatch.delenv(variable, raising=False)

    async def work() -> Ended:
        async with FakeRegistry(auth=Basic("bob", "another")) as registry:
            return await push(source, registry.destination("cache"))

    ended = carried_out(work)
    assert ended.status == 2
    assert SECRET not in ended.said
