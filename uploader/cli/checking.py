"""What `verify`, `heal` and `index` have in common: options that are a push's, and progress."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import click

from uploader.cli.push import push
from uploader.cli.settings import NOT_IN_FILE, read_config

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from uploader.cli.progress import Style

CHECKING: Final = (
    "select",
    "only",
    "exclude",
    "private",
    "without_build_dependencies",
    "spack_root",
    "jobs",
    "limit_rate",
    "limit_requests",
    "report",
    "progress",
    "ca_file",
    "temp_dir",
    "state",
    "auth_realms",
)
"""The options of a push that mean the same here."""

_LIVE_SECONDS: Final = 0.1
_PLAIN_SECONDS: Final = 10.0
_JSON_SECONDS: Final = 1.0
_MOST_NAMES: Final = 3


def shared_parameters(names: Collection[str]) -> list[click.Parameter]:
    """These options of `push`, and --config."""
    return [*(parameter for parameter in push.params if parameter.name in names), _config_option()]


def _config_option() -> click.Option:
    return click.Option(
        ["--config"],
        type=click.Path(path_type=Path),
        envvar="UPLOADER_CONFIG",
        is_eager=True,
        expose_value=False,
        callback=_load,
        metavar="FILE",
        help="Read settings from a TOML file, which may be that of a push.",
    )


def _load(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Settings that only a push has are passed over; unknown ones are errors."""
    if path is None:
        return
    ours = {_spelled(parameter): parameter.name for parameter in context.command.params if parameter.name}
    known = {*ours, *(_spelled(parameter) for parameter in push.params)} - NOT_IN_FILE
    settings = read_config(path, known)
    context.default_map = {name: settings[key] for key, name in ours.items() if key in settings}


def _spelled(parameter: click.Parameter) -> str:
    return max(parameter.opts, key=len).removeprefix("--").replace("-", "_")


class TagProgress:
    """Says how many tags are done, now and then. Mutable: when it was said last, and whether a line stands open."""

    def __init__(self, style: Style, stream: TextIO) -> None:
        if style == "auto":
            style = "bar" if stream.isatty() else "plain"
        self._style = style
        self._stream = stream
        self._open = False
        self._pause = {"bar": _LIVE_SECONDS, "json": _JSON_SECONDS}.get(style, _PLAIN_SECONDS)
        self._next = time.monotonic() + self._pause

    def show(self, done: int, total: int, damaged: int) -> None:
        """Say it, unless that was just said."""
        if self._style == "none" or (now := time.monotonic()) < self._next:
            return
        self._next = now + self._pause
        if self._style == "json":
            fields = {"event": "verified", "done": done, "of": total, "damaged": damaged}
            print(json.dumps({"time": round(time.time(), 3), **fields}), file=self._stream, flush=True)
            return
        text = f"{done}/{total} tags" + (f", {damaged} damaged" if damaged else "")
        self._open = self._style == "bar"
        print(f"\r{text}\x1b[K" if self._open else text, end="" if self._open else "\n", file=self._stream, flush=True)

    def close(self) -> None:
        """Take away what is not to stay."""
        if self._open:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


def some(names: Iterable[str]) -> str:
    """The first few of them."""
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - _MOST_NAMES} more" if len(unique) > _MOST_NAMES else ""
    return ", ".join(unique[:_MOST_NAMES]) + more
