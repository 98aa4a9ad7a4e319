"""What one push sends, over connections that it may share with others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploader.registry.bandwidth import Bandwidth


class Meter:
    """Counts, limits, and calls off what is sent. Mutable: the bytes of request bodies so far.

    `sent` is told of bytes when they have gone out. `before_write` is called before each request that writes, as late
    as can be; it may raise, and then nothing is sent.
    """

    def __init__(
        self,
        sent: Callable[[int], None] = lambda _: None,
        *,
        limit: Bandwidth | None = None,
        before_write: Callable[[], None] | None = None,
    ) -> None:
        self.bytes_sent = 0
        self.limit = limit
        self.before_write = before_write
        self._tell = sent

    def sent(self, count: int) -> None:
        """So many bytes have gone out."""
        self.bytes_sent += count
        self._tell(count)
