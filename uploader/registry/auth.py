"""Logging in: answers challenges, keeps tokens per scope, renews them before they end.

Whoever needs a token first fetches it, everybody else waits for that one request. Credentials go to the registry
itself; to a token service only when it has the registry's origin, or is https and below the registry's own domain,
listed in its profile, or named by the user (`auth_realms`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode, urlsplit

import anyio

from uploader.errors import RegistryError, UnusableError
from uploader.oci.challenge import Challenge, parse_challenges, parse_token, wanted_scope
from uploader.oci.http import Answer, Request, Response
from uploader.registry.addresses import is_web_address, origin_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploader.oci.profile import Profile
    from uploader.registry.credentials import Credentials

_CLIENT = "uploader"
_RENEW_AT = 2 / 3  # of a token's life, so that a long upload does not begin with a token about to end


class Ask(Protocol):
    """Sends one request under the retry policy, with this Authorization as long as it is at the origin `home`."""

    async def __call__(self, request: Request, authorization: str, home: str) -> Answer: ...


@dataclass(frozen=True, slots=True)
class _Held:
    value: str = field(repr=False)
    scope: str
    renew_at: float


class Authorizer:
    """The login to one repository. Mutable: how the registry wants to be asked, the token held, whether it worked."""

    def __init__(
        self,
        *,
        origin: str,
        repository: str,
        actions: str,
        credentials: Credentials | None,
        profile: Profile,
        realms: frozenset[str],
        ask: Ask,
        clock: Callable[[], float],
    ) -> None:
        self._origin = origin
        self._repository = repository
        self._actions = actions
        self._credentials = credentials
        self._realms = realms | frozenset(profile.realms)
        self._ask = ask
        self._clock = clock
        self._challenge: Challenge | None = None
        self._held: _Held | None = None
        self._worked = False
        self._lock = anyio.Lock()

    async def authorization(self) -> str:
        """The Authorization header for the next request; empty before the registry has asked for one."""
        challenge = self._challenge
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            return self._basic()
        held = self._held
        if held is None or self._clock() >= held.renew_at:
            async with self._lock:
                if self._held is held:
                    await self._fetch(challenge)
            held = self._held
        return f"Bearer {held.value}" if held else ""

    def accepted(self, used: str) -> None:
        """A request that carried `used` was let in: a later refusal is about that one request, not about the login."""
        self._worked = self._worked or bool(used)

    async def refused(self, answer: Response, used: str) -> bool:
        """A request that carried `used` got 401: whether it is worth sending again with another authorization.

        Raises UnusableError when the credentials themselves are refused, or missing.
        """
        async with self._lock:
            if used != self._current():
                return True  # somebody else has logged in meanwhile
            challenge = self._pick(answer) or await self._ping()
            if challenge is None:
                return False
            if challenge.scheme == "basic":
                return self._take_basic(challenge, used)
            if used and not self._worked and self._credentials is None and self._holds(challenge):
                raise UnusableError(self._no_login())  # what anybody may do is not enough
            if used and challenge.error == "insufficient_scope" and self._holds(challenge):
                return False
            self._challenge = challenge
            await self._fetch(challenge)
            return self._current() != used

    def _holds(self, challenge: Challenge) -> bool:
        """Whether the token was asked for with this scope: another one would be no better."""
        return self._held is not None and self._held.scope == self._scope(challenge)

    def _scope(self, challenge: Challenge) -> str:
        return wanted_scope(self._repository, self._actions, challenge)

    def _current(self) -> str:
        if self._challenge is None:
            return ""
        if self._challenge.scheme == "basic":
            return self._basic()
        return f"Bearer {self._held.value}" if self._held else ""

    def _pick(self, answer: Response) -> Challenge | None:
        """Bearer before Basic: a token is worth less to a thief than a password."""
        challenges = parse_challenges(answer.header("www-authenticate"))
        return min(challenges, key=lambda challenge: challenge.scheme != "bearer", default=None)

    async def _ping(self) -> Challenge | None:
        """GCR answers real requests with a bare 401; the challenge is on `GET /v2/`."""
        answer = await self._ask(Request("GET", "/v2/", f"log in to {self._host()}"), "", self._origin)
        return self._pick(answer) if isinstance(answer, Response) and answer.status == 401 else None

    def _basic(self) -> str:
        return self._credentials.basic if self._credentials else ""

    def _take_basic(self, challenge: Challenge, used: str) -> bool:
        if self._credentials is None or not self._credentials.user:
            raise UnusableError(
                f"{self._host()} asks for a user and a password, and none are known: use `docker login "
                f"{self._host()}`, or set UPLOADER_USERNAME and UPLOADER_PASSWORD"
            )
        if used == self._credentials.basic:
            if self._worked:
                return False
            raise UnusableError(f"{self._host()} refused the login of user {self._credentials.user!r}: log in again")
        self._challenge = challenge
        return True

    async def _fetch(self, challenge: Challenge) -> None:
        if not is_web_address(challenge.realm):
            raise UnusableError(f"{self._host()} names a token service that is not a web address")
        credentials = self._credentials
        if not self._trusts(challenge.realm):
            if credentials is not None:
                raise UnusableError(
                    f"{self._host()} wants the login sent to {origin_of(challenge.realm)}, which is not its own token "
                    "service; if that is right, allow it with the setting auth_realms "
                    f"(--auth-realms {urlsplit(challenge.realm).hostname})"
                )
            if not challenge.realm.startswith("https:"):
                raise UnusableError(f"{self._host()} names a token service without TLS: {origin_of(challenge.realm)}")
        request, authorization = self._token_request(challenge, credentials)
        try:
            answer = await self._ask(request, authorization, origin_of(challenge.realm))
        except RegistryError as error:  # it leads to where nobody may be sent
            raise UnusableError(str(error)) from error
        if not isinstance(answer, Response):
            raise UnusableError(f"cannot get a token from {origin_of(challenge.realm)}: {answer.reason}")
        token = parse_token(answer.body) if answer.status == 200 else None
        if token is None:
            raise UnusableError(self._no_token(challenge, answer))
        self._held = _Held(token.value, self._scope(challenge), self._clock() + token.life * _RENEW_AT)

    def _token_request(self, challenge: Challenge, credentials: Credentials | None) -> tuple[Request, str]:
        """Distribution's token protocol by GET; its OAuth2 form by POST where we hold an identity token."""
        fields = {"service": challenge.service, "scope": self._scope(challenge)}
        subject = f"get a token from {origin_of(challenge.realm)}"
        if credentials is not None and credentials.identity_token:
            form = {
                **fields,
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": _CLIENT,
            }
            headers = {"content-type": "application/x-www-form-urlencoded"}
            return Request("POST", challenge.realm, subject, headers, urlencode(form).encode(), secret=True), ""
        separator = "&" if "?" in challenge.realm else "?"
        query = urlencode({**{k: v for k, v in fields.items() if v}, "client_id": _CLIENT})
        return Request("GET", f"{challenge.realm}{separator}{query}", subject), (
            credentials.basic if credentials else ""
        )

    def _trusts(self, realm: str) -> bool:
        origin = origin_of(realm)
        if origin == self._origin:
            return True
        host = (urlsplit(realm).hostname or "").lower()
        if not origin.startswith("https:"):
            return False
        ours = _registrable(urlsplit(self._origin).hostname or "")
        return host in self._realms or host == ours or (bool(ours) and host.endswith(f".{ours}"))

    def _no_token(self, challenge: Challenge, answer: Response) -> str:
        service = origin_of(challenge.realm)
        if answer.status not in {401, 403}:
            return f"cannot get a token from {service}: answered {answer.status}, expected 200 with a token"
        if self._credentials is None:
            return self._no_login()
        who = f"the login of user {self._credentials.user!r}" if self._credentials.user else "the identity token"
        return f"{service} refused {who} with {answer.status}: log in again, and check the right to push"

    def _no_login(self) -> str:
        return (
            f"{self._host()} asks for a login, and none is known: use `docker login {self._host()}`, "
            "or set UPLOADER_USERNAME and UPLOADER_PASSWORD"
        )

    def _host(self) -> str:
        return self._origin.partition("://")[2]


def _registrable(host: str) -> str:
    """The domain one may register, guessed: the last two labels, or three below a short second level (co.uk)."""
    labels = host.split(".")
    if len(labels) < 2 or labels[-1].isdigit():
        return ""
    take = 3 if len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3 else 2
    return ".".join(labels[-take:])
