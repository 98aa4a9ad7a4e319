"""One job while the daemon works on it: its lease, its stop, and where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import anyio
import structlog

from uploader.model.events import BytesSent, LayerSettled, ManifestSettled, Note, PushStarted, Waiting
from uploader.model.outcome import Failed, Tagged

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploader.jobs import Lease
    from uploader.model.events import Event
    from uploader.service.metrics import Metrics

Reason = Literal["cancelled", "drained", "lost"]

_PROGRESS_SECONDS: Final = 2.0


class Running:
    """Mutable: until when the lease holds for certain, what was told of it, and the counts of the push.

    `settled`: it got a package done that was not done before; `told_settled`: the store knows, so that the death of
    this daemon is not counted against the job. `begins_anew`: what it gets done is done again next time.
    """

    def __init__(self, lease: Lease, leased_at: float, metrics: Metrics, news: Callable[[], None]) -> None:
        """`leased_at` is the time before the lease was asked for; `news` is called when a heartbeat is due at once."""
        self.lease = lease
        self.held_until = leased_at + lease.ttl
        self.began = leased_at
        self.stop = anyio.Event()
        self.stopped_at = 0.0
        self.scope = anyio.CancelScope()
        self.reason: Reason | None = None
        self.settling = False
        self.untold_end = False  # the store was told of it, and did not take it
        self.registry = "none"
        self.settled = False
        self.begins_anew = False
        self.log = structlog.get_logger("uploader.daemon").bind(job=lease.job.id, attempt=lease.job.leases)
        self._metrics = metrics
        self._news = news
        self._told_at = leased_at
        self._told_progress = ""
        self.told_settled = False
        self._packages = self._done = self._failed = self._bytes = 0

    # -- the lease

    def end(self, reason: Reason) -> None:
        """Ask the push to stop; the first reason counts, save that a lost lease counts more."""
        if self.reason is None:
            self.reason = reason
            self.stopped_at = anyio.current_time()
            self.log.info("stopping", reason=reason)
            self.stop.set()

    def lose(self, why: str) -> None:
        """The lease is not ours any more, or may not be: nothing more is written for it."""
        if self.reason != "lost" and not self.settling:
            self.log.warning("lease lost", why=why)
            self._metrics.leases_lost.add()
            self.reason = "lost"
            self.stop.set()
            self.scope.cancel()

    def is_due(self, now: float, every: float) -> bool:
        """Whether a heartbeat should go out."""
        since = now - self._told_at
        news = self.settled and not self.told_settled
        return news or since >= every or (since >= _PROGRESS_SECONDS and self.progress != self._told_progress)

    def renewed(self, asked_at: float, progress: str, *, settled: bool) -> None:
        """A heartbeat was answered."""
        self.held_until = asked_at + self.lease.ttl
        self._told_at = asked_at
        self._told_progress = progress
        self.told_settled = self.told_settled or settled

    # -- the push

    @property
    def untold_progress(self) -> str | None:
        """Where the push stands, if the store was told of another place."""
        return self.progress if self.progress != self._told_progress else None

    @property
    def progress(self) -> str:
        """Where the push stands, in one line."""
        if not self._packages:
            return "reading the sources"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._done + self._failed}/{self._packages} packages{failed}, {self._bytes} bytes sent"

    def emit(self, event: Event) -> None:
        """Take in an event of the push."""
        match event:
            case PushStarted(packages):
                self._packages = packages
            case BytesSent(count):
                self._bytes += count
                self._metrics.bytes_sent.add(count, registry=self.registry)
            case LayerSettled(package, Failed(error, stage)):
                self._fail(package.id, stage, str(error))
                self._metrics.blobs.add(registry=self.registry, result="failed")
            case LayerSettled(package, done) if not isinstance(done, Failed):
                self._metrics.blobs.add(registry=self.registry, result=done.how)
            case ManifestSettled(package, Failed(error, stage)):
                self._fail(package.id, stage, str(error))
                self._metrics.manifests.add(registry=self.registry, result="failed")
            case ManifestSettled(package, Tagged() as tagged):
                self._done += 1
                how = "pushed" if tagged.pushed else "present"
                self._metrics.manifests.add(registry=self.registry, result=how)
                self.log.debug(how, package=package.id, tag=package.tag)
                self._note_settled(pushed=tagged.pushed)
            case Waiting(host, seconds, reason):
                self._metrics.throttled.add(seconds, registry=host)
                self.log.info("waiting", host=host, seconds=round(seconds, 1), why=reason)
            case Note(text):
                self.log.info("note", text=text)
            case _:
                pass

    def _fail(self, package: str, stage: str, error: str) -> None:
        self._failed += 1
        self.log.warning("package failed", package=package, stage=stage, error=error)

    def _note_settled(self, *, pushed: bool) -> None:
        """The first package that is newly there makes this lease cost no attempt: said at once.

        A push that is forced begins anew each time, so nothing that it pushes brings it nearer to its end.
        """
        if pushed and not self.settled and not self.begins_anew:
            self.settled = True
            self._news()
