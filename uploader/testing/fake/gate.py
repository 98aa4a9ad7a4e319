"""Who may do what: no login, Basic, or Bearer tokens with scopes from the registry's own /token."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from uploader.testing.fake.exchange import Call, Kind, Reply, error

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

Right = Literal["pull", "push", "delete"]


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Everybody may do everything."""


@dataclass(frozen=True, slots=True)
class Basic:
    """One user may do everything, others nothing."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Rights on the repositories whose whole name matches a regular expression."""

    rights: frozenset[Right] = frozenset({"pull", "push", "delete"})
    repositories: str = ".*"


@dataclass(frozen=True, slots=True)
class Bearer:
    """Tokens for scopes. `anonymous` is what may be had without a login.

    `realm` sends clients for tokens elsewhere; by default to this registry's `/token`.
    `fields`: how the token is called in the answer; `last_scope_only`: as GitLab reads several scopes.
    """

    user: str = "user"
    password: str = "secret"  # noqa: S105 - of a registry that lives as long as a test
    grants: tuple[Grant, ...] = (Grant(),)
    anonymous: tuple[Grant, ...] = ()
    seconds: int = 300
    fields: tuple[Literal["token", "access_token"], ...] = ("token", "access_token")
    last_scope_only: bool = False
    realm: str | None = None


Auth = Anonymous | Basic | Bearer


@dataclass(frozen=True, slots=True)
class _Token:
    rights: frozenset[tuple[str, str]]
    ends: float


class Gate:
    """Lets requests in or answers 401; issues tokens."""

    def __init__(self, auth: Auth, clock: Callable[[], float], ids: random.Random) -> None:
        self._auth = auth
        self._clock = clock
        self._ids = ids
        self._tokens: dict[str, _Token] = {}

    def refuses(self, call: Call) -> Reply | None:
        """The 401 for a request that may not go on; None lets it in."""
        if call.kind == "token":
            return None
        match self._auth:
            case Anonymous():
                return None
            case Basic(user, password):
                return None if _login(call) == (user, password) else self.challenge(call)
            case Bearer():
                return self._refuses_token(call)

    def challenge(self, call: Call, scope: str | None = None, problem: str | None = None) -> Reply:
        """401 that says how to come back; `scope` defaults to what the request needs."""
        if isinstance(self._auth, Basic):
            header = 'Basic realm="fake"'
        else:
            realm = self._auth.realm if isinstance(self._auth, Bearer) else None
            wanted = scope or " ".join(_scopes(_needs(call)))
            parts = {
                "realm": realm or f"{call.origin}/token",
                "service": "fake",
                "scope": wanted,
                "error": problem,
            }
            header = "Bearer " + ",".join(f'{name}="{value}"' for name, value in parts.items() if value)
        return error(401, "UNAUTHORIZED", "authentication required", www_authenticate=header)

    def issue(self, call: Call) -> Reply:
        """A token for those of the asked scopes that the login (or its absence) grants."""
        login = _login(call)
        fields: tuple[str, ...] = ("token",)
        grants: tuple[Grant, ...] = (Grant(),)
        seconds = 300
        scopes = [scope for value in call.every("scope") for scope in value.split()]
        if isinstance(self._auth, Bearer):
            if login not in {None, (self._auth.user, self._auth.password)}:
                return error(401, "UNAUTHORIZED", "wrong user or password")
            grants = self._auth.grants if login else self._auth.anonymous
            fields, seconds = self._auth.fields, self._auth.seconds
            scopes = scopes[-1:] if self._auth.last_scope_only else scopes
        text = f"{self._ids.getrandbits(128):032x}"
        self._tokens[text] = _Token(frozenset(_granted(scopes, grants)), self._clock() + seconds)
        answer = dict.fromkeys(fields, text) | {"expires_in": seconds}
        return Reply(200, {"content-type": "application/json"}, json.dumps(answer).encode())

    def revoke_tokens(self) -> None:
        """No token that was issued is worth anything any more."""
        self._tokens.clear()

    def _refuses_token(self, call: Call) -> Reply | None:
        scheme, _, text = call.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return self.challenge(call)
        token = self._tokens.get(text)
        if token is None or token.ends <= self._clock():
            return self.challenge(call, problem="invalid_token")
        if _needs(call) <= token.rights:
            return None
        return self.challenge(call, problem="insufficient_scope")


_READS: frozenset[Kind] = frozenset({"head-blob", "get-blob", "head-manifest", "get-manifest", "status", "tags"})
_DELETES: frozenset[Kind] = frozenset({"cancel", "delete-blob", "delete-manifest"})


def _needs(call: Call) -> set[tuple[str, str]]:
    """(repository, right) pairs; cancelling an upload needs `delete`, as in distribution."""
    if not call.repository:
        return set()
    if call.kind in _READS:
        return {(call.repository, "pull")}
    if call.kind in _DELETES:
        return {(call.repository, "delete")}
    needs = {(call.repository, "pull"), (call.repository, "push")}
    source = call.first("from") if call.kind == "mount" else None
    return needs | {(source, "pull")} if source else needs


def _scopes(needs: set[tuple[str, str]]) -> list[str]:
    repositories = sorted({repository for repository, _ in needs})
    return [
        f"repository:{name}:{','.join(sorted(right for held, right in needs if held == name))}" for name in repositories
    ]


def _granted(scopes: Iterable[str], grants: tuple[Grant, ...]) -> set[tuple[str, str]]:
    granted: set[tuple[str, str]] = set()
    for scope in scopes:
        kind, _, rest = scope.partition(":")
        name, _, rights = rest.rpartition(":")
        allowed = {right for grant in grants if re.fullmatch(grant.repositories, name) for right in grant.rights}
        granted |= {(name, right) for right in rights.split(",") if kind == "repository" and right in allowed}
    return granted


def _login(call: Call) -> tuple[str, str] | None:
    """User and password of Basic authentication; ("", "") for what cannot be read."""
    scheme, _, text = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password
