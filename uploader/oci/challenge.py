"""What a 401 asks for: `WWW-Authenticate` challenges and token scopes (RFC 9110, 11.6; distribution token docs)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PARAMETER = re.compile(rf'\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}|[^\s,"]+))\s*(?:,|$)')
_SCHEME = re.compile(rf"\s*({_WORD})(?:\s+|(?=,)|$)")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*\s*(?:,|$)")
_DEFAULT_LIFE_SECONDS = 60.0  # the distribution token documentation's default where `expires_in` is missing
_LONGEST_LIFE_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: Basic, or Bearer with the realm, service and scope of its token."""

    scheme: Literal["basic", "bearer"]
    realm: str = ""
    service: str = ""
    scope: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and its life in seconds."""

    value: str = field(repr=False)
    life: float


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges we understand, in the order given; anything malformed is passed over."""
    challenges = []
    for scheme, parameters in _split(header[:8192].encode("ascii", "replace").decode()):
        match scheme.lower():
            case "basic":
                challenges.append(Challenge("basic", realm=parameters.get("realm", "")))
            case "bearer" if parameters.get("realm"):
                known = {key: parameters.get(key, "") for key in ("realm", "service", "scope", "error")}
                challenges.append(Challenge("bearer", **known))
            case _:
                continue
    return challenges


def _split(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    position = 0
    while (scheme := _SCHEME.match(header, position)) is not None:
        position = scheme.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(header, position)) is not None:
            quoted, plain = parameter[2], parameter[3]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            parameters.setdefault(parameter[1].lower(), value)
            position = parameter.end()
        if not parameters and (opaque := _TOKEN68.match(header, position)) is not None:
            position = opaque.end()  # of a scheme that we do not speak, such as Negotiate
        yield scheme[1], parameters
        while header[position : position + 1] in {",", " "}:
            position += 1


def wanted_scope(repository: str, actions: str, challenge: Challenge) -> str:
    """The scope to ask a token for: the challenge's, with all the actions on our repository that we will need.

    Asking for pull and push at once saves the second token that the first write would need.
    """
    ours = f"repository:{repository}:{actions}"
    others = [
        scope
        for scope in challenge.scope.split()
        if not scope.startswith("repository:") and scope != "registry:catalog:*"
    ]
    theirs = [
        f"{scope.rpartition(':')[0]}:{actions}" for scope in challenge.scope.split() if scope.startswith("repository:")
    ]
    if others and not theirs:
        return " ".join(others)  # a scheme of its own, such as ECR Public's "aws"
    return " ".join(dict.fromkeys([*(theirs or [ours]), *others]))


def parse_token(body: bytes) -> Token | None:
    """The token of a token server's answer (`token` or `access_token`); None when there is none in it."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    value = document.get("token") or document.get("access_token")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        return None
    life = document.get("expires_in")
    if not isinstance(life, (int, float)) or isinstance(life, bool) or not life > 0:
        life = _DEFAULT_LIFE_SECONDS
    return Token(value, float(min(life, _LONGEST_LIFE_SECONDS)))
