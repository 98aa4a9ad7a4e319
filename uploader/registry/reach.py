"""Where a registry may send its clients: a public one never to an address inside somebody's network.

A registry names further hosts, in a challenge's realm, a redirect, or an upload's Location. Followed blindly, they
turn the client into a tool for asking what only it can reach (the cloud's metadata, a router, a service on loopback).
Names are judged by the addresses they resolve to, at the moment of the connection, so that a name cannot change its
mind in between.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class InwardError(Exception):
    """A public registry sent us to a host inside a private network; the text says which."""


def is_inside(address: str) -> bool:
    """Whether an IP address is private, loopback, link-local, or otherwise not of the public internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour or (_last_four(ip) if ip in _NAT64 else None)
        if carried is not None:
            return is_inside(str(carried))
    return not ip.is_global or ip.is_multicast


def _last_four(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)


class Reach(AbstractResolver):
    """The resolver of one registry's connections. Mutable: whether the registry's own name is a public one.

    `trusted` are hosts that the user named. Raises InwardError for what is refused; what the registry's address is
    cannot be known behind a proxy, and then only addresses that are written out are refused.
    """

    def __init__(
        self,
        origin: str,
        *,
        trusted: Iterable[str] = (),
        resolver: Callable[[], AbstractResolver] = ThreadedResolver,
        is_inside: Callable[[str], bool] = is_inside,
    ) -> None:
        """`origin` is the registry's: `scheme://host[:port]`."""
        host = self._host = urlsplit(origin).hostname or ""
        self._trusted = frozenset(trusted)
        self._make_resolver = resolver
        self._resolver: AbstractResolver | None = None
        self._is_inside = is_inside
        literal = _literal(host)
        self._is_public: bool | None = None if literal is None else not is_inside(literal)

    def check(self, host: str) -> None:
        """Refuse a host that is written as an address, or as the name of this machine, and may not be gone to."""
        literal = _literal(host)
        if literal is not None and self._is_public is not False and not self._may(host) and self._is_inside(literal):
            raise InwardError(self._text(host, literal))

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = 0,  # type: ignore[assignment]
    ) -> list[ResolveResult]:
        """The addresses of the host; raises OSError where there are none."""
        if self._resolver is None:
            self._resolver = self._make_resolver()
        found = await self._resolver.resolve(host, port, family)
        inside = [one["host"] for one in found if self._is_inside(one["host"])]
        if host == self._host:
            self._is_public = len(inside) < len(found)
        elif inside and self._is_public and not self._may(host):
            raise InwardError(self._text(host, inside[0]))
        return found

    async def close(self) -> None:
        """Let go of it."""
        if self._resolver is not None:
            await self._resolver.close()

    def _may(self, host: str) -> bool:
        return host == self._host or host in self._trusted

    def _text(self, host: str, address: str) -> str:
        which = host if host == address else f"{host} ({address})"
        return (
            f"was sent on to {which}, which is inside a private network, while the registry {self._host} is not; "
            f"if that is right, allow it with the setting auth_realms (--auth-realms {host})"
        )


def _literal(host: str) -> str | None:
    """The address that a host is written as; None for a name that has to be resolved."""
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return None
