"""One push from beginning to end: plan, engine, report."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from uploader.errors import InputError, RegistryError, UnusableError
from uploader.graph import engine
from uploader.graph.plan import PackageOutcome, Plan
from uploader.graph.ranking import resumed, spread
from uploader.model.events import Note, PushStarted
from uploader.model.outcome import Interrupted, Tagged, Traffic
from uploader.model.package import Blob, Package, PackageGraph
from uploader.service.push import PushRules, RepositoryPusher
from uploader.service.rehearsal import Rehearsal
from uploader.service.report import Frame, IndexEntry, Report, SkippedTag, make_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from uploader.model.events import Emit
    from uploader.model.package import PackageId
    from uploader.record import Record
    from uploader.service.base_images import BaseSource
    from uploader.service.contents import Contents
    from uploader.service.destination import Destination
    from uploader.service.images import ImageMaker
    from uploader.service.uploads import RepositoryUploads

_GUESSED_TREE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Task:
    """What to push, and where: `where` is the repository's name, `source` and `notes` are for the report."""

    graph: PackageGraph
    selected: frozenset[PackageId]
    where: str
    source: tuple[str, ...]
    notes: tuple[str, ...]
    jobs: int
    images: ImageMaker
    force: bool
    strict: bool
    update_index: bool = False
    base: BaseSource | None = None
    resumed: bool = False


async def run_push(
    task: Task,
    opened: AbstractAsyncContextManager[Destination],
    contents: Contents,
    record: Record,
    *,
    emit: Emit,
    stop: anyio.Event,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    uploads: RepositoryUploads | None = None,
) -> Report:
    """Push, and report; raises InputError when `strict` refuses the graph. Failures are in the report."""
    if task.strict:
        _refuse_unknown_ids(task)
    started = now()
    known = frozenset() if task.force else record.tags(task.where)
    plan = await anyio.to_thread.run_sync(_plan, task, known)
    emit(PushStarted(_to_be_pushed(task), len(task.graph)))
    for note in task.notes:
        emit(Note(note))
    traffic = Traffic()
    unusable: UnusableError | None = None
    index: IndexEntry | None = None
    pusher_notes: tuple[str, ...] = ()
    lost_tags = False
    try:
        async with opened as destination:
            pusher = RepositoryPusher(
                destination,
                task.where,
                contents=contents,
                record=record,
                emit=emit,
                images=task.images,
                rules=PushRules(task.force, remembers=not isinstance(destination, Rehearsal), resumed=task.resumed),
                uploads=uploads,
            )
            unusable = await _prepare(task, destination, pusher, stop)
            if unusable is None:
                unusable = await engine.run(plan, pusher, jobs=task.jobs, emit=emit, stop=stop)
            if task.update_index and unusable is None and not stop.is_set():
                index = await _update_index(task, destination, plan)
            traffic = destination.traffic()
            pusher_notes = pusher.notes()
            for note in pusher_notes:
                emit(Note(note))
    except UnusableError as error:  # the destination could not be opened, or not be closed with all its tags
        unusable, lost_tags = error, True
    if not plan.finished and unusable is not None:
        plan.interrupt(str(unusable))
    outcomes = plan.outcomes()
    if lost_tags:
        outcomes = (_without_tag(outcome, str(unusable)) for outcome in outcomes)
    record.flush()
    if record.problem:
        emit(Note(record.problem))
    notes = [*task.notes, *([record.problem] if record.problem else []), *pusher_notes]
    frame = Frame(
        task.source,
        task.where,
        started,
        now(),
        tuple(notes),
        str(unusable) if unusable else None,
        index,
    )
    return make_report(frame, outcomes, traffic)


async def _prepare(
    task: Task, destination: Destination, pusher: RepositoryPusher, stop: anyio.Event
) -> UnusableError | None:
    """Learn of the repository, unless the push is stopped first; gives the error that ends the push."""
    problem: UnusableError | None = None

    async def give_up_on_stop() -> None:
        await stop.wait()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(give_up_on_stop)
        try:
            await pusher.prepare()
            if task.base is not None:
                await task.base.bring(task.images.bases, destination, pusher.send_base_layer)
        except UnusableError as error:
            problem = error
        group.cancel_scope.cancel()
    return problem


async def _update_index(task: Task, destination: Destination, plan: Plan) -> IndexEntry | None:
    """Merge what is tagged now into the Spack index; a failure loses nothing, and is said."""
    from uploader.service.spack_index import SpackIndex  # noqa: PLC0415  (brings what only Spack stores need)
    from uploader.sources.spack.index import index_of_formats  # noqa: PLC0415

    tagged = [outcome.package.id for outcome in plan.outcomes() if isinstance(outcome.manifest, Tagged)]
    try:
        found = await SpackIndex(destination, task.where).merge(index_of_formats(task.images.formats, tagged))
    except (RegistryError, InputError) as error:
        return IndexEntry("failed", error=str(error))
    if found is None:
        return None
    skipped = tuple(SkippedTag(tag, why) for tag, why in sorted(found.skipped.items()))
    return IndexEntry("written" if found.written else "present", str(found.digest), found.specs, skipped)


def _to_be_pushed(task: Task) -> int:
    return sum(_is_pushed(task, package) for package in task.graph.packages)


def _is_pushed(task: Task, package: Package) -> bool:
    return package.id in task.selected and package.absence is None


def _refuse_unknown_ids(task: Task) -> None:
    """Of any package that a selected one needs, however far down: each would be a gap."""
    needed = set(task.selected)
    for package in reversed(task.graph.packages):  # dependents first, so one pass is enough
        unknown = [d for d in package.dependencies if d not in task.graph]
        if unknown and package.id in needed:
            raise InputError(
                f"package {package.id!r} depends on {unknown[0]!r}, which is not in the graph; --strict allows no gap"
            )
        if package.id in needed:
            needed.update(package.dependencies)


def _plan(task: Task, known: frozenset[str]) -> Plan:
    """The plan; `known` are the tags that an earlier push left in the repository, as the record has it."""
    rank = spread(task.graph, task.selected, _bytes_of, jobs=task.jobs)
    pushed = [package for package in task.graph.packages if _is_pushed(task, package)]
    there = {package.id for package in pushed if package.tag in known}
    return Plan(task.graph, task.selected, rank=resumed(task.graph, rank, pushed, there) if there else rank)


def _bytes_of(package: Package) -> int:
    """About how large its layer is; a tree is not walked for that."""
    match package.content:
        case Blob(size=int() as size):
            return size
        case Blob(path=path):
            with suppress(OSError, ValueError):
                return path.stat().st_size
            return 0
        case _:
            return _GUESSED_TREE_BYTES


def _without_tag(outcome: PackageOutcome, why: str) -> PackageOutcome:
    if isinstance(outcome.manifest, Tagged) and outcome.manifest.pushed:
        return replace(outcome, manifest=Interrupted(why))
    return outcome
