"""What goes wrong with the fake registry when it is told to, and who may enter it."""

from __future__ import annotations

import base64
import json
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest

from uploader.oci.media_types import OCI_MANIFEST
from uploader.testing import (
    AcceptThenReset,
    Answer,
    Basic,
    Bearer,
    FakeRegistry,
    Fault,
    Grant,
    Hold,
    Late,
    LyingDigest,
    Quirks,
    RefuseMount,
    Reset,
    SessionLost,
    Stall,
    Truncate,
    Unauthorized,
)
from uploader.testing.fake.exchange import read_call
from uploader.testing.faults import Faults
from uploader.testing.plain import NoAnswerError, PlainClient, digest_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import SocketStream

HELLO = digest_of(b"hello")
PING = read_call("GET", "/v2/")


@asynccontextmanager
async def a_registry(*faults: Fault, **more: Any) -> AsyncIterator[tuple[FakeRegistry, PlainClient]]:
    async with FakeRegistry(faults=faults, **more) as registry, aiohttp.ClientSession() as session:
        yield registry, PlainClient(session, registry.url, "team/cache")


class TestFaults:
    def test_skip_lets_some_pass_and_times_limits_the_hits(self) -> None:
        faults = Faults([Fault(on="ping", then=Reset(), skip=1, times=2)], chance(0))
        assert [faults.take(PING) for _ in range(4)] == [None, Reset(), Reset(), None]

    def test_first_fault_that_hits_takes_the_request(self) -> None:
        faults = Faults([Fault(on="any", then=Reset(), times=1), Fault(on="ping", then=Truncate())], chance(0))
        assert [faults.take(PING) for _ in range(2)] == [Reset(), Truncate()]

    def test_kinds_and_matches_choose_the_requests(self) -> None:
        faults = Faults([Fault(on={"tags", "head-blob"}, then=Reset(), match=rf"^a/b (sha256:0|{HELLO})")], chance(0))
        paths = [f"/v2/a/b/blobs/{HELLO}", f"/v2/a/c/blobs/{HELLO}", "/v2/a/b/manifests/one"]
        assert [faults.take(read_call("HEAD", path)) for path in paths] == [Reset(), None, None]

    def test_chances_depend_on_the_seed_alone(self) -> None:
        def run(seed: int) -> list[bool]:
            faults = Faults([Fault(on="ping", then=Reset(), chance=0.5)], chance(seed))
            return [faults.take(PING) is not None for _ in range(64)]

        assert run(1) == run(1) != run(2)
        assert 0 < sum(run(1)) < 64


@pytest.mark.asyncio
class TestActions:
    async def test_answer_refuses_and_does_nothing(self) -> None:
        fault = Fault(on="put-blob", then=Answer(503, retry_after=7, codes=("UNAVAILABLE",)), times=1)
        async with a_registry(fault) as (registry, client):
            location = await client.open()
            refused = await client.close(location, HELLO, b"hello")
            assert not registry.repository("team/cache").blobs
            again = await client.close(location, HELLO, b"hello")
            assert [(r.status, r.body_bytes) for r in registry.requests_of("put-blob")] == [(503, 5), (201, 5)]
        assert (refused.status, refused.headers["retry-after"], refused.codes) == (503, "7", ["UNAVAILABLE"])
        assert again.status == 201

    async def test_answer_can_be_anything(self) -> None:
        answer = Answer(403, codes=("DENIED", "UNKNOWN"), message="secondary limit", headers={"X-Limit": "1"})
        async with a_registry(Fault(on="ping", then=answer, times=1)) as (registry, client):
            registry.inject(Fault(on="ping", then=Answer(429, body=b"Too Many Requests (HAP429).")))
            coded = await client.ask("GET", "/v2/")
            plain = await client.ask("GET", "/v2/")
        assert (coded.status, coded.codes, coded.headers["x-limit"]) == (403, ["DENIED", "UNKNOWN"], "1")
        assert (plain.status, plain.body) == (429, b"Too Many Requests (HAP429).")

    async def test_answer_before_the_body_closes_the_connection(self) -> None:
        fault = Fault(on="put-blob", then=Answer(413, read_body=False), times=1)
        async with a_registry(fault) as (registry, client):
            answer = await client.push_blob(b"hello")
            assert registry.requests_of("put-blob")[0].body_bytes == 0
        assert (answer.status, answer.headers["connection"]) == (413, "close")

    async def test_reset_leaves_exactly_the_bytes_before_it(self) -> None:
        async with a_registry(Fault(on="patch", then=Reset(after_bytes=70_000))) as (registry, client):
            location = await client.open()
            with pytest.raises(NoAnswerError):
                await client.patch(location, 0, bytes(500_000))
            status = await client.ask("GET", location)
            [patch] = registry.requests_of("patch")
        assert (status.status, status.headers["range"]) == (204, "0-69999")
        assert (patch.status, patch.body_bytes) == (None, 70_000)

    async def test_upload_can_be_resumed_after_a_reset(self) -> None:
        async with a_registry(Fault(on="patch", then=Reset(after_bytes=3), times=1)) as (_, client):
            location = await client.open()
            with pytest.raises(NoAnswerError):
                await client.patch(location, 0, b"hello")
            status = await client.ask("GET", location)
            rest = await client.patch(status.headers["location"], 3, b"lo")
            closed = await client.close(rest.headers["location"], HELLO)
        assert closed.status == 201

    @pytest.mark.parametrize(("rule", "expected"), [("kept", (204, "0-2")), ("session-lost", (404, None))])
    async def test_client_breaks_the_connection_within_a_body(self, rule: Any, expected: Any) -> None:
        async with a_registry(quirks=Quirks(broken_body=rule)) as (registry, client):
            location = await client.open()
            async with await connect(registry) as stream:
                head = f"PATCH {location} HTTP/1.1\r\nHost: {registry.host}\r\nContent-Range: 0-4\r\n"
                await stream.send(f"{head}Content-Length: 5\r\n\r\n".encode())
                await registry.wait_started("patch")
                await stream.send(b"hel")
                [session] = registry.repository("team/cache").sessions.values()
                await registry.wait_until(lambda: session.size == 3)
            await registry.wait_ended("patch")
            status = await client.ask("GET", location)
            [patch] = registry.requests_of("patch")
        assert (status.status, status.headers.get("range")) == expected
        assert (patch.status, patch.body_bytes) == (None, 3)

    async def test_reset_is_no_polite_end(self) -> None:
        async with a_registry(Fault(on="ping", then=Reset())) as (registry, _), await connect(registry) as stream:
            await stream.send(f"GET /v2/ HTTP/1.1\r\nHost: {registry.host}\r\n\r\n".encode())
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()

    async def test_chunk_whose_answer_was_lost_is_found_by_asking(self) -> None:
        async with a_registry(Fault(on="patch", then=AcceptThenReset(), times=1)) as (_, client):
            location = await client.open()
            with pytest.raises(NoAnswerError):
                await client.patch(location, 0, b"hello")
            again = await client.patch(location, 0, b"hello")
            status = await client.ask("GET", location)
            closed = await client.close(status.headers["location"], HELLO)
        assert (again.status, status.headers["range"], closed.status) == (404, "0-4", 201)

    async def test_broken_body_can_cost_the_upload(self) -> None:
        fault = Fault(on="patch", then=Reset(after_bytes=3))
        async with a_registry(fault, quirks=Quirks(broken_body="session-lost")) as (_, client):
            location = await client.open()
            with pytest.raises(NoAnswerError):
                await client.patch(location, 0, b"hello")
            status = await client.ask("GET", location)
        assert status.status == 404

    async def test_reset_at_once_leaves_no_trace(self) -> None:
        async with a_registry(Fault(on="open", then=Reset(), times=1)) as (registry, client):
            with pytest.raises(NoAnswerError):
                await client.open()
            assert not registry.repository("team/cache").sessions

    async def test_accept_then_reset_has_done_the_work(self) -> None:
        async with a_registry(Fault(on="put-blob", then=AcceptThenReset(), times=1)) as (registry, client):
            with pytest.raises(NoAnswerError):
                await client.push_blob(b"hello")
            assert registry.repository("team/cache").blobs == {HELLO: b"hello"}
            assert registry.requests_of("put-blob")[0].status is None

    async def test_stall_lasts_until_the_client_gives_up(self) -> None:
        async with a_registry(Fault(on="put-blob", then=Stall(after_bytes=3))) as (registry, client):
            async with anyio.create_task_group() as group:
                group.start_soon(client.push_blob, b"hello")
                await registry.wait_started("put-blob")
                [session] = registry.repository("team/cache").sessions.values()
                await registry.wait_until(lambda: session.size == 3)
                group.cancel_scope.cancel()
            await registry.wait_ended("put-blob")
            assert registry.requests_of("put-blob")[0].status is None

    async def test_released_stall_breaks_the_connection(self) -> None:
        event = anyio.Event()
        event.set()
        async with a_registry(Fault(on="ping", then=Stall(event), times=1)) as (_, client):
            with pytest.raises(NoAnswerError):
                await client.ask("GET", "/v2/")

    async def test_registry_closes_while_a_request_stalls(self) -> None:
        async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
            registry = await FakeRegistry(faults=[Fault(on="ping", then=Stall())]).__aenter__()
            group.start_soon(_ask_and_lose, PlainClient(session, registry.url, "team/cache"))
            await registry.wait_started("ping")
            await registry.__aexit__(None, None, None)

    async def test_hold_waits_and_then_goes_on(self) -> None:
        event = anyio.Event()
        async with a_registry(Fault(on="put-blob", then=Hold(event))) as (registry, client):
            async with anyio.create_task_group() as group:
                group.start_soon(client.push_blob, b"hello")
                await registry.wait_started("put-blob")
                assert not registry.repository("team/cache").blobs
                event.set()
            assert registry.repository("team/cache").blobs == {HELLO: b"hello"}

    async def test_lying_digest_is_only_said(self) -> None:
        async with a_registry(Fault(on="put-blob", then=LyingDigest())) as (registry, client):
            answer = await client.push_blob(b"hello")
            assert registry.repository("team/cache").blobs == {HELLO: b"hello"}
        assert answer.headers["docker-content-digest"] != HELLO

    async def test_truncated_answer_is_noticed_by_the_client(self) -> None:
        async with a_registry(Fault(on="get-blob", then=Truncate(), times=1)) as (_, client):
            await client.push_blob(b"hello")
            with pytest.raises(aiohttp.ClientPayloadError):
                await client.on("GET", f"blobs/{HELLO}")
            assert (await client.on("GET", f"blobs/{HELLO}")).body == b"hello"

    async def test_unauthorized_asks_for_its_scope(self) -> None:
        async with a_registry(Fault(on="open", then=Unauthorized("repository:else:push"))) as (registry, client):
            answer = await client.on("POST", "blobs/uploads/")
            assert answer.headers["www-authenticate"] == (
                f'Bearer realm="{registry.url}/token",service="fake",scope="repository:else:push"'
            )
        assert answer.status == 401

    @pytest.mark.parametrize("status", [401, 403, 404, 405, 202])
    async def test_mount_can_be_refused(self, status: int) -> None:
        async with a_registry(Fault(on="mount", then=RefuseMount(status))) as (registry, client):
            registry.repository("other").add_blob(b"hello")
            answer = await client.on("POST", f"blobs/uploads/?mount={HELLO}&from=other")
        assert (answer.status, "location" in answer.headers) == (status, status == 202)

    async def test_lost_session_is_unknown_from_then_on(self) -> None:
        async with a_registry(Fault(on="patch", then=SessionLost(), times=1)) as (_, client):
            location = await client.open()
            answers = [await client.patch(location, 0, b"hello") for _ in range(2)]
        assert [(answer.status, answer.codes) for answer in answers] == [(404, ["BLOB_UPLOAD_UNKNOWN"])] * 2

    async def test_late_blob_is_found_after_so_many_requests(self) -> None:
        async with a_registry(Fault(on="put-blob", then=Late(2))) as (_, client):
            await client.push_blob(b"hello")
            statuses = [(await client.on("HEAD", f"blobs/{HELLO}")).status for _ in range(4)]
        assert statuses == [404, 404, 200, 200]

    async def test_late_tag_is_listed_later(self) -> None:
        async with a_registry(Fault(on="put-manifest", then=Late(1))) as (_, client):
            await client.push_tag("one")
            head = await client.on("HEAD", "manifests/one", accept=OCI_MANIFEST)
            tags = await client.on("GET", "tags/list")
        assert (head.status, json.loads(tags.body)["tags"]) == (404, ["one"])

    async def test_fault_can_be_injected_and_cleared_while_running(self) -> None:
        async with a_registry() as (registry, client):
            registry.inject(Fault(on="ping", then=Answer(500)))
            refused = await client.ask("GET", "/v2/")
            registry.clear_faults()
            answered = await client.ask("GET", "/v2/")
        assert (refused.status, answered.status) == (500, 200)


@pytest.mark.asyncio
class TestAuth:
    async def test_basic_lets_one_user_in(self) -> None:
        async with a_registry(auth=Basic("anna", "pass:word")) as (_, client):
            without = await client.ask("GET", "/v2/")
            wrong = await client.ask("GET", "/v2/", authorization=basic("anna", "other"))
            right = await client.ask("GET", "/v2/", authorization=basic("anna", "pass:word"))
        assert (without.status, without.headers["www-authenticate"]) == (401, 'Basic realm="fake"')
        assert (wrong.status, right.status) == (401, 200)

    async def test_challenge_names_the_scope_that_is_needed(self) -> None:
        async with a_registry(auth=Bearer()) as (registry, client):
            ping = await client.ask("GET", "/v2/")
            answer = await client.on("POST", f"blobs/uploads/?mount={HELLO}&from=base")
            start = f'Bearer realm="{registry.url}/token",service="fake"'
        assert ping.headers["www-authenticate"] == start
        assert answer.headers["www-authenticate"] == (
            f'{start},scope="repository:base:pull repository:team/cache:pull,push"'
        )

    async def test_token_opens_what_its_scope_says_and_no_more(self) -> None:
        async with a_registry(auth=Bearer("anna", "secret")) as (_, client):
            token = await take_token(client, "repository:team/cache:pull", authorization=basic("anna", "secret"))
            read = await client.on("HEAD", f"blobs/{HELLO}", authorization=token)
            write = await client.on("POST", "blobs/uploads/", authorization=token)
            other = await client.ask("GET", "/v2/other/tags/list", authorization=token)
        assert (read.status, write.status, other.status) == (404, 401, 401)
        assert 'error="insufficient_scope"' in write.headers["www-authenticate"]

    async def test_wrong_password_gets_no_token(self) -> None:
        async with a_registry(auth=Bearer("anna", "secret")) as (registry, client):
            answer = await client.ask("GET", "/token?scope=x", authorization=basic("anna", "no"))
            assert [request.kind for request in registry.requests] == ["token"]
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])

    async def test_anonymous_rights_can_be_less(self) -> None:
        public = Grant(frozenset({"pull"}), "team/.*")
        async with a_registry(auth=Bearer(anonymous=(public,))) as (_, client):
            token = await take_token(client, "repository:team/cache:pull,push")
            read = await client.on("HEAD", f"blobs/{HELLO}", authorization=token)
            write = await client.on("POST", "blobs/uploads/", authorization=token)
            token = await take_token(client, "repository:private/one:pull")
            private = await client.ask("GET", "/v2/private/one/tags/list", authorization=token)
        assert (read.status, write.status, private.status) == (404, 401, 401)

    async def test_token_ends_by_the_clock(self) -> None:
        now = [0.0]
        async with a_registry(auth=Bearer(anonymous=(Grant(),), seconds=60), clock=lambda: now[0]) as (_, client):
            token = await take_token(client, "repository:team/cache:pull")
            now[0] = 59
            before = await client.on("HEAD", f"blobs/{HELLO}", authorization=token)
            now[0] = 60
            after = await client.on("HEAD", f"blobs/{HELLO}", authorization=token)
        assert (before.status, after.status) == (404, 401)

    async def test_revoked_token_is_worth_nothing(self) -> None:
        async with a_registry(auth=Bearer(anonymous=(Grant(),))) as (registry, client):
            token = await take_token(client, "repository:team/cache:pull")
            registry.revoke_tokens()
            answer = await client.on("HEAD", f"blobs/{HELLO}", authorization=token)
        assert answer.status == 401

    @pytest.mark.parametrize(("last_only", "status"), [(False, 404), (True, 401)])
    async def test_only_the_last_of_several_scopes_may_count(self, last_only: bool, status: int) -> None:
        auth = Bearer(anonymous=(Grant(),), last_scope_only=last_only)
        async with a_registry(auth=auth) as (_, client):
            token = await take_token(client, "repository:team/cache:pull&scope=repository:other:pull")
            answer = await client.on("HEAD", f"blobs/{HELLO}", authorization=token)
        assert answer.status == status

    async def test_token_answer_has_the_chosen_fields(self) -> None:
        async with a_registry(auth=Bearer(anonymous=(Grant(),), fields=("access_token",), seconds=9)) as (_, client):
            answer = await client.ask("GET", "/token?scope=repository:team/cache:pull")
        assert sorted(json.loads(answer.body)) == ["access_token", "expires_in"]

    async def test_fault_waits_for_a_request_that_is_let_in(self) -> None:
        async with a_registry(Fault(on="tags", then=Answer(500), times=1), auth=Basic("a", "b")) as (_, client):
            refused = await client.on("GET", "tags/list")
            answered = await client.on("GET", "tags/list", authorization=basic("a", "b"))
        assert (refused.status, answered.status) == (401, 500)


async def connect(registry: FakeRegistry) -> SocketStream:
    host, _, port = registry.host.partition(":")
    return await anyio.connect_tcp(host, int(port))


def chance(seed: int) -> Random:
    return Random(seed)


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


async def take_token(client: PlainClient, scope: str, authorization: str = "") -> str:
    answer = await client.ask("GET", f"/token?service=fake&scope={scope}", authorization=authorization)
    return f"Bearer {json.loads(answer.body)['token']}"


async def _ask_and_lose(client: PlainClient) -> None:
    with pytest.raises(NoAnswerError):
        await client.ask("GET", "/v2/")
