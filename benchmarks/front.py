"""A server in front of another one, that adds TLS, or a delay to each answer; a program of its own.

    python -m benchmarks.front HOST:PORT [--delay SECONDS] [--tls FOLDER]

It listens on a free loopback port and prints it.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
from pathlib import Path

_READ_BYTES = 1 << 20


class Front:
    """Connects each client with a connection of its own to the server behind."""

    def __init__(self, host: str, delay: float) -> None:
        self._name, _, self._port = host.rpartition(":")
        self._delay = delay

    async def handle(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One client, until it or the server closes the connection."""
        from_server, to_server = await asyncio.open_connection(self._name, int(self._port), limit=_READ_BYTES)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forwards(from_client, to_server))
                group.create_task(self._backwards(from_server, to_client))
        except* ConnectionError:
            pass
        finally:
            to_server.close()
            to_client.close()

    async def _forwards(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _backwards(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        later = asyncio.get_running_loop().call_later
        while data := await reader.read(_READ_BYTES):
            later(self._delay, writer.write, data)


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--tls", type=Path)
    given = parser.parse_args()
    context = None
    if given.tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.tls / "ca.pem", given.tls / "ca.key")
    front = Front(given.host, given.delay)
    server = await asyncio.start_server(front.handle, "127.0.0.1", 0, ssl=context, limit=_READ_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
