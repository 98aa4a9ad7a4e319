"""The registry client and its connections: none, slow, with TLS, hostile; and an account that may not write."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import pytest

from tests.component.a_client import NAME, ZLIB, a_client, a_manifest, described, fill, push
from uploader.errors import RegistryError, UnusableError
from uploader.model.digest import Digest
from uploader.model.reference import Registry
from uploader.oci.http import Request, Response
from uploader.oci.media_types import OCI_MANIFEST
from uploader.registry.bodies import Timeouts
from uploader.registry.retry import RetryPolicy
from uploader.registry.transport import Transport
from uploader.testing import Answer, FakeRegistry, Fault, Stall
from uploader.testing.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.asyncio


def kinds(registry: FakeRegistry) -> list[str]:
    return [request.kind for request in registry.requests]


async def test_no_registry_there_ends_the_run_after_the_time_that_was_set(nobody: Registry) -> None:
    clock = Clock()
    begun = clock.now
    async with a_client(nobody, clock=clock, no_connection_seconds=24.0) as client:
        with pytest.raises(UnusableError, match=r"no connection to .* for 24 s: cannot connect to .*refused"):
            await client.is_empty()
    assert clock.now - begun == pytest.approx(24.0, abs=1.0)


async def test_the_time_counts_from_the_first_failure(nobody: Registry) -> None:
    clock = Clock()
    async with a_client(nobody, clock=clock, no_connection_seconds=24.0) as client:
        clock.now += 3600.0
        begun = clock.now
        with pytest.raises(UnusableError):
            await client.is_empty()
    assert clock.now - begun == pytest.approx(24.0, abs=1.0)


async def test_where_we_were_sent_is_said_when_nobody_is_there(nobody: Registry) -> None:
    away = f"http://{nobody.host}"
    fault = Fault(on="head-manifest", then=Answer(307, headers={"location": f"{away}/x?state=secret"}))
    async with FakeRegistry(faults=[fault]) as registry, a_client(registry, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(RegistryError, match=rf"refused \(at {away}, where the registry sent us\)$"):
            await client.find_tag(ZLIB)


async def test_a_stall_is_ended_by_lack_of_progress() -> None:
    fault = Fault(on="put-blob", then=Stall(after_bytes=3), times=1)
    timeouts = Timeouts(stall=0.15, answer=0.15)
    async with FakeRegistry(faults=[fault]) as registry, a_client(registry, timeouts=timeouts) as client:
        assert await push(client) == "uploaded"
        assert len(registry.requests_of("put-blob")) == 2


async def test_a_trickle_is_no_progress() -> None:
    """A byte now and then, for ever: each one alone would look as if it went on."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - of a socket

    async def trickle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            with suppress(anyio.BrokenResourceError):
                while True:
                    await stream.send(b"x")
                    await anyio.sleep(0.02)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, trickle)
        where = Registry("http", f"127.0.0.1:{port}")
        once = RetryPolicy(attempts=1)
        async with a_client(where, timeouts=Timeouts(stall=0.2, answer=5.0), retry=once) as client:
            with anyio.fail_after(10), pytest.raises(RegistryError, match="no progress"):
                await client.copy_blob(described(bytes(100_000)), None)
        group.cancel_scope.cancel()


async def test_an_answer_with_bare_line_feeds_is_read() -> None:
    """Docker Hub's limiter against abuse answers so (hub-feedback#1907)."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - of a socket
    answers = iter(
        [
            b"HTTP/1.1 429 Too Many Requests\nRetry-After: 60\nConnection: close\n\nToo Many Requests (HAP429).\n",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        ]
    )

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(next(answers))

    clock = Clock()
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        async with a_client(Registry("http", f"127.0.0.1:{port}"), clock=clock) as client:
            assert not await client.is_empty(), "a 404 that may be a proxy's"
        group.cancel_scope.cancel()
    assert sum(clock.sleeps) == pytest.approx(60.0, abs=1.0)


async def test_tls_needs_the_authoritys_certificate() -> None:
    async with FakeRegistry(tls=True) as registry:
        async with a_client(registry, ca_file=registry.ca_file) as client:
            assert await push(client) == "uploaded"
        async with a_client(registry) as client:
            with pytest.raises(UnusableError, match=r"certificate of 127.0.0.1:\d+ is not trusted .*--ca-file"):
                await client.is_empty()
        assert [request.kind for request in registry.requests] == ["open", "put-blob"]


async def test_a_plain_registry_spoken_to_with_tls_ends_the_run_with_the_right_hint() -> None:
    async with FakeRegistry() as registry, a_client(Registry("https", registry.host)) as client:
        with pytest.raises(UnusableError, match=r"does not speak TLS.*oci\+http"):
            await client.is_empty()


_GO = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
_NGINX = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 The plain HTTP request was sent to HTTPS port"


@pytest.mark.parametrize(("said", "ask"), [(_GO, "head"), (_GO, "list"), (_NGINX, "list")])
async def test_a_tls_registry_spoken_to_without_ends_the_run_with_the_right_hint(said: bytes, ask: str) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - of a socket

    async def refuse(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(said)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, refuse)
        async with a_client(Registry("http", f"127.0.0.1:{port}")) as client:
            with pytest.raises(UnusableError, match=rf"speaks TLS .* write oci://127\.0\.0\.1:{port}/"):
                await (client.is_empty() if ask == "list" else client.has_blob(described(b"x")))
        group.cancel_scope.cancel()


async def test_the_http_locations_of_a_registry_behind_a_tls_proxy_are_its_own() -> None:
    async with FakeRegistry(tls=True) as registry, a_client(registry, ca_file=registry.ca_file) as client:
        location = f"http://127.0.0.1/v2/{NAME}/blobs/uploads/1"
        registry.inject(Fault(on="open", then=Answer(202, headers={"location": location})))
        with pytest.raises(RegistryError):
            await push(client)
        assert "put-blob" in kinds(registry)


@pytest.mark.parametrize(
    "location",
    [
        "http://elsewhere.test/u",
        "ftp://127.0.0.1/u",
        "http://user:hidden@127.0.0.1/u",
        "https://a b/u",
        "https://x\\@y/u",
    ],
)
async def test_other_locations_are_not_followed(location: str) -> None:
    async with FakeRegistry(tls=True) as registry, a_client(registry, ca_file=registry.ca_file) as client:
        registry.inject(Fault(on="open", then=Answer(202, headers={"location": location})))
        with pytest.raises(RegistryError, match="was sent on") as caught:
            await push(client)
        assert "hidden" not in str(caught.value)
        assert kinds(registry) == ["open"]


@pytest.mark.parametrize("location", ["/v2/u /x?a=é\u2028 b", "/v2/u%20?q=%zz", '/v2/u?x=<y>"z"'])
async def test_an_odd_location_cannot_write_into_the_request(location: str) -> None:
    async with FakeRegistry() as registry, a_client(registry) as client:
        registry.inject(Fault(on="open", then=Answer(202, headers={"location": location})))
        with pytest.raises(RegistryError):
            await push(client)
        assert {request.kind for request in registry.requests} <= {"open", "other", "head-blob"}
        assert any(request.method == "PUT" for request in registry.requests)


async def test_headers_without_end_are_no_answer() -> None:
    bomb = Fault(on="head-manifest", then=Answer(200, headers={f"x-{number}": "y" * 8000 for number in range(200)}))
    async with FakeRegistry(faults=[bomb]) as registry, a_client(registry) as client:
        with pytest.raises(RegistryError, match="the connection broke"):
            await client.find_tag(ZLIB)


async def test_large_bodies_are_cut() -> None:
    faults = [
        Fault(on="head-blob", then=Answer(403, body=b"x" * 50_000_000)),
        Fault(on="put-manifest", then=Answer(400, body=b"x" * 50_000_000)),
        Fault(on="get-manifest", then=Answer(200, body=b" " * 50_000_000)),
    ]
    async with FakeRegistry(faults=faults) as registry, a_client(registry) as client:
        with pytest.raises(RegistryError) as caught:
            await client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST)
        assert len(str(caught.value)) < 1000
        with pytest.raises(RegistryError):
            await client.read_manifest(Digest.of(a_manifest()))


async def test_a_refusal_is_no_larger_where_something_large_was_asked_for() -> None:
    refusal = Fault(on="tags", then=Answer(500, body=b"x" * 5_000_000))
    async with FakeRegistry(faults=[refusal]) as registry:
        where = Registry("http", registry.host)
        usual = Timeouts()
        async with Transport(where.origin, connections=1, user_agent="x", timeouts=usual, ca_file=None) as transport:
            answer = await transport.exchange(Request("GET", f"/v2/{NAME}/tags/list", "list"), "", most=64 << 20)
        assert isinstance(answer, Response)
        assert (answer.status, len(answer.body)) == (500, 64 * 1024)


async def test_eight_denied_writes_end_the_run() -> None:
    faults = [Fault(on={"open", "put-manifest"}, then=Answer(403))]
    async with FakeRegistry(faults=faults) as registry, a_client(registry) as client:
        for number in range(7):
            for _ in range(2):  # the same write again counts once
                with pytest.raises(RegistryError):
                    await push(client, bytes([number]))
        with pytest.raises(UnusableError, match="8 writes were denied"):
            await client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST)


async def test_eight_denied_writes_are_eight_failures_where_one_write_succeeded() -> None:
    async with FakeRegistry() as registry, a_client(registry) as client:
        await push(client)
        registry.inject(Fault(on="open", then=Answer(403)))
        for number in range(10):
            with pytest.raises(RegistryError):
                await push(client, bytes([number]))


async def test_a_blob_that_was_there_is_no_write() -> None:
    async with FakeRegistry(faults=[Fault(on="open", then=Answer(403))]) as registry, a_client(registry) as client:
        fill(registry)
        await push(client, expected=True)
        for number in range(7):
            with pytest.raises(RegistryError):
                await push(client, bytes([number]))
        with pytest.raises(UnusableError):
            await push(client, b"eighth")


@pytest.fixture
def nobody() -> Iterator[Registry]:
    """A place where nobody listens, which is taken all the same: no other program gets that port meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield Registry("http", f"127.0.0.1:{taken.getsockname()[1]}")


async def test_bodies_of_errors_are_read_whatever_they_are() -> None:
    async with FakeRegistry() as registry, a_client(registry) as client:
        for body in (b"\xff", json.dumps([[]] * 10).encode(), b"[" * 10_000):
            registry.inject(Fault(on="head-blob", then=Answer(400, body=body), times=1))
            with pytest.raises(RegistryError, match="answered 400"):
                await client.has_blob(described(body))
            registry.inject(Fault(on="put-manifest", then=Answer(400, body=body), times=1))
            with pytest.raises(RegistryError, match="answered 400"):
                await client.push_manifest(ZLIB, b"{}", OCI_MANIFEST)
