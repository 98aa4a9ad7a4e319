"""A second server that records everything it is sent: whatever a registry does to lead there, it sees no secret."""

from __future__ import annotations

import base64
import socket
from typing import TYPE_CHECKING

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.component.a_client import NAME, ZLIB, a_client, a_manifest, described, fill, push
from uploader.errors import UploaderError
from uploader.model.reference import Registry
from uploader.oci.media_types import OCI_MANIFEST
from uploader.oci.profile import profile_for
from uploader.registry.credentials import Credentials
from uploader.registry.reach import Reach
from uploader.testing import Answer, Basic, Bearer, FakeRegistry, Fault

if TYPE_CHECKING:
    from uploader.registry.client import RegistryClient

PASSWORD = "hidden-0123456789"  # noqa: S105
IDENTITY = "identity-0123456789"
LOGINS = {
    "password": Credentials("alice", PASSWORD),
    "identity token": Credentials("", "", IDENTITY),
}
SECRETS = (PASSWORD, IDENTITY, base64.b64encode(f"alice:{PASSWORD}".encode()).decode())

pytestmark = pytest.mark.asyncio


def shown(registry: FakeRegistry) -> str:
    """All that it was sent but the bodies of uploads: addresses and headers."""
    return repr(registry.requests)


async def try_everything(client: RegistryClient) -> None:
    """Requests of every kind; most of them fail here."""
    told: list[str] = []
    for work in (
        lambda: client.has_blob(described(b"a layer of zlib")),
        lambda: client.read_blob(described(b"a layer of zlib")),
        lambda: client.find_tag(ZLIB),
        lambda: client.read_manifest(ZLIB),
        lambda: push(client),
        lambda: push(client, b"another", expected=True),
        lambda: client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST),
    ):
        try:
            await work()
        except UploaderError as error:
            told.append(str(error))
    assert not [secret for secret in SECRETS if secret in "".join(told)]


def leading(other: FakeRegistry) -> dict[str, Fault]:
    """What a registry may do to send its clients to `other`."""
    there = {"location": f"{other.url}/v2/{NAME}/blobs/uploads/1"}
    basic = {"www-authenticate": f'Basic realm="{other.url}"'}
    bearer = {"www-authenticate": f'Bearer realm="{other.url}/token",service="x",scope="repository:{NAME}:pull,push"'}
    disguised = {"www-authenticate": f'Bearer realm="http://127.0.0.1@{other.host}/token"'}
    return {
        **{f"a redirect with {status}": Fault("any", Answer(status, headers=there)) for status in (301, 302, 303)},
        **{f"a redirect with {status}": Fault("any", Answer(status, headers=there)) for status in (307, 308)},
        "a redirect of the token request": Fault("token", Answer(307, headers={"location": f"{other.url}/token"})),
        "a Location": Fault(frozenset({"open", "mount"}), Answer(202, headers=there)),
        "a Location with a login in it": Fault(
            frozenset({"open", "mount"}), Answer(202, headers={"location": f"http://alice:x@{other.host}/upload"})
        ),
        "a challenge of another realm": Fault("any", Answer(401, headers=bearer)),
        "a challenge with a login in its realm": Fault("any", Answer(401, headers=disguised)),
        "a basic challenge": Fault("any", Answer(401, headers=basic)),
        "a link to the next page": Fault("tags", Answer(200, headers={"link": f'<{other.url}/next>; rel="next"'})),
    }


WAYS = tuple(leading(FakeRegistry()))


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("auth", [Basic("alice", PASSWORD), Bearer("alice", PASSWORD)], ids=["basic", "bearer"])
@pytest.mark.parametrize("way", WAYS)
async def test_nothing_secret_goes_elsewhere(way: str, auth: Basic | Bearer, login: str) -> None:
    """What answers there asks for a login itself, in turn both ways."""
    async with FakeRegistry() as other, FakeRegistry(auth=auth) as registry:
        fill(registry)
        registry.inject(leading(other)[way])
        challenges = (f'Bearer realm="{other.url}/token"', f'Basic realm="{other.url}"')
        for challenge in challenges:
            other.inject(Fault("any", Answer(401, headers={"www-authenticate": challenge}), times=2))
        async with a_client(registry, credentials=LOGINS[login]) as client:
            await try_everything(client)
        tokens = list(registry._gate._tokens)
        assert not [secret for secret in (*SECRETS, *tokens) if secret in shown(other)]
        assert all("authorization" not in request.headers for request in other.requests)


async def test_the_recorder_would_have_seen_it() -> None:
    """So that the test above is known to be able to fail."""
    async with FakeRegistry(auth=Bearer("alice", PASSWORD)) as registry:
        async with a_client(registry, credentials=LOGINS["password"]) as client:
            await try_everything(client)
        assert SECRETS[2] in shown(registry)
        assert all(token in shown(registry) for token in registry._gate._tokens)


class ThisMachine(AbstractResolver):
    """Every name leads to one port of loopback."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(
        self,
        host: str,
        port: int = 0,  # noqa: ARG002
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=self._port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "api", "service", "last_scope_only"),
    [
        ("docker.io", "registry-1.docker.io", "auth.docker.io", False),
        ("registry.gitlab.com", "registry.gitlab.com", "gitlab.com", True),
    ],
)
async def test_token_services_with_a_host_of_their_own_work(
    name: str, api: str, service: str, last_scope_only: bool
) -> None:
    """Docker Hub's and GitLab's, by their real names: the login goes to the service, the token to the registry."""
    auth = Bearer("alice", PASSWORD, realm=f"https://{service}/token", last_scope_only=last_scope_only)
    async with FakeRegistry(tls=True, auth=auth) as registry:
        where = Registry("https", name)
        reach = Reach(where.origin, resolver=lambda: ThisMachine(int(registry.host.partition(":")[2])))
        client = a_client(
            where,
            credentials=LOGINS["password"],
            ca_file=registry.ca_file,
            profile=profile_for(name),
            reach=reach,
        )
        async with client as opened:
            assert await push(opened) == "uploaded"
        seen = {
            (request.headers["host"], request.headers.get("authorization", "").partition(" ")[0])
            for request in registry.requests
        }
        assert seen == {(api, ""), (service, "Basic"), (api, "Bearer")}
