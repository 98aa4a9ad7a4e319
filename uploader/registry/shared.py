"""Connections, pace and login that several pushes to a registry share."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING, Final

import anyio

from uploader.oci.profile import profile_for
from uploader.registry.bandwidth import Bandwidth
from uploader.registry.certificates import find_certificates
from uploader.registry.client import ClientSettings, RegistryClient
from uploader.registry.credentials import find_credentials
from uploader.registry.learnt import Limits, NoFacts, RecordedBoard
from uploader.registry.pace import Pace
from uploader.registry.reach import Reach
from uploader.registry.timing import Timing
from uploader.registry.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from uploader.model.events import Emit, Event
    from uploader.model.reference import Registry, Repository
    from uploader.registry.learnt import HostFacts

_LOGIN_SECONDS: Final = 600.0
"""How long a login is used for new pushes: who rotates it need not restart anything."""


class SharedTransport(Transport):
    """Connections that several pushes use at once."""

    def for_push(self, sent: Callable[[int], None], before_write: Callable[[], None]) -> SharedTransport:
        """The same connections, with a count of its own; `before_write` may raise, and then nothing is sent."""
        one = copy(self)
        one.bytes_sent = 0
        one._report_sent = sent  # noqa: SLF001 - it is one of ours
        one._before_write = before_write  # noqa: SLF001
        return one


class SharedClient(RegistryClient):
    """A repository that several pushes go to, with one login."""

    def for_push(self, transport: SharedTransport) -> SharedClient:
        """The same login, with counts of its own; what one push may not do says nothing of another."""
        one = copy(self)
        one._transport = transport  # noqa: SLF001 - all of these are its own
        one._silent_since = None  # noqa: SLF001
        one._denied = set()  # noqa: SLF001
        one._wrote = False  # noqa: SLF001
        one._requests = one._retries = 0  # noqa: SLF001
        return one


class _Host:
    """A registry while somebody uses it. Mutable: who does, and the repositories with their logins."""

    def __init__(
        self, transport: SharedTransport, host: str, most_in_flight: int, timing: Timing, facts: HostFacts
    ) -> None:
        self.transport = transport
        self.limits = Limits(host, profile_for(host), facts, timing.wall)
        self.pace = Pace(
            host,
            most_in_flight,
            timing=timing,
            emit=self._tell,
            quotas=self.limits.profile.quotas,
            board=RecordedBoard(host, facts),
        )
        self.listeners: list[Emit] = []
        self.clients: dict[str, tuple[float, SharedClient]] = {}

    def _tell(self, event: Event) -> None:
        """A wait that the host asks for holds everybody back."""
        for emit in self.listeners:
            emit(event)


class RegistryPool:
    """Registries with what is shared; each stays open while a push uses it. Mutable: those that are open.

    `facts` keeps what is learnt of them.

    `most_in_flight` is for each registry, over all pushes that go there; `limit_rate`, in bytes per second, is for all
    of them together.
    """

    def __init__(
        self,
        *,
        most_in_flight: int,
        limit_rate: int | None,
        user_agent: str,
        environment: Mapping[str, str],
        ca_file: Path | None = None,
        settings: ClientSettings | None = None,
        facts: HostFacts | None = None,
    ) -> None:
        self._facts = facts or NoFacts()
        self._most_in_flight = most_in_flight
        self._user_agent = user_agent
        self._environment = environment
        self._ca_file = ca_file
        self._settings = settings or ClientSettings()
        self._timing = Timing()
        self._limit = Bandwidth(limit_rate, self._timing) if limit_rate else None
        self._hosts: dict[Registry, _Host] = {}

    @asynccontextmanager
    async def open(
        self, repository: Repository, *, emit: Emit, sent: Callable[[int], None], before_write: Callable[[], None]
    ) -> AsyncIterator[RegistryClient]:
        """The repository for one push; `sent` is told of its bytes. Raises InputError.

        `before_write` is called before each request that writes; the error that it raises is the request's.
        """
        host = await self._enter(repository.registry, emit)
        try:
            client = await self._client(host, repository)
            yield client.for_push(host.transport.for_push(sent, before_write))
        finally:
            host.listeners.remove(emit)
            if not host.listeners:
                del self._hosts[repository.registry]
                with anyio.CancelScope(shield=True):
                    await host.transport.__aexit__(None, None, None)

    def log_in_anew(self, repository: Repository) -> None:
        """Later pushes to the repository read the login again: a push found that this one cannot be used."""
        if (host := self._hosts.get(repository.registry)) is not None:
            host.clients.pop(repository.name, None)

    async def _enter(self, registry: Registry, emit: Emit) -> _Host:
        """Nothing here waits for anybody, so two pushes cannot open the same registry."""
        if (host := self._hosts.get(registry)) is None:
            transport = SharedTransport(
                registry.origin,
                connections=self._most_in_flight,
                user_agent=self._user_agent,
                timeouts=self._settings.timeouts,
                ca_file=self._ca_file,
                sent=lambda _: None,
                limit=self._limit,
                certificates=find_certificates(registry.host, self._environment),
                reach=Reach(registry.origin, trusted=self._settings.realms),
            )
            await transport.__aenter__()
            host = self._hosts[registry] = _Host(
                transport, registry.host, self._most_in_flight, self._timing, self._facts
            )
        host.listeners.append(emit)
        return host

    async def _client(self, host: _Host, repository: Repository) -> SharedClient:
        made, client = host.clients.get(repository.name, (0.0, None))
        if client is not None and time.monotonic() - made < _LOGIN_SECONDS:
            return client
        client = SharedClient(
            repository,
            transport=host.transport,
            pace=host.pace,
            credentials=await find_credentials(repository.registry.host, self._environment),
            limits=host.limits,
            settings=self._settings,
            timing=self._timing,
        )
        host.clients[repository.name] = (time.monotonic(), client)
        return client
