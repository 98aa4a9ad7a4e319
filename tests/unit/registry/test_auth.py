"""Who gets a login: token services by their address, with a registry and a service that are only played."""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from uploader.errors import UnusableError
from uploader.oci.challenge import Challenge
from uploader.oci.http import Answer as Received
from uploader.oci.http import Lost, Request, Response
from uploader.oci.profile import DEFAULT, Profile, profile_for
from uploader.registry.auth import Authorizer
from uploader.registry.credentials import Credentials
from uploader.testing.clock import Clock

if TYPE_CHECKING:
    from uploader.errors import UploaderError

NAME = "team/cache"
SECRET = "hidden-0123456789"  # noqa: S105
ALICE = Credentials("alice", SECRET)


def shows_no_secret(error: UploaderError) -> bool:
    """Neither the error nor anything chained to it."""
    return SECRET not in "".join(traceback.format_exception(error)) and ALICE.basic not in str(error)


class Service:
    """Answers login requests, and remembers them with the login and the host it was for."""

    def __init__(self, *answers: Received) -> None:
        self.answers = list(answers) or [Response(200, body=b'{"token": "t", "expires_in": 60}')]
        self.asked: list[tuple[Request, str, str]] = []

    async def ask(self, request: Request, authorization: str, home: str) -> Received:
        self.asked.append((request, authorization, home))
        await anyio.lowlevel.checkpoint()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def an_authorizer(
    service: Service,
    origin: str,
    *,
    credentials: Credentials | None = ALICE,
    profile: Profile = DEFAULT,
    realms: frozenset[str] = frozenset(),
    clock: Clock | None = None,
) -> Authorizer:
    return Authorizer(
        origin=origin,
        repository=NAME,
        actions="pull,push",
        credentials=credentials,
        profile=profile,
        realms=realms,
        ask=service.ask,
        clock=(clock or Clock()).time,
    )


def challenged(realm: str) -> Response:
    return Response(401, {"www-authenticate": f'Bearer realm="{realm}",service="s",scope="repository:{NAME}:pull"'})


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("origin", "realm"),
    [
        ("https://registry.test", "https://registry.test/token"),
        ("https://registry.test:5000", "https://registry.test:5000/token"),
        ("https://registry.example.com", "https://auth.example.com/token"),
        ("https://registry.example.co.uk", "https://auth.example.co.uk/token"),
        ("https://registry-1.docker.io", "https://auth.docker.io/token"),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000/token"),
        ("https://registry.test", "https://named.by.the.user/token"),
    ],
)
async def test_a_token_service_of_its_own_gets_the_login(origin: str, realm: str) -> None:
    service = Service()
    profile = profile_for(origin.partition("://")[2])
    authorizer = an_authorizer(service, origin, profile=profile, realms=frozenset({"named.by.the.user"}))
    assert await authorizer.refused(challenged(realm), "")
    ((request, authorization, home),) = service.asked
    assert (authorization, home) == (ALICE.basic, "/".join(realm.split("/")[:3]))
    assert request.url.startswith(realm + "?")
    assert await authorizer.authorization() == "Bearer t"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("origin", "realm"),
    [
        ("https://registry.test", "https://evil.test.example/token"),
        ("https://registry.example.com", "https://example.com.evil.test/token"),
        ("https://registry.example.com", "https://evilexample.com/token"),
        ("https://registry.example.com", "http://registry.example.com/token"),
        ("https://registry.example.com", "http://auth.example.com/token"),
        ("https://registry.example.co.uk", "https://evil.co.uk/token"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
        ("https://10.0.0.1", "https://10.0.0.2/token"),
        ("https://localhost", "https://evil.localhost/token"),
        ("https://ghcr.io", "https://auth.docker.io/token"),
        ("https://registry.example.com", "https://registry.example.com@evil.test/token"),
        ("https://registry.example.com", "https://evil.test\\\\.example.com/token"),
        ("https://registry.example.com", "https://evil.test#.example.com/token"),
        ("https://registry.example.com", "https://evil.test?.example.com/token"),
        ("https://registry.example.com", "https://[::1/token"),
        ("https://registry.example.com", "https://registry.example.com:99999/token"),
        ("https://registry.example.com", "https://registry.example.com /token"),
        ("https://registry.example.com", "//auth.example.com/token"),
        ("https://registry.example.com", "/token"),
        ("https://registry.example.com", "file:///etc/passwd"),
        ("https://registry.example.com", "javascript:alert(1)"),
    ],
)
async def test_any_other_realm_gets_nothing(origin: str, realm: str) -> None:
    service = Service()
    with pytest.raises(UnusableError) as caught:
        await an_authorizer(service, origin).refused(challenged(realm), "")
    assert service.asked == []
    assert shows_no_secret(caught.value)


@pytest.mark.asyncio
async def test_an_anonymous_token_may_come_from_anywhere_with_tls() -> None:
    service = Service()
    anonymous = an_authorizer(service, "https://registry.test", credentials=None)
    assert await anonymous.refused(challenged("https://elsewhere.example/token"), "")
    assert service.asked[0][1] == ""
    another = an_authorizer(service, "https://registry.test", credentials=None)
    with pytest.raises(UnusableError, match="without TLS"):
        await another.refused(challenged("http://elsewhere.example/token"), "")


@pytest.mark.asyncio
async def test_whoever_finds_a_token_at_its_end_waits_for_one_renewal() -> None:
    clock, service = Clock(), Service()
    authorizer = an_authorizer(service, "https://registry.test", clock=clock)
    await authorizer.refused(challenged("https://registry.test/token"), "")
    clock.now += 41.0
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(authorizer.authorization)
    assert len(service.asked) == 2


@pytest.mark.asyncio
async def test_an_identity_token_goes_in_the_body_and_stays_there() -> None:
    service = Service()
    authorizer = an_authorizer(service, "https://registry.test", credentials=Credentials("", "", SECRET))
    await authorizer.refused(challenged("https://registry.test/token"), "")
    ((request, authorization, _),) = service.asked
    assert (request.method, authorization, request.secret) == ("POST", "", True)
    assert isinstance(request.body, bytes)
    assert f"refresh_token={SECRET}".encode() in request.body
    assert SECRET not in f"{request!r}{request.url}"


@pytest.mark.asyncio
async def test_two_headers_are_both_read_and_bearer_is_preferred() -> None:
    header = 'Basic realm="x", Bearer realm="https://registry.test/token"'
    service = Service()
    await an_authorizer(service, "https://registry.test").refused(Response(401, {"www-authenticate": header}), "")
    assert len(service.asked) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer", [Lost("reset"), Response(500), Response(401), Response(403), Response(200, body=b"{}")]
)
async def test_no_token_ends_the_run_and_shows_nothing(answer: Received) -> None:
    authorizer = an_authorizer(Service(answer), "https://registry.test")
    with pytest.raises(UnusableError, match=r"https://registry\.test") as caught:
        await authorizer.refused(challenged(f"https://registry.test/token?key={SECRET}"), "")
    assert shows_no_secret(caught.value)


def test_values_do_not_show_their_secrets() -> None:
    assert SECRET not in repr(
        [ALICE, Challenge("bearer"), Request("PUT", f"/u?s={SECRET}", "push", {}, SECRET.encode())]
    )


def test_tokens_in_answers_are_not_shown() -> None:
    assert SECRET not in repr(Response(200, {"location": SECRET}, json.dumps({"token": SECRET}).encode()))
