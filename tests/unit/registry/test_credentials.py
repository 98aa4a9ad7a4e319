"""Where logins come from, what is refused, and that no secret is shown."""

from __future__ import annotations

import base64
import json
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.registry.credentials import Credentials, find_credentials

if TYPE_CHECKING:
    from pathlib import Path

HOST = "registry.test:5000"
SECRET = "hidden"  # noqa: S105


def login(user: str = "alice", password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def docker(folder: Path, config: object, **environment: str) -> dict[str, str]:
    """An environment in which Docker's configuration is this."""
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return {"DOCKER_CONFIG": str(folder), **environment}


def a_helper(folder: Path, name: str, script: str) -> str:
    """A credential helper for a PATH."""
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


async def find(environment: dict[str, str], host: str = HOST) -> Credentials | None:
    return await find_credentials(host, environment)


pytestmark = pytest.mark.asyncio


async def test_the_environment_comes_first(tmp_path: Path) -> None:
    environment = docker(tmp_path, {"auths": {HOST: login("bob")}}, UPLOADER_USERNAME="alice", UPLOADER_PASSWORD=SECRET)
    assert await find(environment) == Credentials("alice", "hidden")


async def test_user_and_password_may_lie_in_files(tmp_path: Path) -> None:
    (tmp_path / "user").write_text("alice\n")
    (tmp_path / "password").write_text(" hid den \r\n")
    files = {"UPLOADER_USERNAME_FILE": str(tmp_path / "user"), "UPLOADER_PASSWORD_FILE": str(tmp_path / "password")}
    assert await find(files) == Credentials("alice", " hid den ")


@pytest.mark.parametrize("name", ["UPLOADER_USERNAME", "UPLOADER_PASSWORD"])
async def test_one_of_the_two_alone_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match="go together"):
        await find({name: "hidden"})


async def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"UPLOADER_PASSWORD_FILE: cannot read .*No such file"):
        await find({"UPLOADER_USERNAME": "alice", "UPLOADER_PASSWORD_FILE": str(tmp_path / "none")})


async def test_without_anything_there_is_no_login(tmp_path: Path) -> None:
    assert await find({"HOME": str(tmp_path)}) is None
    assert await find(docker(tmp_path, {"auths": {"other.test": login()}})) is None


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"http://{HOST}", f"https://{HOST}/v2/"])
async def test_dockers_file_names_a_host_in_several_ways(tmp_path: Path, key: str) -> None:
    assert await find(docker(tmp_path, {"auths": {key: login()}})) == Credentials("alice", "hidden")


async def test_dockers_file_lies_in_the_home_by_default(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    docker(tmp_path / ".docker", {"auths": {HOST: login()}})
    assert await find({"HOME": str(tmp_path)}) == Credentials("alice", "hidden")


async def test_docker_hub_has_a_name_of_its_own(tmp_path: Path) -> None:
    environment = docker(tmp_path, {"auths": {"https://index.docker.io/v1/": login()}})
    assert await find(environment, "docker.io") == Credentials("alice", "hidden")
    assert await find(environment, "index.docker.io.evil.test") is None


async def test_a_login_is_for_its_host_and_port_alone(tmp_path: Path) -> None:
    environment = docker(tmp_path, {"auths": {"registry.test": login(), "registry.test:5001": login()}})
    assert await find(environment) is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"username": "alice", "password": "hidden"}, Credentials("alice", "hidden")),
        ({**login("alice", "hid:den")}, Credentials("alice", "hid:den")),
        ({"identitytoken": "hidden", **login("alice", "")}, Credentials("alice", "", "hidden")),
        ({}, None),
        ([], None),
        ({"auth": None}, None),
    ],
)
async def test_entries(tmp_path: Path, entry: object, expected: Credentials | None) -> None:
    assert await find(docker(tmp_path, {"auths": {HOST: entry}})) == expected


@pytest.mark.parametrize("auth", ["hidden!", "hiddené", "/w==", "aGlkZGVuQQ="])
async def test_a_login_that_is_no_base64_is_an_error_that_does_not_show_it(tmp_path: Path, auth: str) -> None:
    with pytest.raises(InputError, match="not base64") as caught:
        await find(docker(tmp_path, {"auths": {HOST: {"auth": auth}}}))
    assert auth not in "".join(traceback.format_exception(caught.value))


async def test_a_bare_token_is_no_login_and_is_not_taken_for_a_users_name(tmp_path: Path) -> None:
    auth = base64.b64encode(SECRET.encode()).decode()
    with pytest.raises(InputError, match="no colon between user and password: log in again") as caught:
        await find(docker(tmp_path, {"auths": {HOST: {"auth": auth}}}))
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert auth not in shown


@pytest.mark.parametrize("text", ['{"hidden": ', "hidden", "[" * 100_000, " " * (1024 * 1024 + 1) + "{}"])
async def test_a_file_that_is_no_json_is_an_error_that_does_not_show_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="are not JSON") as caught:
        await find(docker(tmp_path, text))
    assert "hidden" not in "".join(traceback.format_exception(caught.value, chain=True)).replace(str(tmp_path), "")


async def test_a_file_that_cannot_be_read_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match="cannot read the registry logins"):
        await find({"DOCKER_CONFIG": str(tmp_path)})


HELPER = 'test "$1" = get && test "$(cat)" = registry.test:5000 && '


@pytest.mark.parametrize("config", [{"credsStore": "good"}, {"credHelpers": {HOST: "good"}, "credsStore": "bad"}])
async def test_a_helper_is_asked(tmp_path: Path, config: dict[str, Any]) -> None:
    path = a_helper(tmp_path, "good", HELPER + """echo '{"Username": "alice", "Secret": "hidden"}'""")
    assert await find(docker(tmp_path, config, PATH=path)) == Credentials("alice", "hidden")


async def test_a_helper_may_give_an_identity_token(tmp_path: Path) -> None:
    path = a_helper(tmp_path, "good", """echo '{"Username": "<token>", "Secret": "hidden"}'""")
    assert await find(docker(tmp_path, {"credsStore": "good"}, PATH=path)) == Credentials("", "", "hidden")


async def test_where_a_helper_knows_nothing_the_file_counts(tmp_path: Path) -> None:
    path = a_helper(tmp_path, "good", "echo credentials not found in native keychain; exit 1")
    environment = docker(tmp_path, {"credsStore": "good", "auths": {HOST: login()}}, PATH=path)
    assert await find(environment) == Credentials("alice", "hidden")


@pytest.mark.parametrize(
    ("script", "message"),
    [("echo hidden; exit 3", "exit status 3"), ("echo hidden", "did not answer with JSON")],
)
async def test_a_helper_that_fails_is_an_error_that_shows_nothing_of_it(
    tmp_path: Path, script: str, message: str
) -> None:
    environment = docker(tmp_path, {"credsStore": "good"}, PATH=a_helper(tmp_path, "good", script))
    with pytest.raises(InputError, match=message) as caught:
        await find(environment)
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["absent", "../../bin/sh", "a/b", "a\nb"])
async def test_a_helper_that_is_not_there_or_no_name_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="credential helper"):
        await find(docker(tmp_path, {"credsStore": name}, PATH=str(tmp_path)))


async def test_no_secret_is_shown() -> None:
    credentials = Credentials("alice", "hidden", "hidden too")
    assert "hidden" not in f"{credentials!r} {credentials} {[credentials]}"


async def test_basic_takes_any_password() -> None:
    for password in ("pass:word", "pässwörd", "\udcff"):
        encoded = Credentials("alice", password).basic.removeprefix("Basic ")
        assert base64.b64decode(encoded).decode(errors="surrogateescape") == f"alice:{password}"
        assert "\n" not in encoded


async def test_a_login_that_cannot_be_written_down_is_an_error(tmp_path: Path) -> None:
    entry = '{"auths": {"registry.test:5000": {"username": "alice", "password": "\\ud800"}}}'
    with pytest.raises(InputError, match="not Unicode"):
        await find(docker(tmp_path, entry))


names = st.sampled_from(["auths", "credHelpers", "credsStore", HOST, "auth", "username", "password", "identitytoken"])
documents: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.dictionaries(names, inner, max_size=4) | st.lists(inner, max_size=2),
)


@given(documents)
async def test_any_configuration_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    environment = docker(tmp_path_factory.getbasetemp(), document, PATH="/nowhere")
    try:
        found = await find(environment)
    except InputError:
        return
    assert found is None or isinstance(found, Credentials)
