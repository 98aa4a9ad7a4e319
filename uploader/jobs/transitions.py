"""Every change of a job, as SQL around the decisions of `machine.py`; each is one transaction.

The job's row is locked before it is changed (SQLite has one writer anyhow), and every change says in its WHERE
from where it may come. Rows are locked in the order of ids, jobs before leases.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import Boolean, Double, Integer, bindparam, delete, func, insert, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from uploader.errors import JobStoreError, KeyTakenError
from uploader.jobs.base import FINAL, SUSPECT_LOSSES, JobId, Lease, Submitted, Token
from uploader.jobs.machine import Ending, Lost, Next, Standing, after, may_have_led_to
from uploader.jobs.tables import LIVE, READY, FreeText, attempts, jobs, leases, messages, reports
from uploader.jobs.views import JOB_COLUMNS, due, job_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection, Row, Table

    from uploader.jobs.base import Cancelled, Ended, Heartbeat, JobSpec, Renewed
    from uploader.jobs.database import Transaction

_SUBMIT_TRIES: Final = 50
_SQLITE: Final = "sqlite"

# Statements of which a lease's life consists; made once, for making them costs as much as running them.
_NEXT_READY: Final = (
    select(jobs.c.id, jobs.c.losses)
    .where(READY, due(bindparam("now", type_=Double)))
    .order_by(jobs.c.priority.desc(), jobs.c.run_at, jobs.c.id)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
)
_NEXT_READY_SQLITE: Final = text(  # the same; left to itself, SQLite would sort all that wait, for each lease
    "SELECT id, losses FROM uploader_jobs INDEXED BY uploader_jobs_ready WHERE state = 'ready' "
    "AND (run_at <= :now OR waits_since > :now) ORDER BY priority DESC, run_at, id LIMIT :most"
)
_TAKE: Final = (
    update(jobs)
    .where(jobs.c.id.in_(bindparam("ready", expanding=True)), jobs.c.state == "ready")
    .values(
        state="leased",
        attempts=jobs.c.attempts + 1,
        leases=jobs.c.leases + 1,
        started=func.coalesce(jobs.c.started, bindparam("now", type_=Double)),
    )
    .returning(*JOB_COLUMNS)
)
_KEEP_LEASE: Final = insert(leases)
_KEEP_ATTEMPT: Final = insert(attempts)
_BEAT: Final = (
    update(leases)
    .where(leases.c.token == bindparam("of_token"))
    .values(
        beat=leases.c.beat + 1,
        ttl=bindparam("new_ttl"),
        progress=func.coalesce(bindparam("new_progress", type_=FreeText), leases.c.progress),
        settled=or_(leases.c.settled, bindparam("new_settled", type_=Boolean)),
    )
)
_LOCK_JOB: Final = (
    select(jobs.c.attempts, jobs.c.max_attempts, jobs.c.losses, jobs.c.leases, jobs.c.error)
    .where(jobs.c.id == bindparam("job"))
    .with_for_update()
)
_LAST_BEAT: Final = bindparam("last_beat", type_=Integer)
_END_LEASE: Final = (
    delete(leases)
    .where(leases.c.job == bindparam("job"), leases.c.token == bindparam("token"))
    .where(or_(_LAST_BEAT.is_(None), leases.c.beat == _LAST_BEAT))
    .returning(leases.c.settled, leases.c.cancel, leases.c.progress)
)
_LEAVE_JOB: Final = (
    update(jobs)
    .where(jobs.c.id == bindparam("of_job"), jobs.c.state == "leased")
    .values(
        state=bindparam("new_state"),
        attempts=bindparam("new_attempts"),
        losses=bindparam("new_losses"),
        progress=bindparam("new_progress"),
        error=bindparam("new_error"),
        finished=bindparam("new_finished"),
        run_at=bindparam("new_run_at"),
        waits_since=bindparam("now"),
    )
)
_END_ATTEMPT: Final = (
    update(attempts)
    .where(attempts.c.job == bindparam("of_job"), attempts.c.number == bindparam("of_number"))
    .values(ended=bindparam("now"), outcome=bindparam("new_outcome"), error=bindparam("new_error"))
)


def submit(tx: Transaction, specs: Mapping[JobId, JobSpec]) -> list[Submitted]:
    """Insert the jobs, save those whose key has a live one, until each is in or has found the one that is."""
    answers: dict[JobId, Submitted] = {}
    for _ in range(_SUBMIT_TRIES):
        rest = {job: spec for job, spec in specs.items() if job not in answers}
        if not rest:
            return [answers[job] for job in specs]
        for job in _insert(tx, rest):
            answers[job] = Submitted(job, created=True)
        live = _live(tx.connection, {spec.key for job, spec in rest.items() if job not in answers and spec.key})
        for job, spec in rest.items():
            if job not in answers and spec.key and spec.key in live:  # else that became final between the statements
                found, payload = live[spec.key]
                if payload != spec.payload and found in specs:
                    raise KeyTakenError(
                        f"two jobs of this request have the key {spec.key[:100]!r} and differ in sources, destination "
                        "or options: choose another key for one of them"
                    )
                if payload != spec.payload:
                    raise KeyTakenError(
                        f"the key {spec.key[:100]!r} is that of job {found}, which has other sources, another "
                        "destination or other options: wait until that one has ended, or choose another key"
                    )
                answers[job] = Submitted(found, created=False)
    raise JobStoreError(
        f"submit {len(specs)} jobs: a job with the same key came and ended {_SUBMIT_TRIES} times meanwhile; try again",
        problem="unavailable",
    )


def take_in(tx: Transaction, message: str, specs: Mapping[JobId, JobSpec]) -> list[Submitted]:
    """Insert the jobs of a message; none where the same message came before, in whatever became of its jobs."""
    came = _upserting(tx.connection, messages).values(id=message, seen=tx.now)
    if tx.connection.scalar(came.on_conflict_do_nothing().returning(messages.c.id)) is None:
        tx.connection.execute(update(messages).where(messages.c.id == message).values(seen=tx.now))
        return []
    return submit(tx, specs)


def _insert(tx: Transaction, specs: Mapping[JobId, JobSpec]) -> list[JobId]:
    in_order = sorted(specs.items(), key=lambda pair: pair[1].key or "")  # so that two batches do not deadlock
    statement = (
        _upserting(tx.connection, jobs)
        .on_conflict_do_nothing(index_elements=[jobs.c.key], index_where=LIVE)
        .returning(jobs.c.id)
    )
    created = set(tx.connection.scalars(statement, [_new_row(job, spec, tx.now) for job, spec in in_order]))
    for job in specs:
        if job in created:
            tx.note(job, "submitted")
    return [JobId(job) for job in created]


def _new_row(job: JobId, spec: JobSpec, now: float) -> dict[str, object]:
    return {
        "id": job,
        "state": "ready",
        "payload": spec.payload,
        "key": spec.key,
        "priority": spec.priority,
        "attempts": 0,
        "max_attempts": spec.max_attempts,
        "leases": 0,
        "losses": 0,
        "created": now,
        "run_at": now,
        "waits_since": now,
    }


def _live(connection: Connection, keys: set[str]) -> dict[str, tuple[JobId, bytes]]:
    """The jobs that own these keys, with their payloads."""
    query = select(jobs.c.key, jobs.c.id, jobs.c.payload).where(LIVE, jobs.c.key.in_(keys))
    return {key: (JobId(job), payload) for key, job, payload in (connection.execute(query) if keys else ())}


def lease(
    tx: Transaction, worker: tuple[str, str], tokens: Sequence[Token], ttl: float, *, suspects: bool = True
) -> list[Lease]:
    """Lease up to as many jobs as there are tokens, to the worker of this id and name."""
    next_ready = _NEXT_READY_SQLITE if tx.connection.dialect.name == _SQLITE else _NEXT_READY
    line = tx.connection.execute(next_ready, {"now": tx.now, "most": len(tokens)}).all()
    alone = next((place for place, (_, losses) in enumerate(line) if losses >= SUSPECT_LOSSES), len(line))
    ready = [job for job, _ in line[: alone or int(suspects)]]
    if not ready:
        return []
    rows = tx.connection.execute(_TAKE, {"now": tx.now, "ready": ready})
    place = {job: index for index, job in enumerate(ready)}
    taken = [
        Lease(job_of(row, tx.now), token, ttl)
        for row, token in zip(sorted(rows, key=lambda row: place[row.id]), tokens, strict=False)
    ]
    _keep_leases(tx, taken, *worker)
    return taken


def _keep_leases(tx: Transaction, taken: Iterable[Lease], worker: str, name: str) -> None:
    held = [
        {"job": one.job.id, "token": one.token, "worker": worker, "ttl": one.ttl, "beat": 0, "settled": False}
        for one in taken
    ]
    begun = [
        {"job": one.job.id, "number": one.job.leases, "token": one.token, "worker": name, "started": tx.now}
        for one in taken
    ]
    tx.connection.execute(_KEEP_LEASE, held)
    tx.connection.execute(_KEEP_ATTEMPT, begun)
    for one in taken:
        tx.note(one.job.id, "leased", name)


def renew(tx: Transaction, heartbeats: Sequence[Heartbeat]) -> list[Renewed]:
    """Change the sign of life of each lease that is still there."""
    held = {
        row.token: row
        for row in tx.connection.execute(
            select(leases.c.token, leases.c.cancel, leases.c.progress)
            .where(leases.c.token.in_([beat.lease.token for beat in heartbeats]))
            .order_by(leases.c.job)
            .with_for_update()
        )
    }
    beats = {beat.lease.token: beat for beat in heartbeats if beat.lease.token in held}
    if beats:
        tx.connection.execute(_BEAT, [_beat_values(beat) for beat in beats.values()])
    for token, beat in beats.items():
        if beat.progress is not None and beat.progress != held[token].progress:
            tx.note(beat.lease.job.id, "progress", beat.progress)
    return [_renewed(held.get(beat.lease.token)) for beat in heartbeats]


def _beat_values(beat: Heartbeat) -> dict[str, object]:
    return {
        "of_token": beat.lease.token,
        "new_ttl": beat.lease.ttl,
        "new_progress": beat.progress,
        "new_settled": beat.settled,
    }


def _renewed(row: Row[*tuple[Any, ...]] | None) -> Renewed:
    if row is None:
        return "lost"
    return "held" if row.cancel is None else "cancel-requested"


def end(
    tx: Transaction,
    lease: tuple[str, str],
    ending: Ending,
    *,
    error: str | None = None,
    report: bytes | None = None,
    settled: bool = False,
    progress: str | None = None,
    beat: int | None = None,
) -> Ended | Literal["lost"]:
    """End the lease (job, token) if it is still there, and with `beat` only if it gave no further sign of life."""
    job, token = lease
    row = tx.connection.execute(_LOCK_JOB, {"job": job}).one_or_none()
    held = tx.connection.execute(_END_LEASE, {"job": job, "token": token, "last_beat": beat}).one_or_none()
    if row is None or held is None:
        return _ended_before(tx.connection, job, token, ending)
    settled = held.settled or settled
    what = after(ending, Standing(row.attempts, row.max_attempts, row.losses, settled, held.cancel is not None))
    text = error if error is not None else _why(ending, held.cancel, what)
    if progress is not None and progress != held.progress:
        tx.note(job, "progress", progress)
    left = _left(what, tx.now) | {"new_progress": held.progress if progress is None else progress}
    why_it_waits = row.error if text is None and not what.final else text  # given back, for the reason of before
    tx.connection.execute(_LEAVE_JOB, left | {"of_job": job, "new_error": why_it_waits})
    outcome = "lost" if isinstance(ending, Lost) else what.ended
    ended = {"of_job": job, "of_number": row.leases, "now": tx.now, "new_outcome": outcome, "new_error": text}
    tx.connection.execute(_END_ATTEMPT, ended)
    if report is not None:
        _keep_report(tx.connection, job, report)
    _note_end(tx, job, ending, what, text)
    return what.ended


def _ended_before(connection: Connection, job: str, token: str, ending: Ending) -> Ended | Literal["lost"]:
    """What to answer to who does not hold the lease: it may be that the same holder ended it, and did not hear so."""
    ended = connection.scalar(select(attempts.c.outcome).where(attempts.c.job == job, attempts.c.token == token))
    return ended if ended is not None and may_have_led_to(ending, ended) else "lost"


def _why(ending: Ending, cancel: str | None, what: Next) -> str | None:
    if what.ended == "cancelled":
        return cancel or None
    if ending != Lost():
        return None
    often = f", {what.losses} times without getting anything done" if what.ended == "dead" else ""
    return f"the process that worked on it died, or gave no sign of life for too long{often}"


def _left(what: Next, now: float) -> dict[str, object]:
    return {
        "new_state": what.ended if what.final else "ready",
        "new_attempts": what.attempts,
        "new_losses": what.losses,
        "new_finished": now if what.final else None,
        "now": now,
        "new_run_at": now + what.delay,
    }


def _note_end(tx: Transaction, job: str, ending: Ending, what: Next, error: str | None) -> None:
    if isinstance(ending, Lost):
        tx.note(job, "lost", error or "")
    if not (isinstance(ending, Lost) and what.ended == "again"):
        tx.note(job, what.ended, error or "")


def _keep_report(connection: Connection, job: str, content: bytes) -> None:
    statement = _upserting(connection, reports)
    connection.execute(
        statement.on_conflict_do_update(index_elements=[reports.c.job], set_={"content": statement.excluded.content}),
        [{"job": job, "content": content}],
    )


def compressed(report: bytes) -> bytes:
    """A report as it is kept: they are long, and say the same again and again."""
    return zlib.compress(report, 1)


def cancel(tx: Transaction, job: JobId, reason: str) -> Cancelled:
    """End a job that waits; ask for the end of one that is leased."""
    state = tx.connection.scalar(select(jobs.c.state).where(jobs.c.id == job).with_for_update())
    if state is None:
        return "unknown"
    if state in FINAL:
        return "already-final"
    if state == "leased":
        asked = tx.connection.execute(
            update(leases).where(leases.c.job == job, leases.c.cancel.is_(None)).values(cancel=reason)
        )
        if asked.rowcount:
            tx.note(job, "cancel-requested", reason)
        return "requested"
    tx.connection.execute(
        update(jobs)
        .where(jobs.c.id == job, jobs.c.state == "ready")
        .values(state="cancelled", finished=tx.now, error=reason or None)
    )
    tx.note(job, "cancelled", reason)
    return "cancelled"


def retry(tx: Transaction, job: str) -> bool:
    """Make a job that did not succeed ready again, unless another has its key now."""
    values = {"state": "ready", "attempts": 0, "losses": 0, "run_at": tx.now, "waits_since": tx.now, "finished": None}
    try:
        with tx.connection.begin_nested():
            changed = tx.connection.execute(
                update(jobs).where(jobs.c.id == job, jobs.c.state.in_(["failed", "dead", "cancelled"])).values(values)
            )
    except IntegrityError:
        return False
    if changed.rowcount:
        tx.note(job, "retried")
    return bool(changed.rowcount)


def retry_dead(tx: Transaction, beyond: str, limit: int) -> tuple[int, str | None]:
    """The same for some dead jobs after the id `beyond`: how many, and the last id, None when there were no more."""
    dead = tx.connection.scalars(
        select(jobs.c.id).where(jobs.c.state == "dead", jobs.c.id > beyond).order_by(jobs.c.id).limit(limit)
    ).all()
    return sum(retry(tx, job) for job in dead), dead[-1] if dead else None


def _upserting(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if connection.dialect.name == _SQLITE else postgresql.insert(table)
