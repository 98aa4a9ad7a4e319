"""How a request gets its answer: at the host's pace, logged in, tried again, and once there is a connection."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from uploader.errors import UnusableError, UploaderError
from uploader.model.events import Note
from uploader.model.outcome import Traffic
from uploader.oci.http import Answer, Lost, Request, Response
from uploader.oci.profile import kind_of
from uploader.oci.refusal import read_refusal
from uploader.registry.auth import Authorizer
from uploader.registry.bodies import Timeouts
from uploader.registry.retry import Retrying, RetryPolicy
from uploader.registry.transport import LARGEST_ERROR_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from uploader.model.reference import Repository
    from uploader.oci.profile import Quota
    from uploader.registry.credentials import Credentials
    from uploader.registry.learnt import Limits
    from uploader.registry.pace import Pace
    from uploader.registry.timing import Timing
    from uploader.registry.transport import Transport


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How patient the client is, and what the user said of hosts.

    `no_connection_seconds`: after so long without one the whole run ends. `quotas`: by host, as `oci.quota` reads them.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeouts: Timeouts = field(default_factory=Timeouts)
    no_connection_seconds: float = 24.0
    realms: frozenset[str] = frozenset()
    quotas: Mapping[str, Quota] = field(default_factory=lambda: MappingProxyType({}))
    read_only: bool = False


class Asker:
    """Asks for one repository. Mutable: the counts of requests and of tries again, and since when nothing connects."""

    def __init__(
        self,
        repository: Repository,
        *,
        transport: Transport,
        pace: Pace,
        credentials: Credentials | None,
        limits: Limits,
        settings: ClientSettings,
        timing: Timing,
        login: Authorizer | None = None,
    ) -> None:
        """`login` is another's of the same repository, to be shared; else one is made of the credentials."""
        self.repository = repository
        self.transport = transport
        self.limits = limits
        self.timing = timing
        self.emit = pace.emit
        self.retries = 0
        self.login = login or Authorizer(
            origin=transport.origin,
            repository=repository.name,
            actions="pull" if settings.read_only else "pull,push",
            credentials=credentials,
            profile=limits.profile,
            realms=settings.realms,
            ask=self._ask_with,
            clock=timing.monotonic,
        )
        self._pace = pace
        self._settings = settings
        self._requests = 0
        self._retrying = Retrying(settings.retry, limits.profile, timing, pace.emit)
        self._silent_since: float | None = None

    def traffic(self) -> Traffic:
        """Counted since it was made; the bytes are those of request bodies."""
        return Traffic(self.transport.meter.bytes_sent, self._requests, self.retries)

    async def back_off(self, times: int) -> None:
        """Wait, twice as long each time; the first time is 0."""
        await self.timing.sleep(min(self._settings.retry.longest_wait, self._settings.retry.first_wait * 2**times))

    async def ask(self, request: Request, *, most: int = LARGEST_ERROR_BYTES) -> Answer:
        """Send under the retry policy, logging in where that is asked for."""

        async def once(request: Request) -> Answer:
            refused_logins = 0
            while True:
                answer, authorization = await self._once_logged_in(request, most)
                if not isinstance(answer, Response) or answer.elsewhere:
                    return answer  # what another host thinks of us is not about our login
                if answer.status != 401:
                    if answer.status < 400 or answer.status == 404:
                        self.login.accepted(authorization)
                    return answer
                refused_logins += bool(authorization)
                if refused_logins > 1 or not await self.login.refused(answer, authorization):
                    return answer

        answer = await self._retrying.send(request, once)
        self.retries += answer.attempts - 1
        return answer

    async def ask_at_once(self, request: Request) -> None:
        """Once, past the queue: there is no time to wait, and it does not matter what comes of it."""
        with suppress(UploaderError):
            authorization = await self.login.authorization()
            self._requests += 1
            await self.transport.exchange(request, authorization, most=LARGEST_ERROR_BYTES)

    async def _ask_with(self, request: Request, authorization: str, home: str) -> Answer:
        """Send a login request, with an authorization that is known already."""

        async def known() -> str:
            return authorization

        async def once(request: Request) -> Answer:
            return await self._once(request, LARGEST_ERROR_BYTES, known, home)

        return await self._retrying.send(request, once)

    async def _once_logged_in(self, request: Request, most: int) -> tuple[Answer, str]:
        """One request, and the authorization that it went out with: one that lives when its turn has come."""
        used = ""

        async def current() -> str:
            nonlocal used
            used = await self.login.authorization()
            return used

        return await self._once(request, most, current), used

    async def _once(
        self, request: Request, most: int, authorize: Callable[[], Awaitable[str]], home: str = ""
    ) -> Answer:
        """One request, at the host's pace; without a connection, as many as it takes for the run to give up.

        `home` marks a login request. Those who hold the places in flight may wait for it, so it needs none.
        """
        first_at: float | None = None
        kind = kind_of(request.method, request.url)
        while True:
            async with self._pace.visit_for_others(kind) if home else self._pace.visit(request.size, kind) as visit:
                authorization = await authorize()
                self._requests += 1
                begun = self.timing.monotonic()
                first_at = begun if first_at is None else first_at
                answer = await self.transport.exchange(request, authorization, most=most, home=home)
                if isinstance(answer, Response) and answer.status >= 400:
                    refusal = read_refusal(answer, self.limits.profile, self.timing.wall())
                    if refusal.throttled:
                        visit.push_back(refusal.retry_after, limits_rate=answer.status != 503)
            if answer.elsewhere:
                return answer
            if not isinstance(answer, Lost) or answer.connected:
                self._silent_since = None
                return answer
            self._tell_unreachable(answer)
            self._give_up_when_unreachable(answer, begun)
            if self.timing.monotonic() - first_at >= self._settings.no_connection_seconds:
                return answer  # others get through
            await self.timing.sleep(self._settings.retry.first_wait)

    def _tell_unreachable(self, answer: Lost) -> None:
        """Said once for all who wait for the connection to come back."""
        self.retries += 1
        if self._silent_since is None:
            self.emit(Note(f"{answer.reason}; trying again for up to {self._settings.no_connection_seconds:.0f} s"))

    def _give_up_when_unreachable(self, answer: Lost, begun: float) -> None:
        """Counted from the first try without a connection since there was one."""
        self._silent_since = begun if self._silent_since is None else self._silent_since
        silent = self.timing.monotonic() - self._silent_since
        if silent >= self._settings.no_connection_seconds:
            raise UnusableError(
                f"no connection to {self.repository.registry.host}/{self.repository.name} for {silent:.0f} s: "
                f"{answer.reason}; is the registry up, and the address right?"
            )
