"""Where a public registry may send its clients: by the address, however it is written or resolved."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from uploader.registry.reach import InwardError, Reach, is_inside

if TYPE_CHECKING:
    from collections.abc import Mapping

INSIDE = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",  # noqa: S104
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd12::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "no address",
]
OUTSIDE = [
    "1.1.1.1",
    "140.82.121.33",
    "172.32.0.1",
    "192.169.0.1",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
]


@pytest.mark.parametrize("address", INSIDE)
def test_these_are_inside_a_network(address: str) -> None:
    assert is_inside(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_these_are_of_the_public_internet(address: str) -> None:
    assert not is_inside(address)


class Names(AbstractResolver):
    """Resolves the names that it was given."""

    def __init__(self, names: Mapping[str, list[str]]) -> None:
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self._names[host]
        ]

    async def close(self) -> None:
        pass


NAMES = {
    "registry.test": ["140.82.121.33"],
    "corp.test": ["10.0.0.7"],
    "storage.test": ["1.1.1.1"],
    "metadata.test": ["169.254.169.254"],
    "both.test": ["1.1.1.1", "127.0.0.1"],
}


async def goes(origin: str, host: str, *trusted: str, known: bool = True) -> bool:
    """Whether connections of a registry at `origin`, which is connected to already if `known`, may go to the host."""
    reach = Reach(origin, trusted=trusted, resolver=lambda: Names(NAMES))
    try:
        if known and (own := origin.partition("://")[2]) in NAMES:
            await reach.resolve(own)
        reach.check(host)
        if host in NAMES:
            await reach.resolve(host)
    except InwardError as error:
        return not (host in str(error) and "auth_realms" in str(error))
    finally:
        await reach.close()
    return True


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "host",
    ["metadata.test", "corp.test", "both.test", "localhost", "x.localhost", "127.0.0.1", "169.254.169.254", "::1"],
)
async def test_a_public_registry_sends_nobody_inside(host: str) -> None:
    assert not await goes("https://registry.test", host)
    assert not await goes("https://1.1.1.1:5000", host)


@pytest.mark.asyncio
@pytest.mark.parametrize("host", ["storage.test", "registry.test", "1.1.1.1", "2606:4700::1111"])
async def test_a_public_registry_sends_clients_to_public_hosts(host: str) -> None:
    assert await goes("https://registry.test", host)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "origin", ["https://corp.test", "http://127.0.0.1:5000", "http://[::1]:5000", "http://localhost"]
)
@pytest.mark.parametrize("host", ["corp.test", "metadata.test", "127.0.0.1", "10.9.9.9", "storage.test"])
async def test_a_registry_inside_may_name_hosts_inside(origin: str, host: str) -> None:
    assert await goes(origin, host)


@pytest.mark.asyncio
@pytest.mark.parametrize("host", ["metadata.test", "10.0.0.9"])
async def test_a_host_that_the_user_names_may_be_inside(host: str) -> None:
    assert await goes("https://registry.test", host, host)
    assert not await goes("https://registry.test", host, "another.test")


@pytest.mark.asyncio
async def test_behind_a_proxy_only_what_is_written_out_can_be_judged() -> None:
    assert not await goes("https://registry.test", "169.254.169.254", known=False)
    assert await goes("https://registry.test", "metadata.test", known=False)


@pytest.mark.asyncio
async def test_a_registry_with_an_address_of_each_kind_counts_as_public() -> None:
    """Who runs it could otherwise get inside by naming one more address of its own."""
    assert not await goes("https://both.test", "corp.test")
