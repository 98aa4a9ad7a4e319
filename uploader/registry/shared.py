"""Connections, pace and login that several pushes to a registry share."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio

from uploader.oci.profile import profile_for
from uploader.oci.quota import EVERY_HOST
from uploader.registry.asking import Asker, ClientSettings
from uploader.registry.bandwidth import Bandwidth
from uploader.registry.certificates import find_certificates
from uploader.registry.client import RegistryClient
from uploader.registry.credentials import find_credentials, without_login
from uploader.registry.learnt import Limits, NoFacts, RecordedBoard
from uploader.registry.meter import Meter
from uploader.registry.pace import Pace
from uploader.registry.reach import Reach
from uploader.registry.timing import Timing
from uploader.registry.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from uploader.model.events import Emit, Event
    from uploader.model.reference import Registry, Repository
    from uploader.oci.profile import Profile
    from uploader.registry.auth import Authorizer
    from uploader.registry.learnt import HostFacts

_LOGIN_SECONDS: Final = 600.0
"""How long a login is used for new pushes: who rotates it need not restart anything."""
_MOST_LOGINS: Final = 64
"""Of the repositories that came last. Each holds on to the push that made it, and a daemon may see thousands a day."""


class _Host:
    """A registry while somebody uses it. Mutable: who does, and the logins to its repositories."""

    def __init__(
        self,
        transport: Transport,
        host: str,
        profile: Profile,
        most_in_flight: int,
        *,
        timing: Timing,
        facts: HostFacts,
    ) -> None:
        self.transport = transport
        self.limits = Limits(host, profile, facts, timing.wall)
        self.pace = Pace(
            host,
            most_in_flight,
            timing=timing,
            emit=self._tell,
            quotas=profile.quotas,
            board=RecordedBoard(host, facts),
        )
        self.listeners: list[Emit] = []
        self.logins: dict[tuple[str, bool], tuple[float, Authorizer]] = {}

    def keep_login(self, of: tuple[str, bool], login: Authorizer) -> None:
        """For pushes to come; the oldest one makes room, and those who use it do so on."""
        self.logins.pop(of, None)
        self.logins[of] = (time.monotonic(), login)
        if len(self.logins) > _MOST_LOGINS:
            del self.logins[next(iter(self.logins))]

    def _tell(self, event: Event) -> None:
        """A wait that the host asks for holds everybody back."""
        for emit in dict.fromkeys(self.listeners):  # a push may have a base image from where it goes to
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
        timing: Timing | None = None,
    ) -> None:
        self._facts = facts or NoFacts()
        self._most_in_flight = most_in_flight
        self._user_agent = user_agent
        self._environment = environment
        self._ca_file = ca_file
        self._settings = settings or ClientSettings()
        self._timing = timing or Timing()
        self._limit = Bandwidth(limit_rate, self._timing) if limit_rate else None
        self._hosts: dict[Registry, _Host] = {}

    @asynccontextmanager
    async def open(
        self,
        repository: Repository,
        *,
        emit: Emit,
        sent: Callable[[int], None],
        before_write: Callable[[], None] | None = None,
        limit_rate: int | None = None,
        foreign: bool = False,
    ) -> AsyncIterator[RegistryClient]:
        """The repository for one push, with counts of its own; `sent` is told of its bytes. Raises InputError.

        `before_write` is called before each request that writes; the error that it raises is the request's.
        `limit_rate` is the push's own limit. `foreign`: the repository is only read, and not what the login of
        UPLOADER_USERNAME is for.
        """
        host = await self._enter(repository.registry, emit)
        limit = Bandwidth(limit_rate, self._timing, within=self._limit) if limit_rate else self._limit
        try:
            yield await self._client(host, repository, Meter(sent, limit=limit, before_write=before_write), foreign)
        finally:
            host.listeners.remove(emit)
            if not host.listeners:
                del self._hosts[repository.registry]
                with anyio.CancelScope(shield=True):
                    await host.transport.__aexit__(None, None, None)

    def log_in_anew(self, repository: Repository) -> None:
        """Later pushes to the repository read the login again: a push found that this one cannot be used."""
        if (host := self._hosts.get(repository.registry)) is not None:
            host.logins.pop((repository.name, False), None)

    async def _enter(self, registry: Registry, emit: Emit) -> _Host:
        """Nothing here waits for anybody, so two pushes cannot open the same registry."""
        if (host := self._hosts.get(registry)) is None:
            has_tls = registry.origin.startswith("https:")
            transport = Transport(
                registry.origin,
                connections=self._most_in_flight,
                user_agent=self._user_agent,
                timeouts=self._settings.timeouts,
                ca_file=self._ca_file,
                certificates=find_certificates(registry.host, self._environment) if has_tls else None,
                reach=Reach(registry.origin, trusted=self._settings.realms),
            )
            await transport.__aenter__()
            host = self._hosts[registry] = _Host(
                transport,
                registry.host,
                self._profile(registry.host),
                self._most_in_flight,
                timing=self._timing,
                facts=self._facts,
            )
        host.listeners.append(emit)
        return host

    def _profile(self, host: str) -> Profile:
        profile = profile_for(host)
        quotas = self._settings.quotas
        quota = quotas.get(host) or quotas.get(EVERY_HOST)
        return profile.limited(quota) if quota else profile

    async def _client(self, host: _Host, repository: Repository, meter: Meter, foreign: bool) -> RegistryClient:
        made, login = host.logins.get((repository.name, foreign), (0.0, None))
        if time.monotonic() - made >= _LOGIN_SECONDS:
            login = None
        environment = without_login(self._environment) if foreign else self._environment
        asker = Asker(
            repository,
            transport=host.transport.metered(meter),
            pace=host.pace,
            credentials=None if login else await find_credentials(repository.registry.host, environment),
            limits=host.limits,
            settings=replace(self._settings, read_only=True) if foreign else self._settings,
            timing=self._timing,
            login=login,
        )
        if login is None:
            host.keep_login((repository.name, foreign), asker.login)
        return RegistryClient(asker)
