"""A tiny HTTP proxy on loopback: forwards requests and opens tunnels (CONNECT), and remembers what it was asked."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream

_LARGEST_HEAD_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to the proxy: the method, the target as it was written, and its headers, with names in lower case."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass(slots=True)
class Proxy:
    """A running proxy. Mutable: what it was asked. `to` is where it connects to, whatever host is asked for."""

    to: str
    authorization: str | None
    host: str = ""
    asked: list[Asked] = field(default_factory=list)

    async def serve(self, client: ByteStream) -> None:
        """One connection, for one request or one tunnel."""
        incoming = BufferedByteReceiveStream(client)
        async with client:
            try:
                head = await incoming.receive_until(b"\r\n\r\n", _LARGEST_HEAD_BYTES)
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                return
            asked = _read_head(head)
            self.asked.append(asked)
            if self.authorization is not None and asked.headers.get("proxy-authorization") != self.authorization:
                await client.send(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
                return
            address, _, port = self.to.rpartition(":")
            async with await anyio.connect_tcp(address, int(port)) as server:
                if asked.method == "CONNECT":
                    await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    await server.send(_forwarded(asked))
                await _join(incoming, client, server)


@asynccontextmanager
async def proxy(to: str, *, authorization: str | None = None) -> AsyncIterator[Proxy]:
    """A proxy until the block ends, at `proxy.host`; `to` is `ADDRESS:PORT`.

    `authorization` is the Proxy-Authorization that it wants. Use it in the body of a test.
    """
    running = Proxy(to, authorization)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        running.host = f"127.0.0.1:{listener.extra_attributes[SocketAttribute.local_port]()}"
        group.start_soon(listener.serve, running.serve)
        yield running
        group.cancel_scope.cancel()


def _read_head(head: bytes) -> Asked:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines if line)
    return Asked(method, target, {name.lower(): value.strip() for name, _, value in pairs})


def _forwarded(asked: Asked) -> bytes:
    """In origin form, without what is for the proxy alone; the connection ends with the answer."""
    path = "/" + asked.target.split("/", 3)[3]
    kept = {name: value for name, value in asked.headers.items() if not name.startswith("proxy-")}
    kept["connection"] = "close"
    lines = [f"{asked.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in kept.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def _join(incoming: ByteReceiveStream, client: ByteStream, server: ByteStream) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_pour, incoming, server)
        await _pour(server, client)
        group.cancel_scope.cancel()


async def _pour(source: ByteReceiveStream, sink: ByteSendStream) -> None:
    try:
        async for piece in source:
            await sink.send(piece)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return
