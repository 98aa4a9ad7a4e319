"""The product as a library: what the command line is a thin skin over."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import anyio
import anyio.to_thread

from uploader import wiring
from uploader.errors import StoppedError, UploaderError
from uploader.model.reference import Repository, parse_destination
from uploader.model.selection import Part, select
from uploader.service.batch import Task, run_push
from uploader.service.images import ImageMaker
from uploader.service.options import PushOptions
from uploader.service.rehearsal import rehearsed
from uploader.service.sharing import Beside
from uploader.sources.base import OpenFile, open_any, parse_source
from uploader.sources.merge import Merged, merge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from uploader.model.events import Emit, Event
    from uploader.model.package import PackageId
    from uploader.record import Record
    from uploader.service.allowed import Allowed
    from uploader.service.destination import Destination
    from uploader.service.heal import View
    from uploader.service.heal_report import HealReport
    from uploader.service.job_format import PushJob
    from uploader.service.report import Report
    from uploader.service.sharing import Shared
    from uploader.service.spack_index import IndexOutcome
    from uploader.service.verify import VerifyTask
    from uploader.service.verify_report import VerifyReport

_T = TypeVar("_T")


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
    true report, or with StoppedError while the sources are still read. Raises InputError when the input cannot be used;
    nothing was sent then. When the registry cannot be
    used at all, the report's `error` says so.
    """
    return await _run(sources, to, options or PushOptions(), emit, stop or anyio.Event(), rehearse=False)


async def plan(
    sources: str | Sequence[str],
    to: str,
    options: PushOptions | None = None,
    *,
    emit: Emit = _ignore,
    stop: anyio.Event | None = None,
) -> Report:
    """What `push` would do: the same report, with nothing sent. Raises, and is stopped, as `push`."""
    return await _run(sources, to, options or PushOptions(), emit, stop or anyio.Event(), rehearse=True)


async def verify(
    to: str,
    sources: str | Sequence[str] = (),
    options: PushOptions | None = None,
    *,
    deep: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
    stop: anyio.Event | None = None,
) -> VerifyReport:
    """Whether what the tags of `to` point at is there and agrees: every tag, or those of the packages of `sources`.

    Of the local record only what is known of the host is used: its pace and its limits. `deep` reads every blob, and
    hashes what it reads. `progress` is told how many tags are done, of how many, and how
    many are damaged. Raises InputError; when the registry cannot be used at all, the report's `error` says so.
    """
    from uploader.service.verify import run_verify, silent  # noqa: PLC0415  (a push needs none of it)

    options = options or PushOptions()
    reference = parse_destination(to)
    stop = stop or anyio.Event()
    task, _ = await _what_to_verify(sources, to, options, stop, deep=deep)
    with wiring.open_record(options) as record:
        opened = wiring.open_destination(reference, options, emit=_ignore, read_only=True, record=record)
        task = replace(task, notes=(*task.notes, record.problem)) if record.problem else task
        return await run_verify(task, opened, stop=stop, progress=progress or silent)


async def heal(
    to: str,
    sources: str | Sequence[str] = (),
    options: PushOptions | None = None,
    *,
    deep: bool = False,
    dry_run: bool = False,
    emit: Emit = _ignore,
    progress: Callable[[int, int, int], None] | None = None,
    stop: anyio.Event | None = None,
) -> HealReport:
    """Complete the manifests of `to` whose missing layers are there now; with `sources`, push what is gone or damaged.

    `options` are those of the push that filled it, so that what is made anew is the same. `dry_run` writes nothing.
    Raises as `verify` does.
    """
    from uploader.service.heal import HealTask, run_heal  # noqa: PLC0415  (as in `verify`)
    from uploader.service.verify import silent  # noqa: PLC0415

    options = options or PushOptions()
    stop = stop or anyio.Event()
    reference = parse_destination(to)
    task, loaded = await _what_to_verify(sources, to, options, stop, deep=deep)

    with wiring.open_record(options) as record:

        async def push_again(view: View) -> Report:
            mend = _Mend(record, view, *loaded) if loaded else None
            return await _run(sources, to, options, emit, stop, rehearse=dry_run, mend=mend)

        def opened() -> AbstractAsyncContextManager[Destination]:
            return wiring.open_destination(reference, options, emit=emit, record=record)

        healing = HealTask(replace(task, tags=None), push_again if loaded else None, dry_run)
        return await run_heal(healing, opened, stop=stop, progress=progress or silent)


async def push_beside(
    job: PushJob,
    shared: Shared,
    allowed: Allowed,
    defaults: PushOptions,
    *,
    emit: Emit,
    stop: anyio.Event,
    before_write: Callable[[], None] = lambda: None,
    resumed: bool = False,
) -> Report:
    """One push of many in this process, with what they share; reads and writes only what is allowed.

    `before_write` is called before each request that writes to a registry, and may raise UnusableError. `resumed`
    says that another try may have left something, which is then asked about.
    """
    job = await anyio.to_thread.run_sync(allowed.admit, job)
    options = job.push_options(defaults)
    return await _run(
        job.sources, job.to, options, emit, stop, rehearse=False, beside=Beside(shared, allowed, before_write, resumed)
    )


@dataclass(frozen=True, slots=True)
class _Mend:
    """A push that heals: what it goes to is seen through `view`; its record is open, and its source loaded, already."""

    record: Record
    view: View
    merged: Merged
    selected: frozenset[PackageId]


async def rebuild_index(
    to: str, options: PushOptions | None = None, *, stop: anyio.Event | None = None
) -> IndexOutcome | None:
    """Make the index of the Spack build cache at `to` anew from its tags; None when nothing there is a spec.

    Raises InputError, UnusableError (also where nothing is tagged at all), and RegistryError where the index cannot be
    read or written.
    """
    from uploader.service.spack_index import SpackIndex  # noqa: PLC0415

    reference = parse_destination(to)

    options = options or PushOptions()

    async def work() -> IndexOutcome | None:
        with wiring.open_record(options) as record:
            async with wiring.open_destination(reference, options, emit=_ignore, record=record) as destination:
                return await SpackIndex(destination, str(reference)).rebuild()

    return await _unless_stopped(stop or anyio.Event(), work)


async def _run(
    sources: str | Sequence[str],
    to: str,
    options: PushOptions,
    emit: Emit,
    stop: anyio.Event,
    *,
    rehearse: bool,
    beside: Beside | None = None,
    mend: _Mend | None = None,
) -> Report:
    names = (sources,) if isinstance(sources, str) else tuple(sources)
    reference = parse_destination(to)
    if mend is not None:
        merged, selected = mend.merged, mend.selected
    else:
        open_file = beside.allowed.open_file if beside else open_any
        merged, selected = await _unless_stopped(stop, partial(_load_in_thread, names, options, open_file))
    shared = beside.shared if beside else None
    base = wiring.open_base(options, emit=emit, shared=shared)
    platforms = {merged.graph[key].platform for key in selected}
    bases = await _unless_stopped(stop, partial(base.load, platforms)) if base else {}
    images = ImageMaker(wiring.created_at(options), bases, merged.formats)
    if beside is not None:
        await anyio.to_thread.run_sync(beside.allowed.check_contents, merged.graph.packages)
    with ExitStack() as stack:
        if shared is not None:
            record = shared.record
        else:  # never opened twice by one process: closing the one would end the locks of the other
            record = mend.record if mend else stack.enter_context(wiring.open_record(options))
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
            base=base,
            resumed=beside is not None and beside.resumed,
        )
        opened: AbstractAsyncContextManager[Destination] = wiring.open_destination(
            reference,
            options,
            emit=emit,
            shared=shared,
            before_write=beside.before_write if beside else None,
            record=record,
        )
        if mend is not None:
            opened = mend.view(opened)
        if rehearse:
            opened = rehearsed(opened)
        contents = wiring.make_contents(options, record, images, beside)
        uploads = stack.enter_context(shared.uploads(task.where)) if shared else None
        report = await run_push(task, opened, contents, record, emit=emit, stop=stop, uploads=uploads)
    if shared is not None and report.error is not None and isinstance(reference, Repository):
        shared.registries.log_in_anew(reference)
    return report


async def _what_to_verify(
    sources: str | Sequence[str], to: str, options: PushOptions, stop: anyio.Event, *, deep: bool
) -> tuple[VerifyTask, tuple[Merged, frozenset[PackageId]] | None]:
    """The task, and what was loaded from the sources, if there are any."""
    from uploader.service.verify import VerifyTask  # noqa: PLC0415

    names = (sources,) if isinstance(sources, str) else tuple(sources)
    where = str(parse_destination(to))
    if not names:
        return VerifyTask(where, deep=deep, at_once=options.jobs), None
    merged, selected = await _unless_stopped(stop, partial(_load_in_thread, names, options, open_any))
    packages = tuple(p for p in merged.graph.packages if p.id in selected and p.absence is None)
    task = VerifyTask(where, names, packages, (), deep=deep, at_once=options.jobs, notes=merged.notes)
    return task, (merged, selected)


def _load(
    names: tuple[str, ...], options: PushOptions, open_file: OpenFile = open_any
) -> tuple[Merged, frozenset[PackageId]]:
    merged = merge([wiring.open_source(parse_source(name), options, open_file).load() for name in names])
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


async def _load_in_thread(
    names: tuple[str, ...], options: PushOptions, open_file: OpenFile
) -> tuple[Merged, frozenset[PackageId]]:
    """A pipe that nobody writes to may be read for ever: the thread is left to itself when we are cancelled."""
    return await anyio.to_thread.run_sync(_load, names, options, open_file, abandon_on_cancel=True)


async def _unless_stopped(stop: anyio.Event, work: Callable[[], Awaitable[_T]]) -> _T:
    """The result of `work`; raises StoppedError when `stop` is set first."""
    results: list[_T] = []
    failure: UploaderError | None = None

    async def give_up() -> None:
        await stop.wait()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(give_up)
        try:
            results.append(await work())
        except UploaderError as error:  # out of the task group, which would make a group of it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results:
        raise StoppedError("stopped before anything was sent")
    return results[0]
