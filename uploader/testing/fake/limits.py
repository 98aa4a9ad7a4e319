"""Limits on requests: how large, how many per second."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from uploader.testing.fake.exchange import Call, Reply, error

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploader.testing.fake.quirks import Quirks


class Limits:
    """Refuses what is too large, and what comes too fast. Token requests are free."""

    def __init__(self, quirks: Quirks, clock: Callable[[], float]) -> None:
        self._quirks = quirks
        self._clock = clock
        self._accepted_at: deque[float] = deque()

    def refuses(self, call: Call) -> Reply | None:
        """The 413 or 429; None lets it pass, and counts it."""
        limit = self._quirks.body_limit
        if limit is not None and (call.length or 0) > limit:
            return Reply(413, {"content-type": "text/html"}, b"<h1>413 Request Entity Too Large</h1>")
        return self._refuses_rate(call)

    def _refuses_rate(self, call: Call) -> Reply | None:
        rate = self._quirks.requests_per_second
        if rate is None or call.kind == "token":
            return None
        now = self._clock()
        while self._accepted_at and self._accepted_at[0] <= now - 1:
            self._accepted_at.popleft()
        if len(self._accepted_at) >= rate:
            return error(429, "TOOMANYREQUESTS", f"allowed: {rate}/second", retry_after="1")
        self._accepted_at.append(now)
        return None
