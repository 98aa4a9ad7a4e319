"""Listening: the HTTP API on a port or a Unix socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Self

import anyio
from aiohttp import web

from uploader.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from uploader.service.http_api import Api

_CLOSE_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Listen:
    """`HOST:PORT`, or `unix:PATH`."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it; raises InputError."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls("", 0, text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise InputError(f"--listen {text!r}: write HOST:PORT, such as 127.0.0.1:8080, or unix:PATH")
        return cls(host.strip("[]"), int(port))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can get there."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


@asynccontextmanager
async def listening(api: Api, listen: Listen) -> AsyncIterator[str]:
    """Serve until the block ends; gives the URL, with the port that was found where 0 was asked for."""
    runner = web.AppRunner(
        api.app(), access_log=None, shutdown_timeout=_CLOSE_SECONDS, keepalive_timeout=api.head_seconds
    )
    await runner.setup()
    try:
        site: web.BaseSite = web.TCPSite(runner, listen.host, listen.port)
        if listen.path:
            site = web.UnixSite(runner, listen.path)
        try:
            if listen.path:
                await _leave_the_living(listen.path)
            await site.start()
        except OSError as error:
            raise InputError(f"cannot listen on {listen.path or f'{listen.host}:{listen.port}'}: {error}") from error
        yield f"unix:{listen.path}" if listen.path else _url(listen.host, runner.addresses[0][1])
    finally:
        api.closing = True
        with anyio.move_on_after(2 * _CLOSE_SECONDS, shield=True):
            await runner.cleanup()


async def _leave_the_living(path: str) -> None:
    """Binding replaces the socket at this path: right where a killed daemon left it, wrong where one answers."""
    try:
        stream = await anyio.connect_unix(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    await stream.aclose()
    raise InputError(f"cannot listen on {path}: another program listens there; stop it, or choose another path")


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
