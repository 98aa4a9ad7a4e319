"""The ways to a registry: through proxies, with client certificates, and never into somebody's network."""

from __future__ import annotations

import base64
import shutil
import socket
import traceback
from typing import TYPE_CHECKING

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.component.a_client import LAYER, NAME, a_client, described, fill, push
from uploader.errors import InputError, RegistryError, UnusableError
from uploader.model.reference import Registry
from uploader.registry.certificates import Certificates, find_certificates
from uploader.registry.credentials import Credentials
from uploader.registry.reach import Reach
from uploader.testing import Answer, Bearer, FakeRegistry, Fault
from uploader.testing.http_proxy import proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "hidden-0123456789"  # noqa: S105
ALICE = Credentials("alice", SECRET)

pytestmark = pytest.mark.asyncio


@pytest.fixture
def proxies() -> Iterator[pytest.MonkeyPatch]:
    """For variables of the environment; of those about proxies none is set."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield patch


class TestProxies:
    async def test_plain_http_goes_through_the_proxy_whole(self, proxies: pytest.MonkeyPatch) -> None:
        async with FakeRegistry() as registry, proxy(registry.host) as between:
            proxies.setenv("HTTP_PROXY", f"http://{between.host}")
            async with a_client(Registry("http", "registry.test")) as client:
                assert await push(client) == "uploaded"
            assert {asked.method for asked in between.asked} == {"POST", "PUT"}
            assert all(asked.target.startswith("http://registry.test/v2/") for asked in between.asked)
            assert len(between.asked) == len(registry.requests)

    async def test_https_goes_through_a_tunnel_in_which_the_proxy_sees_nothing(
        self, proxies: pytest.MonkeyPatch
    ) -> None:
        auth = Bearer("alice", SECRET)
        async with FakeRegistry(tls=True, auth=auth) as registry, proxy(registry.host) as between:
            proxies.setenv("https_proxy", between.host)
            where = Registry("https", "registry.test")
            async with a_client(where, credentials=ALICE, ca_file=registry.ca_file) as client:
                assert await push(client) == "uploaded"
            assert {(asked.method, asked.target) for asked in between.asked} == {("CONNECT", "registry.test:443")}
            assert all("authorization" not in asked.headers for asked in between.asked)
            assert registry.requests_of("token") != []

    async def test_the_proxys_login_goes_to_the_proxy_alone(self, proxies: pytest.MonkeyPatch) -> None:
        wanted = "Basic " + base64.b64encode(b"bob:of the proxy").decode()
        async with FakeRegistry() as registry, proxy(registry.host, authorization=wanted) as between:
            proxies.setenv("http_proxy", f"http://bob:of%20the%20proxy@{between.host}")
            async with a_client(Registry("http", "registry.test")) as client:
                assert await push(client) == "uploaded"
            assert all("proxy-authorization" not in request.headers for request in registry.requests)

    async def test_a_proxy_that_refuses_a_tunnel_is_named_without_its_login(self, proxies: pytest.MonkeyPatch) -> None:
        async with proxy("127.0.0.1:9", authorization="Basic another") as between:
            proxies.setenv("https_proxy", f"http://bob:{SECRET}@{between.host}")
            async with a_client(Registry("https", "registry.test")) as client:
                with pytest.raises(UnusableError, match=r"proxy refused .* registry\.test with 407") as caught:
                    await client.is_empty()
            assert SECRET not in "".join(traceback.format_exception(caught.value))
            assert len(between.asked) == 1

    @pytest.mark.parametrize("name", ["registry.test", ".test", "other.test,registry.test", "*"])
    async def test_no_proxy_names_hosts_that_are_reached_directly(self, proxies: pytest.MonkeyPatch, name: str) -> None:
        async with FakeRegistry() as registry, proxy(registry.host) as between:
            proxies.setenv("http_proxy", between.host)
            proxies.setenv("no_proxy", name)
            reach = Reach("http://registry.test", resolver=Loopback)
            where = Registry("http", f"registry.test:{registry.host.partition(':')[2]}")
            async with a_client(where, reach=reach) as client:
                assert await client.is_empty()
            assert between.asked == []

    async def test_this_machine_is_never_looked_for_behind_a_proxy(self, proxies: pytest.MonkeyPatch) -> None:
        async with FakeRegistry() as registry, proxy("127.0.0.1:9") as between:
            proxies.setenv("http_proxy", between.host)
            for host in (registry.host, registry.host.replace("127.0.0.1", "localhost")):
                async with a_client(Registry("http", host)) as client:
                    assert await client.is_empty()
            assert between.asked == []

    async def test_a_proxy_of_another_kind_is_refused_without_its_login(self, proxies: pytest.MonkeyPatch) -> None:
        proxies.setenv("http_proxy", f"socks5://user:{SECRET}@proxy.test")
        async with a_client(Registry("http", "registry.test")) as client:
            with pytest.raises(UnusableError, match="socks5") as caught:
                await client.is_empty()
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("place", ["proxy.test:99999", "proxy.test:port", "proxy.test:0", ":80", "[::1"])
    async def test_a_proxy_without_an_address_is_refused_at_once_without_its_login(
        self, proxies: pytest.MonkeyPatch, place: str
    ) -> None:
        proxies.setenv("https_proxy", f"http://user:{SECRET}@{place}")
        async with a_client(Registry("https", "registry.test")) as client:
            with pytest.raises(UnusableError, match=r"the proxy for https .* set HTTPS_PROXY to") as caught:
                await client.is_empty()
        assert SECRET not in "".join(traceback.format_exception(caught.value))


class Loopback(AbstractResolver):
    """Every name is this machine's, save `inside.test`."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002
    ) -> list[ResolveResult]:
        address = "10.0.0.1" if host == "inside.test" else "127.0.0.1"
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


def a_reach(*trusted: str) -> Reach:
    """As if loopback were the public internet, and 10.0.0.0/8 somebody's network."""
    return Reach(
        "http://registry.test", trusted=trusted, resolver=Loopback, is_inside=lambda address: address.startswith("10.")
    )


def at_name(registry: FakeRegistry, name: str = "registry.test") -> Registry:
    return Registry("http", registry.host.replace("127.0.0.1", name))


@pytest.mark.parametrize("host", ["inside.test", "10.0.0.2"])
class TestInside:
    async def test_a_location_there_is_not_followed(self, host: str) -> None:
        async with FakeRegistry() as registry, a_client(at_name(registry), reach=a_reach()) as client:
            location = {"location": f"http://{host}:9/upload?_state={SECRET}"}
            registry.inject(Fault(on="open", then=Answer(202, headers=location)))
            with pytest.raises(RegistryError, match=rf"sent on to {host}.*inside a private network") as caught:
                await push(client)
            assert SECRET not in str(caught.value)
            assert caught.value.attempts == 1

    async def test_a_redirect_there_is_not_followed(self, host: str) -> None:
        async with FakeRegistry() as registry, a_client(at_name(registry), reach=a_reach()) as client:
            fill(registry)
            registry.inject(Fault(on="get-blob", then=Answer(307, headers={"location": f"http://{host}:9/blob"})))
            with pytest.raises(RegistryError, match="inside a private network"):
                await client.read_blob(described(LAYER))

    async def test_a_token_service_there_ends_the_run(self, host: str) -> None:
        auth = Bearer("alice", SECRET, realm=f"https://{host}/token")
        async with FakeRegistry(auth=auth) as registry, a_client(at_name(registry), reach=a_reach()) as client:
            with pytest.raises(UnusableError, match="inside a private network"):
                await push(client)

    async def test_a_host_that_the_user_names_is_gone_to(self, host: str) -> None:
        async with FakeRegistry() as registry, proxy(registry.host) as between:
            location = {"location": f"http://{host}/v2/{NAME}/blobs/uploads/1"}
            registry.inject(Fault(on="open", then=Answer(202, headers=location)))
            with pytest.MonkeyPatch.context() as patch:  # so that something is there
                patch.setenv("http_proxy", between.host)
                patch.setenv("no_proxy", "registry.test")
                async with a_client(at_name(registry), reach=a_reach(host)) as client:
                    with pytest.raises(RegistryError, match="404"):
                        await push(client)
            assert between.asked != []


async def test_a_location_at_another_public_host_is_followed() -> None:
    async with FakeRegistry() as other, FakeRegistry() as registry:
        location = {"location": f"{at_name(other, 'storage.test').origin}/v2/{NAME}/blobs/uploads/1"}
        registry.inject(Fault(on="open", then=Answer(202, headers=location)))
        async with a_client(at_name(registry), reach=a_reach()) as client:
            with pytest.raises(RegistryError, match="404"):
                await push(client)
        assert "put-blob" in {request.kind for request in other.requests}


def certs_d(home: Path, registry: FakeRegistry) -> Path:
    """The folder where Skopeo and Podman look for a user's certificates, with those of the registry in it."""
    assert registry.ca_file is not None
    folder = home / ".config" / "containers" / "certs.d" / registry.host
    folder.mkdir(parents=True)
    shutil.copy(registry.ca_file, folder / "ca.crt")
    for name in ("client.cert", "client.key"):
        shutil.copy(registry.ca_file.parent / name, folder / name)
    return folder


class TestCertificates:
    async def test_a_registry_that_wants_a_certificate_gets_it(self, tmp_path: Path) -> None:
        async with FakeRegistry(tls="mutual") as registry:
            certs_d(tmp_path, registry)
            certificates = find_certificates(registry.host, {"HOME": str(tmp_path)})
            async with a_client(registry, certificates=certificates) as client:
                assert await push(client) == "uploaded"

    async def test_without_it_no_request_is_let_in(self, tmp_path: Path) -> None:
        async with FakeRegistry(tls="mutual") as registry, a_client(registry, ca_file=registry.ca_file) as client:
            assert find_certificates(registry.host, {"HOME": str(tmp_path)}) == Certificates()
            with pytest.raises(RegistryError, match="closed before the answer"):
                await push(client)
            assert registry.requests == []

    async def test_another_host_sees_nothing_of_it(self, tmp_path: Path) -> None:
        async with FakeRegistry(tls="mutual") as registry, FakeRegistry(tls="mutual") as other:
            certs_d(tmp_path, registry)
            shutil.copy(other.ca_file or "", tmp_path / "other.pem")
            headers = {"location": f"{other.url}/v2/{NAME}/blobs/uploads/1"}
            registry.inject(Fault(on="open", then=Answer(202, headers=headers)))
            certificates = find_certificates(registry.host, {"HOME": str(tmp_path)})
            async with a_client(registry, certificates=certificates, ca_file=tmp_path / "other.pem") as client:
                with pytest.raises(RegistryError, match="closed before the answer"):
                    await push(client)
            assert other.requests == []

    async def test_its_authority_is_trusted_for_that_host_alone(self, tmp_path: Path) -> None:
        async with FakeRegistry(tls="mutual") as registry, FakeRegistry(tls=True) as other:
            assert other.ca_file is not None
            shutil.copy(other.ca_file, certs_d(tmp_path, registry) / "other.crt")
            headers = {"location": f"{other.url}/v2/{NAME}/blobs/uploads/1"}
            registry.inject(Fault(on="open", then=Answer(202, headers=headers)))
            certificates = find_certificates(registry.host, {"HOME": str(tmp_path)})
            async with a_client(registry, certificates=certificates) as client:
                with pytest.raises(UnusableError, match="is not trusted"):
                    await push(client)

    async def test_half_a_pair_is_an_error(self, tmp_path: Path) -> None:
        async with FakeRegistry(tls="mutual") as registry:
            (certs_d(tmp_path, registry) / "client.key").unlink()
            with pytest.raises(InputError, match=r"client\.cert and client\.key go together"):
                find_certificates(registry.host, {"HOME": str(tmp_path)})

    @pytest.mark.parametrize("name", ["client.cert", "client.key", "ca.crt"])
    async def test_a_file_that_is_no_certificate_is_an_error_that_names_it(self, tmp_path: Path, name: str) -> None:
        async with FakeRegistry(tls="mutual") as registry:
            (certs_d(tmp_path, registry) / name).write_text(SECRET)
            certificates = find_certificates(registry.host, {"HOME": str(tmp_path)})
            with pytest.raises(InputError, match=name) as caught:
                async with a_client(registry, certificates=certificates):
                    pass
            assert SECRET not in "".join(traceback.format_exception(caught.value))


async def test_a_location_of_the_host_that_we_were_sent_on_to_is_there() -> None:
    async with FakeRegistry() as other, FakeRegistry() as registry:
        headers = {"location": f"{other.url}/v2/{NAME}/blobs/uploads/"}
        registry.inject(Fault(on="open", then=Answer(307, headers=headers)))
        async with a_client(registry) as client:
            assert await push(client) == "uploaded"
        assert [request.kind for request in other.requests] == ["open", "put-blob"]
        assert [request.kind for request in registry.requests] == ["open"]
