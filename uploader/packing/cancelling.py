"""How work in a worker thread is told to stop: it asks, between two chunks."""

from __future__ import annotations

from collections.abc import Callable

IsCancelled = Callable[[], bool]


class Cancelled(Exception):  # noqa: N818 (not an error: somebody asked for it)
    """The work was given up because its caller no longer wants it; never seen by users."""


def never() -> bool:
    """For work that nobody cancels."""
    return False


def stop_if(cancelled: IsCancelled) -> None:
    """Raise Cancelled when the caller has given up."""
    if cancelled():
        raise Cancelled
