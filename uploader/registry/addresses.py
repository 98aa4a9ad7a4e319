"""Web addresses: their origin, which of them can be used, and which proxy leads there."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from uploader.errors import UnusableError

_PLAIN_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


def origin_of(url: str) -> str:
    """`scheme://host[:port]` of an absolute URL, without a default port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}.get(parts.scheme)
    port = ""
    with suppress(ValueError):
        port = "" if parts.port in {None, default} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def is_at(url: str, origin: str) -> bool:
    """Whether the URL leads to that origin."""
    return url.startswith(f"{origin}/") or origin_of(url) == origin


def is_web_address(url: str) -> bool:
    """Whether it is http or https, with a host that every reader of URLs reads alike, and without a login in it."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.username is None and parts.port != 0
    except ValueError:
        return False
    return usable and url.isascii() and url.isprintable() and bool(_PLAIN_HOST.fullmatch(parts.hostname or ""))


def proxy_for(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name; never a login from a netrc file.

    Raises UnusableError, without the login, for one that cannot be used.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    if not proxies or _is_this_machine(parts.hostname or "") or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    if not proxy.startswith(("http://", "https://")):
        if "://" in proxy:
            scheme = proxy.partition("://")[0]
            raise UnusableError(f"the proxy for {parts.scheme} is {scheme[:20]}://…, of which only http:// is known")
        proxy = f"http://{proxy}"
    if not _has_host_and_port(proxy):
        raise UnusableError(
            f"the proxy for {parts.scheme} has no host, or a port that is none: set {parts.scheme.upper()}_PROXY to "
            "http://HOST:PORT (in a login, write other characters than letters and digits as %XX)"
        )
    return proxy


def _has_host_and_port(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_this_machine(host: str) -> bool:
    """Loopback: a proxy would look for it on its own machine. Go's programs (docker, skopeo) pass it by, too."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
