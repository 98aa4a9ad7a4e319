"""Answers that are not the hoped-for ones: what they mean, whether they pass by themselves, how long to wait."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from uploader.errors import Kind, RegistryError
from uploader.oci.http import Lost, Request, Response, error_codes

if TYPE_CHECKING:
    from uploader.oci.profile import Profile

_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_LONGEST_WAIT_SECONDS: Final = 3600.0
_GHCR_HINT: Final = re.compile(r"retry-after: ([0-9][0-9.hmsunµ]{0,40})", re.IGNORECASE)
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|µs|us|ns|m|s|)", re.IGNORECASE)
_UNIT_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}
_SECRET: Final = re.compile(r"\b(basic|bearer)\s+[\w.~+/=-]{16,}|\?[^\s\"'<>]+", re.IGNORECASE)
_CODES_OF_QUOTA: Final = frozenset({"TOOMANYREQUESTS"})
_HINTS: Final = {
    401: "log in with `docker login`, or set UPLOADER_USERNAME and UPLOADER_PASSWORD",
    403: "the account may not do this: check its right to push to this repository",
    404: "the repository may have to be created first",
    405: "the registry does not allow this at all: is it read-only, or a pull-through cache?",
    413: "a proxy or the registry limits the size of a request body",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an unwanted answer means. `throttled`: the registry asks everybody for less; waits are seconds."""

    kind: Kind
    transient: bool
    throttled: bool
    retry_after: float | None
    text: str
    codes: tuple[str, ...] = ()


def read_refusal(answer: Response | Lost, profile: Profile, now: float) -> Refusal:
    """Judge an answer that is not a success; `now` is the wall clock in seconds, for dates in Retry-After."""
    if isinstance(answer, Lost):
        return Refusal("network", transient=True, throttled=False, retry_after=None, text=answer.reason)
    pairs = error_codes(answer.body)
    codes = tuple(_printable(code) for code, _ in pairs if code)
    said = "; ".join(f"{code}: {message}" if message else code for code, message in pairs)
    text = f"answered {answer.status}" + (f" ({_printable(said)})" if said else "")
    limited_403 = answer.status == 403 and any(
        phrase in answer.body[:4096].decode("utf-8", "replace").lower() for phrase in profile.throttling_403
    )
    told = _retry_after(answer, said or answer.body[:4096].decode("utf-8", "replace"), now)
    throttled = answer.status in {429, 503} or limited_403 or not _CODES_OF_QUOTA.isdisjoint(codes)
    return Refusal(
        _kind(answer.status, throttled=throttled),
        transient=answer.status in _TRANSIENT or throttled,
        throttled=throttled,
        retry_after=told if told is not None or not limited_403 else profile.untold_wait,
        text=text,
        codes=codes,
    )


def refusal_error(request: Request, answer: Response | Lost, profile: Profile) -> RegistryError:
    """The error for a request that got this answer for good."""
    refusal = read_refusal(answer, profile, now=0.0)
    tries = f" after {answer.attempts} tries" if answer.attempts > 1 else ""
    status = answer.status if isinstance(answer, Response) else None
    hint = _HINTS.get(status or 0)
    return RegistryError(
        f"{request.subject}: {refusal.text}{tries}" + (f"; {hint}" if hint else ""),
        kind=refusal.kind,
        status=status,
        codes=refusal.codes,
        attempts=answer.attempts,
    )


def _kind(status: int, *, throttled: bool) -> Kind:
    if throttled and status != 503:
        return "quota"
    if status in {401, 403}:
        return "auth"
    return "registry"


def _retry_after(response: Response, said: str, now: float) -> float | None:
    """The wait that was asked for: Retry-After as seconds or date (RFC 9110, 10.2.3), or in GHCR's words."""
    value = response.header("retry-after").strip()
    seconds: float | None = None
    if value:
        try:
            seconds = float(value)
        except ValueError:
            seconds = _seconds_until(value, response, now)
    elif response.status == 429 and (match := _GHCR_HINT.search(said)):
        seconds = sum(float(number) * _UNIT_SECONDS[unit.lower()] for number, unit in _DURATION.findall(match[1]))
    if seconds is None or not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT_SECONDS)


def _seconds_until(date: str, response: Response, now: float) -> float | None:
    """Counted from the server's own clock where it tells it, so that two clocks need not agree."""
    try:
        until = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
    with contextlib.suppress(ValueError, OverflowError, TypeError):
        now = parsedate_to_datetime(response.header("date")).timestamp()
    return until - now


def _printable(text: str) -> str:
    """What a registry said, without control characters, queries of URLs, and logins that it repeats."""
    readable = "".join(char if char.isprintable() else " " for char in text)
    return _SECRET.sub(lambda match: f"{match[1] or '?'}…", readable)[:400]
