"""The product as a library: what the command line is a thin skin over."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import anyio
import anyio.to_thread

from uploader import wiring
from uploader.model.reference import parse_destination
from uploader.model.selection import Part, select
from uploader.service.batch import Task, run_push
from uploader.service.images import ImageMaker
from uploader.service.options import PushOptions
from uploader.service.rehearsal import rehearsed
from uploader.sources.base import parse_source
from uploader.sources.merge import Merged, merge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uploader.model.events import Emit, Event
    from uploader.model.package import PackageId
    from uploader.service.report import Report


def _ignore(event: Event) -> None:
    """Events go nowhere by default."""


async def push(
    sources: str | Sequence[str],
    to: str,
    options: PushOptions | None = None,
    *,
    emit: Emit = _ignore,
    stop: anyio.Event | None = None,
) -> Report:
    """Push the packages of `sources` to the destination `to`; the report says what became of each.

    Sources and destinations are written as on the command line. Setting `stop` ends the push within seconds, with a
    true report. Raises InputError when the input cannot be used; nothing was sent then. When the registry cannot be
    used at all, the report's `error` says so.
    """
    return await _run(sources, to, options or PushOptions(), emit, stop or anyio.Event(), rehearse=False)


async def plan(
    sources: str | Sequence[str], to: str, options: PushOptions | None = None, *, emit: Emit = _ignore
) -> Report:
    """What `push` would do: the same report, with nothing sent. Raises as `push` does."""
    return await _run(sources, to, options or PushOptions(), emit, anyio.Event(), rehearse=True)


async def _run(
    sources: str | Sequence[str],
    to: str,
    options: PushOptions,
    emit: Emit,
    stop: anyio.Event,
    *,
    rehearse: bool,
) -> Report:
    names = (sources,) if isinstance(sources, str) else tuple(sources)
    reference = parse_destination(to)
    merged, selected = await anyio.to_thread.run_sync(_load, names, options)
    images = ImageMaker(wiring.created_at(options), formats=merged.formats)
    with wiring.open_record(options) as record:
        task = Task(
            merged.graph,
            selected,
            where=str(reference),
            source=names,
            notes=merged.notes,
            jobs=options.jobs,
            images=images,
            force=options.force,
            strict=options.strict,
            update_index=options.update_index and not rehearse,
        )
        opened = wiring.open_destination(reference, options, emit=emit)
        if rehearse:
            opened = rehearsed(opened)
        return await run_push(task, opened, wiring.make_contents(options, record, images), record, emit=emit, stop=stop)


def _load(names: tuple[str, ...], options: PushOptions) -> tuple[Merged, frozenset[PackageId]]:
    merged = merge([wiring.open_source(parse_source(name), options).load() for name in names])
    merged.check_codec(options.codec)
    selected = select(
        merged.graph,
        options.select,
        cast("tuple[Part, ...]", options.only),
        options.exclude,
        default=merged.roots,
        companions=merged.companions,
    )
    return merged, selected
