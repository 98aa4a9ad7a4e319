"""Jobs that outlive the processes which work on them: SQLAlchemy lives here, and nowhere else.

In the order in which to read:

- `base.py`: the values (`JobSpec`, `Job`, `Lease`, …) and the protocol `JobStore`. Whoever uses a store reads this.
- `machine.py`: the state machine as plain decisions, and how a silent holder is told from a slow one.
- `tables.py`: the tables, and how they change from version to version.
- `transitions.py`, `views.py`, `upkeep.py`: changes, questions, and what a store does for itself, as SQL.
- `store.py`: the `JobStore` over these, which knows neither engine.
- `database.py`: what it asks of an engine. `sqlite.py` (with `gate.py`) and `postgres.py` are the two.
- `processes.py`: lock files that prove a process gone. `ids.py`: ids that sort by time.
- `open.py`: `open_store(url)` puts it together.

Why two engines under one machine: SQLite needs nothing installed and loses nothing; PostgreSQL serves any number of
daemons. What brokers lack (fencing, unique keys, questions, cancelling, results in one transaction) both have, so a
broker only brings jobs here. A lease is a row, and ends when the row is deleted: of a completion, a cancellation and
a sweep at the same moment exactly one finds it. No decision over a lease compares wall clocks.
"""

from uploader.jobs.base import (
    FINAL,
    STATES,
    Attempt,
    Cancelled,
    Ended,
    Heartbeat,
    Job,
    JobEvent,
    JobId,
    JobSpec,
    JobStore,
    Lease,
    Page,
    Renewed,
    State,
    Stats,
    Submitted,
    Swept,
    Token,
    Worker,
)
from uploader.jobs.open import open_store

__all__ = [
    "FINAL",
    "STATES",
    "Attempt",
    "Cancelled",
    "Ended",
    "Heartbeat",
    "Job",
    "JobEvent",
    "JobId",
    "JobSpec",
    "JobStore",
    "Lease",
    "Page",
    "Renewed",
    "State",
    "Stats",
    "Submitted",
    "Swept",
    "Token",
    "Worker",
    "open_store",
]
