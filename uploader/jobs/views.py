"""What can be asked of a job store, as queries; none of them changes anything."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, or_, select

from uploader.jobs.base import STATES, Attempt, Job, JobEvent, Page, Stats, Worker
from uploader.jobs.tables import READY, attempts, events, jobs, leases, reports, workers

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Row, Select

    from uploader.jobs.base import JobId, State
    from uploader.jobs.database import Transaction

JOB_COLUMNS: Final = tuple(jobs.c)
_COUNTS: Final = select(jobs.c.state, func.count()).group_by(jobs.c.state)
_WITH_LEASE: Final = (
    select(*JOB_COLUMNS, leases.c.token, leases.c.cancel, leases.c.progress.label("newer"))
    .select_from(jobs)
    .outerjoin(leases, leases.c.job == jobs.c.id)
)


def due(now: float | ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a ready job's wait is over: a clock that shows less than when it began was put back."""
    return or_(jobs.c.run_at <= now, jobs.c.waits_since > now)


def job_of(row: Row[*tuple[Any, ...]], now: float) -> Job:
    """A row of `JOB_COLUMNS`, with or without what its lease says."""
    waits = row.state == "ready" and not (row.run_at <= now or row.waits_since > now)
    values = dict(row._mapping)  # noqa: SLF001 - its public name
    cancel, newer = values.pop("cancel", None), values.pop("newer", None)
    values.pop("token", None)
    values.pop("waits_since")
    if newer is not None:
        values["progress"] = newer
    if waits:
        values["state"] = "scheduled"
    return Job(**values, cancel_requested=cancel is not None)


def get(tx: Transaction, job: JobId) -> Job | None:
    """The job, if there is one."""
    row = tx.connection.execute(_WITH_LEASE.where(jobs.c.id == job)).one_or_none()
    return None if row is None else job_of(row, tx.now)


def page(tx: Transaction, state: State | None, limit: int, cursor: str | None) -> Page:
    """One more job than asked for tells whether there is another page."""
    query = _WITH_LEASE.order_by(jobs.c.id.desc()).limit(limit + 1)
    if state is not None:
        query = _in_state(query, state, tx.now)
    if cursor is not None:
        query = query.where(jobs.c.id < cursor)
    found = [job_of(row, tx.now) for row in tx.connection.execute(query)]
    return Page(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None)


def _in_state(query: Select[Any], state: State, now: float) -> Select[Any]:
    match state:
        case "ready":
            return query.where(jobs.c.state == "ready", due(now))
        case "scheduled":
            return query.where(jobs.c.state == "ready", ~due(now))
        case _:
            return query.where(jobs.c.state == state)


def history(tx: Transaction, job: JobId) -> tuple[Attempt, ...]:
    """Every lease of the job."""
    columns = [attempts.c[name] for name in ("number", "worker", "started", "ended", "outcome", "error")]
    query = select(*columns).where(attempts.c.job == job).order_by(attempts.c.number)
    return tuple(Attempt(*row) for row in tx.connection.execute(query))


def report(tx: Transaction, job: JobId) -> bytes | None:
    """The report, still compressed."""
    content: bytes | None = tx.connection.scalar(select(reports.c.content).where(reports.c.job == job))
    return content


def decompressed(content: bytes | None) -> bytes | None:
    """A report as it was given."""
    return None if content is None else zlib.decompress(content)


def stats(tx: Transaction) -> Stats:
    """Counts, and the age of the oldest job that could run; what is not ready is only looked at in the index."""
    counts = {state: int(count) for state, count in tx.connection.execute(_COUNTS)}
    due_now, oldest = tx.connection.execute(
        select(func.count(), func.min(jobs.c.run_at)).where(READY, due(tx.now))
    ).one()
    waiting = counts.get("ready", 0) - due_now
    counts |= {"ready": due_now, "scheduled": max(0, waiting)}  # jobs may have come in between the two
    waits = 0.0 if oldest is None else max(0.0, tx.now - oldest)
    at_work = tx.connection.scalar(select(func.count()).select_from(workers)) or 0
    return Stats({state: counts.get(state, 0) for state in STATES}, waits, at_work)


def all_workers(tx: Transaction) -> tuple[Worker, ...]:
    """The processes that have the store open, with how many leases each holds."""
    held = select(func.count()).where(leases.c.worker == workers.c.id).scalar_subquery()
    columns = [workers.c[name] for name in ("id", "name", "host", "pid", "started", "seen")]
    query = select(*columns, held).order_by(workers.c.started, workers.c.id)
    return tuple(Worker(*tuple(row)) for row in tx.connection.execute(query))


def events_after(tx: Transaction, job: JobId | None, after: int, limit: int) -> tuple[JobEvent, ...]:
    """Some events, oldest first."""
    columns = [events.c[name] for name in ("seq", "job", "at", "kind", "detail")]
    query = select(*columns).where(events.c.seq > after).order_by(events.c.seq).limit(limit)
    if job is not None:
        query = query.where(events.c.job == job)
    return tuple(JobEvent(*row) for row in tx.connection.execute(query))
