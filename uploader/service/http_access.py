"""Who sends a request to the HTTP API."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from uploader.service.problems import Refused
from uploader.service.tokens import ANYBODY

if TYPE_CHECKING:
    from aiohttp import web

    from uploader.service.tokens import Caller, Tokens


def find_caller(request: web.Request, tokens: Tokens | None) -> Caller:
    """Who asks. Without tokens whoever can reach us may; but not a web page that a browser on this machine shows."""
    if tokens is None:
        if "Origin" in request.headers or not _is_loopback(request.host):
            raise Refused(403, "this daemon has no tokens: it answers programs on its own machine only")
        return ANYBODY
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    caller = tokens.find(token.strip()) if scheme.lower() == "bearer" else None
    if caller is None:
        said = "this token is not known" if token else "a bearer token is needed"
        raise Refused(401, said, {"WWW-Authenticate": 'Bearer realm="uploader"'})
    return caller


def _is_loopback(host: str) -> bool:
    """By the Host header: a name that somebody else's DNS points here is not ours."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name == "localhost":
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
