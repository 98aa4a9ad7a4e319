"""What the events of a push add up to; pure, so that every way of showing it agrees."""

from __future__ import annotations

from uploader.model.events import (
    BlobStarted,
    BytesSent,
    Event,
    LayerSettled,
    ManifestSettled,
    Note,
    PushStarted,
    Retried,
    Sending,
    Waiting,
)
from uploader.model.outcome import Failed

_RATE_SPAN_SECONDS = 5.0


class Tally:
    """Mutable: the counts, and recent moments from which the rate is made."""

    def __init__(self, now: float) -> None:
        self.started = now
        self.packages = 0
        self.done = 0
        self.failed = 0
        self.bytes_sent = 0
        self.retries = 0
        self.in_flight: dict[str, str] = {}
        self.waiting: tuple[str, float] | None = None
        self._recent: list[tuple[float, int]] = [(now, 0)]

    def take(self, event: Event, now: float) -> str | None:
        """Count the event; returns a line where it is worth one of its own."""
        match event:
            case PushStarted(packages, of):
                self.packages = packages
                return f"{packages} of {of} packages to push" if packages != of else f"{counted(of, 'package')} to push"
            case Note(text):
                return text
            case BlobStarted(package):
                self.in_flight[package.id] = package.name
            case Sending():
                pass
            case LayerSettled(package, outcome):
                self.in_flight.pop(package.id, None)
                if isinstance(outcome, Failed):
                    self.failed += 1
                    return f"failed: {package.name} {package.version}: {outcome.error}"
            case ManifestSettled(package, outcome):
                if isinstance(outcome, Failed):
                    self.failed += 1
                    return f"failed: {package.name} {package.version}: {outcome.error}"
                self.done += 1
            case BytesSent(count):
                self.bytes_sent += count
            case Retried():
                self.retries += 1
            case Waiting(host, seconds, reason):
                self.waiting = (f"{host} {reason}", now + seconds)
                return f"{host} {reason} {seconds:.0f} s"
        return None

    def line(self, now: float) -> str:
        """Where the push stands, in one line."""
        parts = [f"{self.done + self.failed}/{self.packages} packages"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.retries:
            parts.append(f"{self.retries} retries")
        parts.append(f"{bytes_text(self.bytes_sent)} sent, {bytes_text(self.rate(now))}/s")
        if self.waiting is not None and now < self.waiting[1]:
            parts.append(f"{self.waiting[0]} {self.waiting[1] - now:.0f} s")
        elif (left := self.seconds_left(now)) is not None:
            parts.append(f"about {duration_text(left)} left")
        if self.in_flight:
            names = list(self.in_flight.values())
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            parts.append(f"on the way: {', '.join(names[:2])}{more}")
        return " · ".join(parts)

    def rate(self, now: float) -> float:
        """Bytes per second over the last seconds."""
        self._recent.append((now, self.bytes_sent))
        while len(self._recent) > 2 and self._recent[1][0] < now - _RATE_SPAN_SECONDS:
            self._recent.pop(0)
        then, sent = self._recent[0]
        return (self.bytes_sent - sent) / (now - then) if now > then else 0.0

    def seconds_left(self, now: float) -> float | None:
        """By the packages that have ended so far; None while that says little."""
        ended = self.done + self.failed
        if ended < 5 or now - self.started < 3 or ended >= self.packages:
            return None
        return (now - self.started) / ended * (self.packages - ended)


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 package`, `2 packages`; `1 retry`, `2 retries` where the plural is told."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def bytes_text(count: float) -> str:
    """`12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def duration_text(seconds: float) -> str:
    """`4 s`, `2 min 05 s`, `1 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
