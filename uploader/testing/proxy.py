"""A TCP proxy that breaks connections: after so many bytes from the client, at places that were chosen beforehand."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from array import array
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

_PIECE_BYTES: Final = 256 * 1024


class BreakingProxy:
    """Hands bytes on to `target` (`HOST:PORT`); an async context manager. `host` is where it listens.

    Mutable: `sent`, the bytes that came from clients so far, all connections together, and `breaks` still to come. Each
    break is a count of such bytes; the connection that brings it there is reset, on both sides, with what is still on
    the way in it.
    """

    def __init__(self, target: str, breaks: Iterable[int] = ()) -> None:
        self.host = ""
        self.sent = 0
        self.broken = 0
        self.breaks = sorted(breaks)
        self._target = target
        self._moved = anyio.Event()
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            await stack.enter_async_context(listener)
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            self.host = f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"  # noqa: S610 - not Django's
            group.start_soon(listener.serve, self._serve)
            self._opened = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    async def wait_sent(self, count: int) -> None:
        """Wait until so many bytes came from clients."""
        while self.sent < count:
            await self._moved.wait()

    async def _serve(self, client: anyio.abc.SocketStream) -> None:
        host, _, port = self._target.rpartition(":")
        async with client, await anyio.connect_tcp(host, int(port)) as server, anyio.create_task_group() as group:
            group.start_soon(self._back, server, client, group.cancel_scope)
            await self._forth(client, server)
            group.cancel_scope.cancel()

    async def _forth(self, client: anyio.abc.SocketStream, server: anyio.abc.SocketStream) -> None:
        while True:
            try:
                piece = await client.receive(_PIECE_BYTES)
                await server.send(piece)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                _reset(server)
                return
            self.sent += len(piece)
            moved, self._moved = self._moved, anyio.Event()
            moved.set()
            if self.breaks and self.sent >= self.breaks[0]:
                self.sent += _unread(client)
                self.breaks = self.breaks[1:]  # one that lies in what was not read breaks the next connection
                self.broken += 1
                _reset(client)
                _reset(server)
                return

    @staticmethod
    async def _back(server: anyio.abc.SocketStream, client: anyio.abc.SocketStream, scope: anyio.CancelScope) -> None:
        try:
            while True:
                await client.send(await server.receive(_PIECE_BYTES))
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            scope.cancel()


def _unread(stream: anyio.abc.SocketStream) -> int:
    """How many bytes have arrived that were not read."""
    count = array("i", [0])
    fcntl.ioctl(stream.extra(anyio.abc.SocketAttribute.raw_socket), termios.FIONREAD, count)  # noqa: S610
    return count[0]


def _reset(stream: anyio.abc.SocketStream) -> None:
    """Its close will be a reset, not a polite end: linger for zero seconds."""
    raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - not Django's
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
