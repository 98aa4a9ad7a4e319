"""Logging in: what is asked for, when, by whom, and above all who never sees a secret."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.component.a_client import LAYER, NAME, ZLIB, a_client, a_manifest, described, fill, has, push
from uploader.errors import RegistryError, UnusableError
from uploader.oci.media_types import OCI_MANIFEST
from uploader.registry.credentials import Credentials
from uploader.testing import Answer, Basic, Bearer, FakeRegistry, Fault, Grant, Hold, Recorded, Unauthorized
from uploader.testing.clock import Clock

if TYPE_CHECKING:
    from uploader.errors import UploaderError

SECRET = "hidden-0123456789"  # noqa: S105
ALICE = Credentials("alice", SECRET)
BASIC = Basic("alice", SECRET)
BEARER = Bearer("alice", SECRET)
NO_PUSH = Grant(rights=frozenset({"pull"}))


def logins(requests: list[Recorded]) -> list[str]:
    """What the requests carried as Authorization: only the scheme."""
    return [request.headers.get("authorization", "").partition(" ")[0] for request in requests]


def shows_no_secret(error: UploaderError) -> bool:
    """Neither the error nor anything chained to it."""
    return SECRET not in "".join(traceback.format_exception(error)) and ALICE.basic not in str(error)


@pytest.mark.asyncio
class TestBasic:
    async def test_it_is_answered_once_and_then_sent_along(self) -> None:
        async with FakeRegistry(auth=BASIC) as registry, a_client(registry, credentials=ALICE) as client:
            assert await push(client) == "uploaded"
            assert [(one.kind, one.status) for one in registry.requests] == [
                ("open", 401),
                ("open", 202),
                ("put-blob", 201),
            ]
            assert logins(registry.requests) == ["", "Basic", "Basic"]

    async def test_a_wrong_password_ends_the_run_at_once(self) -> None:
        wrong = Credentials("alice", "wrong")
        async with FakeRegistry(auth=BASIC) as registry, a_client(registry, credentials=wrong) as client:
            with pytest.raises(UnusableError, match="refused the login of user 'alice'"):
                await push(client)
            assert len(registry.requests) == 2

    async def test_no_login_ends_the_run_with_a_hint(self) -> None:
        async with FakeRegistry(auth=BASIC) as registry, a_client(registry) as client:
            with pytest.raises(UnusableError, match=r"docker login 127\.0\.0\.1.*UPLOADER_USERNAME"):
                await client.is_empty()

    async def test_a_later_refusal_is_about_one_request(self) -> None:
        async with FakeRegistry(auth=BASIC) as registry, a_client(registry, credentials=ALICE) as client:
            await push(client)
            registry.inject(Fault(on="open", then=Answer(401), times=1))
            with pytest.raises(RegistryError) as caught:
                await push(client, b"another")
            assert caught.value.kind == "auth"
            assert await push(client, b"a third") == "uploaded"


@pytest.mark.asyncio
class TestBearer:
    @pytest.mark.parametrize("fields", [("token",), ("access_token",), ("token", "access_token")])
    async def test_one_token_serves_reading_and_writing(self, fields: tuple[str, ...]) -> None:
        auth = Bearer("alice", SECRET, fields=fields)  # type: ignore[arg-type]
        async with FakeRegistry(auth=auth) as registry, a_client(registry, credentials=ALICE) as client:
            assert await client.is_empty()
            fill(registry)
            await push(client, b"another")
            await client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST)
            (token,) = registry.requests_of("token")
            assert dict(token.query)["scope"] == f"repository:{NAME}:pull,push"
            assert logins(registry.requests)[:3] == ["", "Basic", "Bearer"]
            assert set(logins(registry.requests)[2:]) == {"Bearer"}

    async def test_reading_alone_asks_for_no_right_to_write(self) -> None:
        async with (
            FakeRegistry(auth=BEARER) as registry,
            a_client(registry, credentials=ALICE, read_only=True) as client,
        ):
            await client.is_empty()
            assert dict(registry.requests_of("token")[0].query)["scope"] == f"repository:{NAME}:pull"

    async def test_without_a_login_an_anonymous_token_is_used(self) -> None:
        auth = Bearer("alice", SECRET, anonymous=(Grant(),))
        async with FakeRegistry(auth=auth) as registry, a_client(registry) as client:
            assert await push(client) == "uploaded"
            assert logins(registry.requests_of("token")) == [""]

    async def test_an_anonymous_token_that_may_not_write_fails_that_blob(self) -> None:
        auth = Bearer("alice", SECRET, anonymous=(NO_PUSH,))
        async with FakeRegistry(auth=auth) as registry, a_client(registry) as client:
            assert not await client.has_blob(described(LAYER))
            with pytest.raises(RegistryError, match="log in with `docker login`"):
                await push(client)
            assert len(registry.requests_of("token")) == 1, "another token of the same scope would be no better"

    async def test_a_wrong_password_ends_the_run_at_once(self) -> None:
        wrong = Credentials("alice", "wrong")
        async with FakeRegistry(auth=BEARER) as registry, a_client(registry, credentials=wrong) as client:
            with pytest.raises(UnusableError, match="refused the login of user 'alice' with 401"):
                await push(client)
            assert len(registry.requests) == 2

    async def test_twenty_requests_at_once_fetch_one_token(self) -> None:
        release = anyio.Event()
        async with FakeRegistry(auth=BEARER) as registry, a_client(registry, credentials=ALICE) as client:
            registry.inject(Fault(on="token", then=Hold(release)))
            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(push, client, bytes([number]))
                await registry.wait_until(lambda: len(registry.requests_of("open")) >= 16)
                release.set()
            assert len(registry.requests_of("token")) == 1
            assert len(registry.repository(NAME).blobs) == 20

    async def test_a_token_that_ends_is_renewed_before(self) -> None:
        clock = Clock()
        auth = Bearer("alice", SECRET, seconds=30)
        async with FakeRegistry(auth=auth, clock=clock.time) as registry:
            async with a_client(registry, credentials=ALICE, clock=clock) as client:
                await push(client, b"first")
                clock.now += 19.0
                await push(client, b"second")
                assert len(registry.requests_of("token")) == 1
                clock.now += 2.0
                await push(client, b"third")
                assert len(registry.requests_of("token")) == 2
            assert [one.status for one in registry.requests].count(401) == 1, "the very first"

    async def test_a_token_that_ends_in_the_middle_is_renewed_and_the_body_sent_whole(self) -> None:
        async with FakeRegistry(auth=BEARER) as registry, a_client(registry, credentials=ALICE) as client:
            for _ in range(3):
                registry.inject(Fault(on="put-blob", then=Unauthorized(f"repository:{NAME}:pull,push"), times=1))
                content = bytes(len(registry.requests))
                assert await push(client, content) == "uploaded"
                assert has(registry, content)
                *_, refused, taken = registry.requests_of("put-blob")
                assert (refused.status, taken.status) == (401, 201)
                assert refused.body_bytes == taken.body_bytes == len(content)

    async def test_tokens_that_are_revoked_again_and_again_are_fetched_again(self) -> None:
        async with FakeRegistry(auth=BEARER) as registry, a_client(registry, credentials=ALICE) as client:
            for number in range(4):
                registry.revoke_tokens()
                assert await push(client, bytes([number])) == "uploaded"
            assert len(registry.requests_of("token")) == 4

    async def test_a_greater_scope_is_fetched_once(self) -> None:
        async with FakeRegistry(auth=BEARER) as registry, a_client(registry, credentials=ALICE) as client:
            await client.is_empty()
            scope = f"repository:{NAME}:pull,push repository:team/base:pull"
            registry.inject(Fault(on="open", then=Unauthorized(scope), times=1))
            assert await push(client) == "uploaded"
            assert "repository:team/base" in dict(registry.requests_of("token")[-1].query)["scope"]

    async def test_a_login_that_is_never_enough_is_given_up(self) -> None:
        fault = Fault(on="open", then=Unauthorized(f"repository:{NAME}:pull,push"))
        async with (
            FakeRegistry(auth=BEARER, faults=[fault]) as registry,
            a_client(registry, credentials=ALICE) as client,
        ):
            with pytest.raises(RegistryError) as caught:
                await push(client)
            assert (caught.value.status, caught.value.kind) == (401, "auth")
            assert len(registry.requests_of("open")) == 3

    async def test_a_token_service_that_is_down_for_a_while_is_waited_for(self) -> None:
        faults = [Fault(on="token", then=Answer(503, retry_after=7), times=2)]
        clock = Clock()
        async with FakeRegistry(auth=BEARER, faults=faults) as registry:
            async with a_client(registry, credentials=ALICE, clock=clock) as client:
                assert await push(client) == "uploaded"
            assert sum(clock.sleeps) >= 14.0

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"{}", b'{"token": "a\\r\\nX-Evil: 1"}', b"[" * 10_000, b"x" * 10_000_000]
    )
    async def test_a_token_answer_without_a_token_ends_the_run(self, body: bytes) -> None:
        faults = [Fault(on="token", then=Answer(200, body=body))]
        async with (
            FakeRegistry(auth=BEARER, faults=faults) as registry,
            a_client(registry, credentials=ALICE) as client,
        ):
            with pytest.raises(UnusableError, match="answered 200, expected 200 with a token") as caught:
                await push(client)
            assert shows_no_secret(caught.value)

    async def test_a_bare_401_is_explained_by_the_ping(self) -> None:
        """GCR does so."""
        async with FakeRegistry(auth=BEARER) as registry, a_client(registry, credentials=ALICE) as client:
            registry.inject(Fault(on="open", then=Answer(401), times=1))
            bare = FakeRegistry(faults=[Fault(on="open", then=Answer(401), times=1)])
            async with bare, a_client(bare, credentials=ALICE) as other:
                with pytest.raises(RegistryError):
                    await push(other)
                assert [one.kind for one in bare.requests] == ["open", "ping"]
            assert await push(client) == "uploaded"


@pytest.mark.asyncio
class TestSecrets:
    @pytest.mark.parametrize("kind", ["get-blob", "head-blob", "get-manifest", "open", "put-blob", "put-manifest"])
    @pytest.mark.parametrize("auth", [BASIC, BEARER])
    async def test_a_redirect_to_another_host_takes_no_login_along(self, auth: Basic | Bearer, kind: str) -> None:
        async with FakeRegistry() as other, FakeRegistry(auth=auth) as registry:
            headers = {"location": f"{other.url}/v2/{NAME}/anything"}
            registry.inject(Fault(on=kind, then=Answer(307, headers=headers)))  # type: ignore[arg-type]
            other.inject(Fault(on="any", then=Answer(401, headers={"www-authenticate": 'Basic realm="x"'})))
            async with a_client(registry, credentials=ALICE) as client:
                with pytest.raises(RegistryError) as caught:
                    await everything(client)
                assert caught.value.status == 401
            assert logins(other.requests) == [""] * len(other.requests) != []

    async def test_a_location_on_another_host_gets_no_login(self) -> None:
        async with FakeRegistry() as other, FakeRegistry(auth=BASIC) as registry:
            headers = {"location": f"{other.url}/v2/{NAME}/blobs/uploads/1?_state={SECRET}"}
            registry.inject(Fault(on="open", then=Answer(202, headers=headers)))
            async with a_client(registry, credentials=ALICE) as client:
                with pytest.raises(RegistryError) as caught:
                    await push(client)
            assert other.requests[0].kind == "put-blob"
            assert set(logins(other.requests)) == {""}
            assert shows_no_secret(caught.value)

    async def test_a_401_from_elsewhere_does_not_touch_the_login(self) -> None:
        async with FakeRegistry(auth=BEARER) as other, FakeRegistry(auth=BASIC) as registry:
            fill(registry)
            headers = {"location": f"{other.url}/v2/{NAME}/blobs/x"}
            registry.inject(Fault(on="get-blob", then=Answer(307, headers=headers), times=1))
            async with a_client(registry, credentials=ALICE) as client:
                with pytest.raises(RegistryError, match="answered 401"):
                    await client.read_blob(described(LAYER))
                assert await client.read_blob(described(LAYER)) == LAYER
            assert other.requests_of("token") == []

    async def test_a_realm_on_another_host_gets_no_login(self) -> None:
        async with (
            FakeRegistry() as other,
            FakeRegistry(auth=Bearer("alice", SECRET, realm=f"{other.url}/token")) as registry,
        ):
            async with a_client(registry, credentials=ALICE) as client:
                with pytest.raises(UnusableError, match=r"auth_realms \(--auth-realms 127\.0\.0\.1\)"):
                    await push(client)
            assert other.requests == []

    async def test_a_realm_with_tls_that_the_user_names_gets_the_login(self) -> None:
        async with FakeRegistry(tls=True, auth=BEARER) as service:
            auth = Bearer("alice", SECRET, realm=f"{service.url}/token")
            async with FakeRegistry(auth=auth) as registry:
                realms = frozenset({"127.0.0.1"})
                client = a_client(registry, credentials=ALICE, ca_file=service.ca_file, realms=realms)
                async with client as opened:
                    with pytest.raises(RegistryError):  # it knows none of the tokens of the other
                        await push(opened)
            assert set(logins(service.requests)) == {"Basic"}

    async def test_a_token_request_is_not_redirected_with_its_login(self) -> None:
        async with FakeRegistry() as other, FakeRegistry(auth=BEARER) as registry:
            registry.inject(Fault(on="token", then=Answer(307, headers={"location": f"{other.url}/token"})))
            async with a_client(registry, credentials=ALICE) as client:
                with pytest.raises(RegistryError):
                    await push(client)
            assert set(logins(other.requests)) <= {""}

    async def test_an_identity_token_is_not_redirected_at_all(self) -> None:
        identity = Credentials("", "", SECRET)
        async with FakeRegistry() as other, FakeRegistry() as registry:
            challenge = {"www-authenticate": f'Bearer realm="{registry.url}/token"'}
            registry.inject(Fault(on="open", then=Answer(401, headers=challenge)))
            registry.inject(Fault(on="other", then=Answer(307, headers={"location": f"{other.url}/token"})))
            async with a_client(registry, credentials=identity) as client:
                with pytest.raises(UnusableError, match="cannot get a token") as caught:
                    await push(client)
                assert shows_no_secret(caught.value)
            assert other.requests == []
            assert [one.method for one in registry.requests_of("other")] == ["POST"]

    async def test_a_netrc_file_is_never_read(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("home")
        (folder / ".netrc").write_text(f"machine 127.0.0.1 login alice password {SECRET}\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NETRC", str(folder / ".netrc"))
            async with FakeRegistry() as registry, a_client(registry) as client:
                await push(client)
                assert set(logins(registry.requests)) == {""}

    async def test_cookies_are_not_kept(self) -> None:
        cookie = Fault(on="tags", then=Answer(200, headers={"set-cookie": "sid=1; Path=/"}, body=b'{"tags": []}'))
        async with FakeRegistry(faults=[cookie]) as registry, a_client(registry) as client:
            await client.is_empty()
            await push(client)
            assert all("cookie" not in request.headers for request in registry.requests)


async def everything(client: object) -> None:
    """Whatever sends requests of every kind."""
    from uploader.registry.client import RegistryClient  # noqa: PLC0415

    assert isinstance(client, RegistryClient)
    await client.has_blob(described(LAYER))
    await client.read_blob(described(LAYER))
    await client.read_manifest(ZLIB)
    await push(client)
    await client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST)


@pytest.mark.asyncio
async def test_a_registry_that_wants_a_login_for_all_ends_the_run_at_once_when_there_is_none() -> None:
    """As GHCR and Docker Hub do: anybody gets a token, and with it nothing may be done."""
    async with FakeRegistry(auth=Bearer("joe", SECRET)) as registry, a_client(registry) as client:
        with pytest.raises(UnusableError, match="docker login"):
            await client.is_empty()
        assert len(registry.requests) <= 5
