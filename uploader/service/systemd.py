"""Telling systemd how the daemon is: sd_notify(3), which is a datagram to a socket that the environment names."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uploader.service.daemon import Daemon

_EVERY_SECONDS: Final = 5.0
_EXTEND_MICROSECONDS: Final = 30_000_000


class Systemd:
    """Says nothing where nobody listens."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path

    def say(self, *lines: str) -> None:
        """Send it; a failure is no reason not to work."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
                datagrams.sendto("\n".join(lines).encode(), self._address)

    async def report(self, daemon: Daemon) -> None:
        """Until cancelled: what the daemon does, that it lives, and that it needs time to drain."""
        while self._address:
            if daemon.draining:
                status = f"STATUS=draining, {daemon.running} running"
                self.say("STOPPING=1", status, f"EXTEND_TIMEOUT_USEC={_EXTEND_MICROSECONDS}")
            else:
                self.say(f"STATUS={daemon.running} running")
            if daemon.alive:
                self.say("WATCHDOG=1")
            await anyio.sleep(_EVERY_SECONDS)
