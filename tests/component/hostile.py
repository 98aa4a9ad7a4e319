"""What tests of hostile input share: a push as the command makes it, and a server that sends any bytes at all."""

from __future__ import annotations

import resource
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import SocketAttribute

from uploader import PushOptions, api
from uploader.cli.running import exit_status
from uploader.errors import InputError, UnusableError, UploaderError
from uploader.testing.packages import a_tar, write_packages
from uploader.testing.virtual import run_hurried

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from anyio.abc import ByteStream

SPEED: Final = 1000.0
_MOST_MEMORY_KB: Final = 200 * 1024
_SECONDS: Final = 30.0

DEEP: Final = "[" * 100_000
WIDE: Final = "x" * 300_000


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command would have ended: its exit status, and all that it would have said."""

    status: int
    said: str


def carried_out(work: Callable[[], Awaitable[Ended]]) -> Ended:
    """Do it in hurried time; raises whatever no command may raise, and AssertionError for what takes too much."""

    async def limited() -> Ended:
        with anyio.fail_after(_SECONDS * SPEED):
            return await work()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended = run_hurried(limited, speed=SPEED)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < _MOST_MEMORY_KB, f"took {grown} KB"
    assert ended.said.replace("\n", "").isprintable()
    return ended


async def push(source: object, to: str, **options: object) -> Ended:
    """As `uploader push`."""
    try:
        report = await api.push(str(source), to, PushOptions(**options))  # type: ignore[arg-type]
    except UploaderError as error:
        return Ended(_status_of(error), str(error))
    errors = [entry.error.message for entry in report.packages if entry.error]
    said = "\n".join([*report.notes, *errors, *([report.error] if report.error else [])])
    return Ended(exit_status(report, strict=False, signal_number=None), said)


async def verify(to: str) -> Ended:
    """As `uploader verify --deep`."""
    from uploader.cli.verify import verify_status, verify_summary  # noqa: PLC0415

    try:
        report = await api.verify(to, deep=True)
    except UploaderError as error:
        return Ended(_status_of(error), str(error))
    return Ended(verify_status(report, None), "\n".join(verify_summary(report, 1.0)))


async def heal(source: object, to: str) -> Ended:
    """As `uploader heal`."""
    from uploader.cli.heal import heal_status, heal_summary  # noqa: PLC0415

    try:
        report = await api.heal(to, str(source))
    except UploaderError as error:
        return Ended(_status_of(error), str(error))
    return Ended(heal_status(report, None), "\n".join(heal_summary(report, 1.0)))


def _status_of(error: UploaderError) -> int:
    return 2 if isinstance(error, InputError) else 3 if isinstance(error, UnusableError) else 1


def a_graph(folder: Path) -> Path:
    """Two packages, one of which needs the other."""
    needs: dict[str, list[str]] = {"app": ["lib"], "lib": []}
    folder.mkdir(parents=True, exist_ok=True)
    for key in needs:
        (folder / f"{key}.tar").write_bytes(a_tar(key))
    return write_packages(folder, needs, keys={key: {"blob": {"path": f"{key}.tar"}} for key in needs})


@asynccontextmanager
async def says(first: bytes, rest: Callable[[], Iterator[bytes]] | None = None) -> AsyncIterator[str]:
    """A server that answers every request with `first`, and then `rest` as long as it is listened to.

    Gives its `HOST:PORT`; it closes each connection afterwards.
    """

    async def serve(client: ByteStream) -> None:
        async with client:
            try:
                await client.receive()
                await client.send(first)
                for piece in rest() if rest else ():
                    await client.send(piece)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield f"127.0.0.1:{listener.extra_attributes[SocketAttribute.local_port]()}"
        group.cancel_scope.cancel()
