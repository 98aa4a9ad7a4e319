"""What a job store is: the values that go in and come out, and the protocol that every engine fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NewType, Protocol

from uploader.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

JobId = NewType("JobId", str)
"""Sorts by the time of submission."""
Token = NewType("Token", str)
"""Names one lease of one job, and no other ever."""

State = Literal["scheduled", "ready", "leased", "succeeded", "failed", "dead", "cancelled"]
"""`scheduled` is ready with a wait: a back-off. `failed` is for good; `dead` means that its attempts are spent,
or that its leases were lost too often without getting anything done."""

STATES: Final[tuple[State, ...]] = ("scheduled", "ready", "leased", "succeeded", "failed", "dead", "cancelled")
FINAL: Final[tuple[State, ...]] = ("succeeded", "failed", "dead", "cancelled")

Ended = Literal["succeeded", "failed", "dead", "cancelled", "again", "released"]
"""What became of a job when its lease ended; after `again` and `released` it waits for its next lease."""

EventKind = Literal[
    "submitted", "leased", "progress", "cancel-requested", "lost", "again", "released", "retried",
    "succeeded", "failed", "dead", "cancelled",
]  # fmt: skip

SUSPECT_LOSSES: Final = 2
"""So many lost leases in a row that got nothing done make a job a suspect: it may be what kills its holders."""

MAX_PAYLOAD_BYTES: Final = 64 * 1024
MAX_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job to be submitted; while one with the same key and payload is not final, that one is it."""

    payload: bytes
    key: str | None = None
    priority: int = 0
    max_attempts: int = 5

    def __post_init__(self) -> None:
        if len(self.payload) > MAX_PAYLOAD_BYTES:
            raise InputError(
                f"a job may have {MAX_PAYLOAD_BYTES} bytes, this one has {len(self.payload)}: "
                "name big graphs by their path, do not put them in"
            )
        if not -(2**31) <= self.priority < 2**31:
            raise InputError(f"the priority of a job is a number of 32 bits, not {self.priority}")
        if self.max_attempts < 1:
            raise InputError(f"a job needs one attempt at least, not {self.max_attempts}")
        if self.key is not None and not (0 < len(self.key) <= 512 and "\0" not in self.key and _is_text(self.key)):
            raise InputError("the key of a job has 1 to 512 characters of Unicode, none of them NUL")


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job that a spec became; `created` is False where its key named one that was there."""

    id: JobId
    created: bool


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. Times are seconds since 1970; `progress` and `error` are the latest.

    `attempts` are those that count against `max_attempts`; `leases` counts all, and `losses` those that were lost one
    after another without getting anything done.
    """

    id: JobId
    state: State
    payload: bytes
    key: str | None
    priority: int
    attempts: int
    max_attempts: int
    leases: int
    losses: int
    created: float
    started: float | None
    finished: float | None
    run_at: float
    progress: str | None
    error: str | None
    cancel_requested: bool

    @property
    def suspect(self) -> bool:
        """Whether it may be what kills its holders, who should begin nothing beside it until it gets something done."""
        return self.losses >= SUSPECT_LOSSES


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job, until it is lost by not being renewed.

    Take the time *before* the call that leased or renewed it: from then it holds for `ttl` seconds at least. A holder
    that could not renew it for so long must stop working.
    """

    job: Job
    token: Token
    ttl: float


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Holds a lease for another `ttl`. `settled` says that it got at least one package done that was not done before.

    Such a lease does not count as an attempt, however it ends, nor do losses before it: so send one at once when the
    first package is done, not only when it is time to renew.
    """

    lease: Lease
    progress: str | None = None
    settled: bool = False


Renewed = Literal["held", "cancel-requested", "lost"]
Cancelled = Literal["cancelled", "requested", "already-final", "unknown"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One lease of a job, for its history; `outcome` is None while it is held, and `lost` if its holder died."""

    number: int
    worker: str
    started: float
    ended: float | None
    outcome: Ended | Literal["lost"] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job. `seq` grows over all jobs, in the order in which changes became visible."""

    seq: int
    job: JobId
    at: float
    kind: EventKind
    detail: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first; `next` is the cursor of the page after it."""

    jobs: tuple[Job, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that has the store open."""

    id: str
    name: str
    host: str
    pid: int
    started: float
    seen: float
    leases: int


@dataclass(frozen=True, slots=True)
class Stats:
    """How many jobs are in each state, for how long the oldest of the ready ones has been so, and who is at work."""

    jobs: Mapping[State, int]
    oldest_ready_seconds: float
    workers: int


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: leases that had ended taken back, processes found gone, jobs dropped for their age."""

    taken_back: int = 0
    gone: int = 0
    pruned: int = 0


class JobStore(Protocol):
    """Jobs that outlive their processes. Every method raises JobStoreError, and has then changed nothing that
    it would answer for; only a connection that broke may leave open whether a change was made: ask again.

    A change that was answered is durable. Of all that might end a lease at the same time, exactly one does.
    """

    async def submit(self, specs: Sequence[JobSpec], *, message: str | None = None) -> list[Submitted]:
        """Take in all these jobs, or none; the answers are in the order of the specs.

        Raises KeyTakenError where a job with the same key and another payload is not final, or is among them.
        Those of a broker's `message` only once: if it came before, nothing is done, and the answer is empty. That is
        known for a month after it came last, whatever became of its jobs.
        """

    async def lease(self, *, limit: int, ttl: float, wait: float = 0.0, suspects: bool = True) -> list[Lease]:
        """Up to `limit` jobs to work on, highest priority first, then oldest; waits up to `wait` seconds for one.

        A suspect comes as the only one. Without `suspects` it does not come, nor does what is behind it in the line: so
        ask like that only while you work on something that a death would count against.
        """

    async def renew(self, heartbeats: Sequence[Heartbeat]) -> list[Renewed]:
        """Hold these leases for another ttl: one write for all."""

    async def complete(self, lease: Lease, report: bytes, *, progress: str | None = None) -> bool:
        """The job succeeded; False if the lease was lost, and then nothing changed. `progress`: how far it came."""

    async def fail(
        self,
        lease: Lease,
        error: str,
        *,
        retry_in: float | None,
        report: bytes | None = None,
        settled: bool = False,
        progress: str | None = None,
    ) -> Ended | Literal["lost"]:
        """The job failed: for good, or to be tried again in `retry_in` seconds if it has attempts left."""

    async def release(self, lease: Lease, *, delay: float = 0.0) -> bool:
        """Give the job back unfinished, its attempt too; False if the lease was lost."""

    async def cancel(self, job: JobId, reason: str = "") -> Cancelled:
        """End the job now if nobody works on it, else ask its holder to stop."""

    async def retry(self, job: JobId) -> bool:
        """Make a failed, dead or cancelled job ready, with all its attempts; False if it is none of these.

        Also False where another job with its key is waiting or at work.
        """

    async def retry_dead(self) -> int:
        """The same for all dead jobs: how many."""

    async def get(self, job: JobId) -> Job | None:
        """The job as it stands."""

    async def history(self, job: JobId) -> tuple[Attempt, ...]:
        """Every lease that the job had, oldest first."""

    async def report(self, job: JobId) -> bytes | None:
        """The report that its latest lease left."""

    async def jobs(self, *, state: State | None = None, limit: int = 100, cursor: str | None = None) -> Page:
        """Jobs, newest first; `cursor` is `next` of the page before."""

    async def stats(self) -> Stats:
        """Counts of jobs and workers."""

    async def workers(self) -> tuple[Worker, ...]:
        """The processes that have the store open, oldest first."""

    async def events(
        self, job: JobId | None = None, *, after: int = 0, limit: int = 500, wait: float = 0.0
    ) -> tuple[JobEvent, ...]:
        """What happened after event `after`, to one job or to all; waits up to `wait` seconds for something.

        Whoever goes on from the last `seq` that it got misses nothing.
        """

    async def sweep(self) -> Swept:
        """Take back what dead processes held, drop what is old. Call it every few seconds, in every process."""

    async def check(self) -> None:
        """Write something: raises JobStoreError if the store cannot be used now."""
