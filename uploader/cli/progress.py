"""Showing a push while it runs: a live line, plain lines for logs, or one JSON object per event for programs."""

from __future__ import annotations

import json
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

import anyio

from uploader.cli.streams import in_one_line
from uploader.cli.tally import Tally
from uploader.errors import UploaderError
from uploader.model.events import (
    BlobStarted,
    BytesSent,
    Event,
    LayerSettled,
    ManifestSettled,
    Note,
    PushStarted,
    Retried,
    Sending,
    Waiting,
)
from uploader.model.outcome import Failed, Tagged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.live import Live

    from uploader.model.events import Emit

Style = Literal["auto", "bar", "plain", "json", "none"]

_LIVE_SECONDS = 0.1
_PLAIN_SECONDS = 10.0


class _Show(Protocol):
    """One way to show it."""

    def take(self, event: Event) -> None:
        """An event."""

    def tick(self) -> float:
        """Show where it stands; returns after how many seconds to do it again."""

    def close(self) -> None:
        """Take away what is not to stay."""


@asynccontextmanager
async def showing(style: Style, stream: TextIO) -> AsyncIterator[Emit]:
    """Show the events that are handed to the function given, in this style, on `stream` (standard error)."""
    show = _make(style, stream)
    failure: UploaderError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_tick, show)
        try:
            yield show.take
        except UploaderError as error:  # out of the task group, which would make a group of it
            failure = error
        finally:
            group.cancel_scope.cancel()
            show.close()
    if failure is not None:
        raise failure


async def _tick(show: _Show) -> None:
    while True:  # noqa: ASYNC110 (it is time that is waited for)
        await anyio.sleep(show.tick())


def _make(style: Style, stream: TextIO) -> _Show:
    if style == "auto":
        style = "bar" if stream.isatty() else "plain"
    match style:
        case "bar":
            return _Bar(stream)
        case "json":
            return _Json(stream)
        case "plain":
            return _Plain(stream)
        case _:
            return _Nothing()


class _Nothing:
    def take(self, event: Event) -> None:
        pass

    def tick(self) -> float:
        return 3600.0

    def close(self) -> None:
        pass


class _Plain:
    """A line for what is worth one, and from time to time where it stands."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tally = Tally(time.monotonic())
        self._ticked = False

    def take(self, event: Event) -> None:
        if (line := self._tally.take(event, time.monotonic())) is not None:
            print(in_one_line(line), file=self._stream, flush=True)

    def tick(self) -> float:
        if self._ticked:
            print(self._tally.line(time.monotonic()), file=self._stream, flush=True)
        self._ticked = True
        return _PLAIN_SECONDS

    def close(self) -> None:
        pass


class _Bar:
    """One line that is written again and again; what is worth a line of its own stays above it."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415  (only a terminal needs it)
        from rich.live import Live  # noqa: PLC0415

        self._tally = Tally(time.monotonic())
        self._console = Console(file=stream, highlight=False)
        self._live: Live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def take(self, event: Event) -> None:
        line = self._tally.take(event, time.monotonic())
        if line is not None and not isinstance(event, Waiting):
            self._console.print(in_one_line(line), markup=False)

    def tick(self) -> float:
        from rich.text import Text  # noqa: PLC0415

        text = Text(self._tally.line(time.monotonic()), no_wrap=True, overflow="ellipsis")
        self._live.update(text, refresh=True)
        return _LIVE_SECONDS

    def close(self) -> None:
        self._live.stop()


class _Json:
    """One JSON object a line, with the time in seconds since 1970; the bytes that were sent once a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bytes = 0
        self._said = 0

    def take(self, event: Event) -> None:
        if isinstance(event, BytesSent):
            self._bytes += event.count
        else:
            self._write(as_json(event))

    def tick(self) -> float:
        if self._bytes != self._said:
            self._said = self._bytes
            self._write({"event": "bytes-sent", "total": self._bytes})
        return 1.0

    def close(self) -> None:
        self.tick()

    def _write(self, fields: dict[str, object]) -> None:
        print(json.dumps({"time": round(time.time(), 3), **fields}, ensure_ascii=False), file=self._stream, flush=True)


def as_json(event: Event) -> dict[str, object]:
    """An event as a JSON object."""
    match event:
        case PushStarted(packages, of):
            return {"event": "push-started", "packages": packages, "of": of}
        case BlobStarted(package):
            return {"event": "blob-started", "id": package.id}
        case Sending(package, size):
            return {"event": "sending", "id": package.id, "size": size}
        case LayerSettled(package, outcome):
            if isinstance(outcome, Failed):
                return {"event": "failed", "id": package.id, "stage": outcome.stage, "message": str(outcome.error)}
            digest = str(outcome.layer.descriptor.digest)
            return {"event": "layer-done", "id": package.id, "how": outcome.how, "digest": digest}
        case ManifestSettled(package, Tagged() as tagged):
            how = "pushed" if tagged.pushed else "present"
            return {"event": how, "id": package.id, "tag": package.tag, "digest": str(tagged.manifest.digest)}
        case ManifestSettled(package, outcome):
            error = outcome.error if isinstance(outcome, Failed) else ""
            return {"event": "failed", "id": package.id, "stage": "manifest", "message": str(error)}
        case BytesSent(count):
            return {"event": "bytes-sent", "count": count}
        case Waiting(host, seconds, reason):
            return {"event": "waiting", "host": host, "seconds": seconds, "reason": reason}
        case Retried(subject, reason, seconds):
            return {"event": "retried", "subject": subject, "reason": reason, "seconds": round(seconds, 3)}
        case Note(text):
            return {"event": "note", "text": text}


def default_stream() -> TextIO:
    """Where people are spoken to."""
    return sys.stderr
