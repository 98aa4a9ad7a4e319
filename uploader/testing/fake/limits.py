"""Limits on requests: how large, how many per second."""

from __future__ import annotations

import json
import math
from collections import deque
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from uploader.testing.fake.exchange import Call, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from uploader.oci.profile import Quota, RequestKind, Throttling
    from uploader.testing.fake.exchange import Kind
    from uploader.testing.fake.quirks import Quirks

_WRITES: Final[Mapping[Kind, RequestKind]] = {
    "open": "open",
    "mount": "open",
    "patch": "chunk",
    "put-blob": "close",
    "put-manifest": "manifest",
    "cancel": "cancel",
    "delete-blob": "cancel",
    "delete-manifest": "cancel",
}


class Limits:
    """Refuses what is too large, and what comes too fast. Token requests are free."""

    def __init__(self, quirks: Quirks, clock: Callable[[], float]) -> None:
        self._body_limit = quirks.body_limit
        self._throttling = quirks.throttling
        self._clock = clock
        self._accepted: list[tuple[Quota, deque[float]]] = [(quota, deque()) for quota in quirks.all_quotas]

    def refuses(self, call: Call) -> Reply | None:
        """The 413 or 429; None lets it pass, and counts it."""
        if self._body_limit is not None and (call.length or 0) > self._body_limit:
            forbidden = f"a body of more than {self._body_limit} bytes"
            return Reply(
                413, {"content-type": "text/html"}, b"<h1>413 Request Entity Too Large</h1>", forbidden=forbidden
            )
        return self._refuses_rate(call)

    def _refuses_rate(self, call: Call) -> Reply | None:
        if call.kind == "token":
            return None
        now = self._clock()
        kind = _WRITES.get(call.kind, "read")
        counting = [(quota, times) for quota, times in self._accepted if kind in quota.kinds]
        for quota, times in counting:
            while times and times[0] <= now - quota.seconds:
                times.popleft()
            if len(times) >= quota.requests:
                return _too_many(self._throttling, times[0] + quota.seconds - now, now, quota)
        for _, times in counting:
            times.append(now)
        return None


def _too_many(throttling: Throttling, until: float, now: float, quota: Quota) -> Reply:
    wait = throttling.seconds or until
    text = throttling.text.replace("{wait}", f"{wait * 1000:f}ms" if wait < 1 else f"{wait:f}s")
    if throttling.code:
        body = json.dumps({"errors": [{"code": throttling.code, "message": text}]}).encode()
    else:
        body = text.encode()
    kind = "application/json" if throttling.code else "text/plain"
    forbidden = f"more than {quota.requests} requests ({quota.name}) in {quota.seconds:g} s"
    reply = Reply(429, {"content-type": kind}, body, forbidden=forbidden)
    match throttling.wait:
        case "seconds":
            return reply.with_headers(retry_after=str(math.ceil(wait)))
        case "date":
            return reply.with_headers(
                retry_after=formatdate(now + math.ceil(wait), usegmt=True), date=formatdate(now, usegmt=True)
            )
        case "text" | "untold":
            return reply
