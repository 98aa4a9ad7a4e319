"""The same requests as a push needs, from memory and with nothing around them: what the registry itself takes.

    python -m benchmarks.raw_push LAYOUT HOST CONNECTIONS

Every unique blob by POST and PUT, then every manifest at its tag. Prints its seconds as JSON, without its own start.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import TypeAlias

_Blob: TypeAlias = "tuple[str, bytes]"


class Connection:
    """One connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def ask(self, method: str, target: str, body: bytes = b"", media_type: str = "") -> tuple[int, str]:
        """Status and Location of the answer."""
        kind = f"Content-Type: {media_type}\r\n" if media_type else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n{kind}\r\n"
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        lines = answer.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        await self._reader.readexactly(int(headers.get("content-length", "0")))
        return int(lines[0].split()[1]), headers.get("location", "")

    async def push_blob(self, blob: _Blob) -> None:
        """POST and PUT."""
        digest, content = blob
        _, location = await self.ask("POST", "/v2/bench/raw/blobs/uploads/")
        target = location.removeprefix(f"http://{self._host}")
        separator = "&" if "?" in target else "?"
        _expect(await self.ask("PUT", f"{target}{separator}digest={digest}", content))

    async def push_manifest(self, manifest: _Blob) -> None:
        """PUT at the tag."""
        tag, content = manifest
        media_type = json.loads(content)["mediaType"]
        _expect(await self.ask("PUT", f"/v2/bench/raw/manifests/{tag}", content, media_type))


def _expect(answer: tuple[int, str]) -> None:
    if answer[0] != 201:
        raise SystemExit(f"raw push: the registry answered {answer[0]}")


def read_layout(layout: Path) -> tuple[deque[_Blob], deque[_Blob]]:
    """Its blobs by digest, and its manifests by tag."""
    blobs: dict[str, bytes] = {}
    manifests: deque[_Blob] = deque()
    for entry in json.loads((layout / "index.json").read_text())["manifests"]:
        content = (layout / "blobs" / entry["digest"].replace(":", "/")).read_bytes()
        manifests.append((entry["annotations"]["org.opencontainers.image.ref.name"], content))
        manifest = json.loads(content)
        for blob in (manifest["config"], *manifest["layers"]):
            if blob["digest"] not in blobs:
                blobs[blob["digest"]] = (layout / "blobs" / blob["digest"].replace(":", "/")).read_bytes()
    return deque(blobs.items()), manifests


async def _push(host: str, count: int, blobs: deque[_Blob], manifests: deque[_Blob]) -> None:
    name, _, port = host.rpartition(":")
    opened = [await asyncio.open_connection(name, int(port)) for _ in range(count)]
    connections = [Connection(reader, writer, host) for reader, writer in opened]

    async def work(connection: Connection, queue: deque[_Blob], *, manifests: bool) -> None:
        while queue:
            await (connection.push_manifest if manifests else connection.push_blob)(queue.popleft())

    for queue in (blobs, manifests):
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(work(connection, queue, manifests=queue is manifests))


def main() -> None:
    """Read, push, tell the time."""
    blobs, manifests = read_layout(Path(sys.argv[1]))
    began = time.perf_counter()
    asyncio.run(_push(sys.argv[2], int(sys.argv[3]), blobs, manifests))
    print(json.dumps({"push": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
