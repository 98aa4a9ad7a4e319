"""One push from beginning to end: plan, engine, report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from uploader.errors import InputError, UnusableError
from uploader.graph import engine
from uploader.graph.plan import PackageOutcome, Plan
from uploader.model.events import Note, PushStarted
from uploader.model.outcome import Interrupted, Tagged, Traffic
from uploader.model.package import Blob, Package, PackageGraph
from uploader.service.push import RepositoryPusher
from uploader.service.report import Frame, Report, make_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import anyio

    from uploader.model.events import Emit
    from uploader.model.package import PackageId
    from uploader.record import Record
    from uploader.service.contents import Contents
    from uploader.service.destination import Destination

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
    created: str
    force: bool
    strict: bool


async def run_push(
    task: Task,
    opened: AbstractAsyncContextManager[Destination],
    contents: Contents,
    record: Record,
    *,
    emit: Emit,
    stop: anyio.Event,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Report:
    """Push, and report; raises InputError when `strict` refuses the graph. Failures are in the report."""
    if task.strict:
        _refuse_unknown_ids(task)
    started = now()
    plan = Plan(task.graph, task.selected, rank=_largest_first)
    emit(PushStarted(len(task.selected), len(task.graph)))
    for note in task.notes:
        emit(Note(note))
    traffic = Traffic()
    unusable: UnusableError | None = None
    lost_tags = False
    try:
        async with opened as destination:
            pusher = RepositoryPusher(
                destination,
                task.where,
                contents=contents,
                record=record,
                emit=emit,
                created=task.created,
                force=task.force,
            )
            try:
                await pusher.prepare()
                unusable = await engine.run(plan, pusher, jobs=task.jobs, emit=emit, stop=stop)
            except UnusableError as error:
                unusable = error
            traffic = destination.traffic()
    except UnusableError as error:  # the destination could not be opened, or not be closed with all its tags
        unusable, lost_tags = error, True
    if not plan.finished and unusable is not None:
        plan.interrupt(str(unusable))
    outcomes = plan.outcomes()
    if lost_tags:
        outcomes = (_without_tag(outcome, str(unusable)) for outcome in outcomes)
    problem = (f"the local record was not used: {record.problem}",) if record.problem else ()
    frame = Frame(
        task.source,
        task.where,
        started,
        now(),
        task.notes + problem,
        str(unusable) if unusable else None,
    )
    return make_report(frame, outcomes, traffic)


def _refuse_unknown_ids(task: Task) -> None:
    for package in task.graph.packages:
        unknown = [d for d in package.dependencies if d not in task.graph]
        if unknown and package.id in task.selected:
            raise InputError(
                f"package {package.id!r} depends on {unknown[0]!r}, which is not in the graph; --strict allows no gap"
            )


def _largest_first(package: Package) -> float:
    """Large blobs first, so that the last one running is a short one."""
    match package.content:
        case Blob(size=int() as size):
            return -size
        case Blob(path=path):
            try:
                return -path.stat().st_size
            except (OSError, ValueError):
                return 0.0
        case _:
            return -_GUESSED_TREE_BYTES


def _without_tag(outcome: PackageOutcome, why: str) -> PackageOutcome:
    if isinstance(outcome.manifest, Tagged) and outcome.manifest.pushed:
        return replace(outcome, manifest=Interrupted(why))
    return outcome
