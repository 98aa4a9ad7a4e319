"""What a store does for itself, as SQL: who has it open, whose leases are to be looked at, what is old."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, insert, select, update

from uploader.jobs.machine import Lost
from uploader.jobs.tables import attempts, events, facts, jobs, leases, messages, reports, workers
from uploader.jobs.transitions import end

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from uploader.jobs.database import Transaction

_CHECKED: Final = "checked"
_ROOM_BYTES: Final = 64 * 1024
_HELD: Final = (leases.c.job, leases.c.token, leases.c.ttl, leases.c.beat)


@dataclass(frozen=True, slots=True)
class Me:
    """This process, as the others see it; `machine` tells whose lock files it can look at."""

    id: str
    name: str
    host: str
    pid: int
    machine: str


@dataclass(frozen=True, slots=True)
class Held:
    """A lease, as much of it as a sweep needs."""

    job: str
    token: str
    ttl: float
    beat: int


@dataclass(frozen=True, slots=True)
class Other:
    """A process that is said to have the store open."""

    id: str
    machine: str
    seen: float


def seen(tx: Transaction, me: Me) -> None:
    """Say that this process is there."""
    known = tx.connection.execute(update(workers).where(workers.c.id == me.id).values(seen=tx.now))
    if not known.rowcount:
        row = {"id": me.id, "name": me.name, "host": me.host, "pid": me.pid, "machine": me.machine}
        tx.connection.execute(insert(workers), [row | {"started": tx.now, "seen": tx.now}])


def leave(tx: Transaction, me: Me) -> bool:
    """Take this process off the list, if it holds nothing."""
    holds = select(leases.c.job).where(leases.c.worker == me.id).exists()
    return bool(tx.connection.execute(delete(workers).where(workers.c.id == me.id, ~holds)).rowcount)


def held_and_others(tx: Transaction, me: Me) -> tuple[list[Held], list[Other]]:
    """All leases, and all other processes."""
    held = select(*_HELD)
    others = select(workers.c.id, workers.c.machine, workers.c.seen).where(workers.c.id != me.id)
    return [Held(*row) for row in tx.connection.execute(held)], [Other(*row) for row in tx.connection.execute(others)]


def take_back(tx: Transaction, expired: Iterable[Held], gone: Collection[str], silent: Collection[str]) -> int:
    """End these leases, if they gave no further sign of life, and all of the processes that are gone: how many.

    Who was silent is only struck off the list: its leases have their own time.
    """
    theirs = tx.connection.execute(select(*_HELD).where(leases.c.worker.in_(gone))) if gone else ()
    lost = {one.job: one for one in (*expired, *(Held(*row) for row in theirs))}
    ended = [end(tx, (job, lost[job].token), Lost(), beat=lost[job].beat) for job in sorted(lost)]
    tx.connection.execute(delete(workers).where(workers.c.id.in_([*gone, *silent])))
    return len(ended) - ended.count("lost")


def prune(tx: Transaction, keep_seconds: float, limit: int) -> int:
    """Drop some jobs that ended so long ago, with all that is theirs. Dead ones stay until somebody retries them."""
    old = tx.connection.scalars(
        select(jobs.c.id)
        .where(jobs.c.finished < tx.now - keep_seconds, jobs.c.state.in_(["succeeded", "failed", "cancelled"]))
        .order_by(jobs.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if old:
        for table in (events, reports, attempts):
            tx.connection.execute(delete(table).where(table.c.job.in_(old)))
        tx.connection.execute(delete(jobs).where(jobs.c.id.in_(old)))
    return len(old)


def forget_messages(tx: Transaction, keep_seconds: float) -> None:
    """Drop the ids of messages that came last so long ago."""
    tx.connection.execute(delete(messages).where(messages.c.seen < tx.now - keep_seconds))


def check(tx: Transaction) -> None:
    """Write something small."""
    _write_fact(tx, str(tx.now))


def check_room(tx: Transaction) -> None:
    """Write more than pages that are there already have room for, and which cannot be compressed."""
    _write_fact(tx, secrets.token_hex(_ROOM_BYTES // 2))
    check(tx)


def _write_fact(tx: Transaction, value: str) -> None:
    checked = update(facts).where(facts.c.name == _CHECKED).values(value=value)
    if not tx.connection.execute(checked).rowcount:
        tx.connection.execute(insert(facts), [{"name": _CHECKED, "value": value}])
