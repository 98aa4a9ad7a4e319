"""What the daemon counts, as Prometheus reads it (text format 0.0.4)."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING, Final

from uploader.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from uploader.jobs import Stats

_SECONDS: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0)
_RENEWAL_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 20.0)

Labels = tuple[tuple[str, str], ...]


class Counter:
    """Only grows. Mutable: a number for each set of labels."""

    def __init__(self, name: str, about: str, label: str = "", values: Iterable[str] = ()) -> None:
        """`values` of the one label are there from the beginning, at 0; without a label there is one number."""
        self._name, self._about, self._label = name, about, label
        self._numbers: dict[Labels, float] = {((label, value),): 0.0 for value in values} if label else {(): 0.0}

    def add(self, count: float = 1.0, **labels: str) -> None:
        """Count."""
        key = tuple(sorted(labels.items()))
        self._numbers[key] = self._numbers.get(key, 0.0) + count

    def lines(self) -> Iterator[str]:
        """As text."""
        yield from sample_lines(self._name, self._about, "counter", self._numbers)


class Histogram:
    """How often a duration lay where. Mutable: the counts."""

    def __init__(self, name: str, about: str, bounds: tuple[float, ...] = _SECONDS) -> None:
        self._name, self._about, self._bounds = name, about, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def lines(self) -> Iterator[str]:
        """As text."""
        yield f"# HELP {self._name} {self._about}"
        yield f"# TYPE {self._name} histogram"
        total = 0
        for bound, count in zip((*map(_number, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{self._name}_bucket{{le="{bound}"}} {total}'
        yield f"{self._name}_sum {_number(self._sum)}"
        yield f"{self._name}_count {total}"


class Metrics:
    """All of the daemon's. Never labelled by job, package, digest or key: there is no end of those."""

    def __init__(self) -> None:
        ended = ("succeeded", "failed", "dead", "cancelled")
        self.finished = Counter("uploader_jobs_finished_total", "Jobs that ended here.", "outcome", ended)
        self.attempts = Counter(
            "uploader_job_attempts_total",
            "Leases that ended without ending their job.",
            "reason",
            ("again", "released", "lost"),
        )
        self.leases_lost = Counter("uploader_leases_lost_total", "Leases that were lost while their job ran.")
        self.duration = Histogram("uploader_job_duration_seconds", "From lease to end.")
        self.wait = Histogram("uploader_job_wait_seconds", "From when a job could run until its lease.")
        self.renewals = Histogram(
            "uploader_lease_renew_delay_seconds", "How long a renewal of leases took.", _RENEWAL_SECONDS
        )
        self.store_errors = Counter("uploader_store_errors_total", "Calls that the job store could not answer.")
        self.bytes_sent = Counter("uploader_uploaded_bytes_total", "Bytes of bodies sent.", "registry")
        self.blobs = Counter("uploader_blobs_total", "Layers that settled, by what became of them.", "registry")
        self.manifests = Counter("uploader_manifests_total", "Manifests, by what became of them.", "registry")
        self.requests = Counter("uploader_registry_requests_total", "Requests to registries.", "registry")
        self.retries = Counter("uploader_registry_retries_total", "Requests that were repeats.", "registry")
        self.throttled = Counter(
            "uploader_registry_throttle_seconds_total", "Seconds that registries asked to be left alone.", "registry"
        )
        self.intake = Counter(
            "uploader_intake_messages_total", "Messages from the broker.", "result", ("taken", "known", "set-aside")
        )

    def text(self, stats: Stats | None, running: int) -> str:
        """The page that Prometheus reads; `stats` is None while the store does not answer."""
        lines = [*_gauge("uploader_build_info", "The version.", {(("version", __version__),): 1.0})]
        if stats is not None:
            jobs: dict[Labels, float] = {(("state", state),): float(count) for state, count in stats.jobs.items()}
            lines += _gauge("uploader_jobs", "Jobs in the store.", jobs)
            oldest: dict[Labels, float] = {(): stats.oldest_ready_seconds}
            lines += _gauge("uploader_queue_oldest_ready_seconds", "For how long the oldest ready job waits.", oldest)
            lines += _gauge("uploader_workers", "Daemons that have the store open.", {(): float(stats.workers)})
        lines += _gauge("uploader_store_up", "Whether the store answers.", {(): float(stats is not None)})
        lines += _gauge("uploader_jobs_running", "Jobs that this daemon works on.", {(): float(running)})
        for one in vars(self).values():
            lines += one.lines()
        lines += _process_lines()
        return "\n".join(lines) + "\n"


def sample_lines(name: str, about: str, kind: str, numbers: Mapping[Labels, float]) -> Iterator[str]:
    """One metric as text."""
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
    for labels, number in numbers.items():
        if labels == () and len(numbers) > 1:
            continue
        said = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels)
        yield f"{name}{{{said}}} {_number(number)}" if said else f"{name} {_number(number)}"


def _gauge(name: str, about: str, numbers: Mapping[Labels, float]) -> Iterator[str]:
    return sample_lines(name, about, "gauge", numbers)


def _process_lines() -> Iterator[str]:
    """What Prometheus knows of every process."""
    spent = time.process_time()
    yield from sample_lines("process_cpu_seconds_total", "Processor time spent.", "counter", {(): spent})
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number counts
    except (OSError, ValueError, IndexError):
        return
    resident: dict[Labels, float] = {(): float(pages * os.sysconf("SC_PAGE_SIZE"))}
    yield from _gauge("process_resident_memory_bytes", "Memory in use.", resident)
    yield from _gauge("process_open_fds", "Open files.", {(): float(files)})


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
