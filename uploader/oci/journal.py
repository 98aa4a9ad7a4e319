"""What is written down of a blob on its way, so that a later push can go on where this one was ended."""

from __future__ import annotations

from typing import Protocol


class Journal(Protocol):
    """The notes on one blob, kept by whoever asks for it to be sent.

    A session is the URL of an upload, as the registry gave it: it may hold secrets.
    """

    async def begin(self) -> str | None:
        """The session that an earlier push left; empty where there is none, None where none can be kept.

        Raises SourceError.
        """

    def opened(self, session: str) -> None:
        """The upload goes on at this session from now on."""

    def ended(self) -> None:
        """There is nothing to be continued: the blob is there, or the session is gone."""

    def sent_again(self, why: str) -> None:
        """The blob is there; it had to be begun anew, because of `why`."""
