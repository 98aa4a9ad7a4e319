"""The quota of a registry as its user states it: `60`, `2000/m`, `registry.example:5000=60`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from uploader.errors import InputError
from uploader.oci.profile import EVERY_REQUEST, Quota

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_STATED: Final = re.compile(r"(?:(?P<host>[^=\s]+)=)?(?P<requests>[1-9][0-9]{0,8})(?:/(?P<unit>s|m|h))?")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
EVERY_HOST: Final = ""


def read_quotas(stated: Iterable[str]) -> Mapping[str, Quota]:
    """By host, `EVERY_HOST` for those that are not named; raises InputError."""
    quotas: dict[str, Quota] = {}
    for text in stated:
        match = _STATED.fullmatch(text)
        if match is None:
            raise InputError(
                f"limit_requests is {text!r}: write a number of requests per second, minute or hour, such as 60, "
                "2000/m, or for one registry ghcr.io=2000/m"
            )
        host = (match["host"] or EVERY_HOST).lower()
        if host in quotas:
            raise InputError(f"limit_requests has two numbers for {host or 'every registry'}")
        quotas[host] = Quota(EVERY_REQUEST, int(match["requests"]), _SECONDS[match["unit"] or "s"])
    return quotas
