"""What pushes to one registry share, and what is each one's own."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.component.a_client import push
from tests.component.test_base_images import add_image
from uploader import wiring
from uploader.errors import UnusableError
from uploader.model.package import Platform
from uploader.model.reference import Repository, parse_destination
from uploader.oci.quota import read_quotas
from uploader.registry.asking import ClientSettings
from uploader.registry.shared import RegistryPool
from uploader.service.options import PushOptions
from uploader.testing import FakeRegistry, Fault, Hold
from uploader.testing.clock import Clock
from uploader.testing.fake.gate import Basic

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio

AMD64 = Platform("linux", "amd64")
LOGIN = {"UPLOADER_USERNAME": "alice", "UPLOADER_PASSWORD": "secret"}


def nothing(_: object) -> None:
    pass


def a_pool(clock: Clock, limit_rate: int | None = None, settings: ClientSettings | None = None) -> RegistryPool:
    return RegistryPool(
        most_in_flight=4,
        limit_rate=limit_rate,
        user_agent="uploader/test",
        environment={},
        settings=settings,
        timing=clock.timing,
    )


def repository(registry: FakeRegistry, name: str = "team/cache") -> Repository:
    found = parse_destination(registry.destination(name))
    assert isinstance(found, Repository)
    return found


@pytest.mark.parametrize(("own", "seconds"), [(None, 2.0), (100, 20.0), (100_000, 2.0)])
async def test_a_push_keeps_its_own_limit_and_that_of_all(own: int | None, seconds: float) -> None:
    clock = Clock()
    async with FakeRegistry() as registry:
        pool = a_pool(clock, limit_rate=1000)
        async with pool.open(repository(registry), emit=nothing, sent=nothing, limit_rate=own) as client:
            await push(client, bytes(2000))
            began = clock.now
            await push(client, b"1" * 2000)
    assert clock.now - began == pytest.approx(seconds, rel=0.2)


async def test_each_push_counts_what_is_its_own() -> None:
    async with FakeRegistry() as registry:
        pool, told = a_pool(Clock()), list[int]()
        async with (
            pool.open(repository(registry), emit=nothing, sent=told.append) as one,
            pool.open(repository(registry), emit=nothing, sent=nothing) as other,
        ):
            await push(one, bytes(2000))
            await push(other, b"1" * 300)
            assert (one.traffic().bytes_sent, other.traffic().bytes_sent) == (2000, 300)
            assert (one.traffic().requests, other.traffic().requests) == (2, 2)
            assert sum(told) == 2000


async def test_pushes_that_ended_are_let_go_while_another_keeps_the_registry_open() -> None:
    """Each has a repository of its own, as many jobs of a daemon have."""
    async with FakeRegistry() as registry:
        pool = a_pool(Clock())
        async with pool.open(repository(registry, "held"), emit=nothing, sent=nothing):
            remembered = [await used(pool, repository(registry, f"to/{number}")) for number in range(300)]
            gc.collect()
            assert 0 < sum(push() is not None for push in remembered) < 100


class Listener:
    def __call__(self, _: object) -> None:
        pass


async def used(pool: RegistryPool, where: Repository) -> weakref.ref[Listener]:
    listener = Listener()
    async with pool.open(where, emit=listener, sent=listener):
        return weakref.ref(listener)


async def test_certificates_that_cannot_be_used_are_no_matter_for_plain_http(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        where = repository(registry)
        folder = tmp_path / ".config/containers/certs.d" / registry.host
        folder.mkdir(parents=True)
        (folder / "half.cert").touch()
        environment = {"HOME": str(tmp_path)}
        pool = RegistryPool(most_in_flight=4, limit_rate=None, user_agent="uploader/test", environment=environment)
        async with pool.open(where, emit=nothing, sent=nothing) as client:
            assert await push(client) == "uploaded"


async def test_a_login_serves_all_pushes_until_one_finds_that_it_does_not() -> None:
    async with FakeRegistry(auth=Basic("alice", "secret")) as registry:
        environment: dict[str, Any] = dict(LOGIN)
        pool = RegistryPool(most_in_flight=4, limit_rate=None, user_agent="uploader/test", environment=environment)
        where = repository(registry)
        async with pool.open(where, emit=nothing, sent=nothing) as first:
            await push(first)
            environment |= {"UPLOADER_PASSWORD": "wrong"}
            async with pool.open(where, emit=nothing, sent=nothing) as second:
                await push(second, b"another")
            assert [one.status for one in registry.requests].count(401) == 1
            pool.log_in_anew(where)
            async with pool.open(where, emit=nothing, sent=nothing) as third:
                with pytest.raises(UnusableError, match="refused the login"):
                    await push(third, b"a third")


async def test_a_base_image_is_read_at_the_pace_of_its_host() -> None:
    """One request may be in flight: while a push has it, the base image waits."""
    release = anyio.Event()
    async with FakeRegistry(faults=[Fault(on="put-blob", then=Hold(release))]) as registry:
        add_image(registry.repository("base/os"), "12")
        options = PushOptions(jobs=1, base_image=f"{registry.destination('base/os')}:12")
        with wiring.share(options, {}) as shared:
            base = wiring.open_base(options, emit=nothing, shared=shared)
            assert base is not None
            async with shared.registries.open(repository(registry), emit=nothing, sent=nothing) as client:
                async with anyio.create_task_group() as group:
                    group.start_soon(push, client)
                    await registry.wait_started("put-blob")
                    group.start_soon(base.load, [AMD64])
                    await _ask_now_and_then(registry)
                    assert registry.requests_of("get-manifest") == []
                    release.set()
                assert len(registry.requests_of("get-manifest")) == 1


async def _ask_now_and_then(registry: FakeRegistry) -> None:
    """With connections and a pace of its own: meanwhile others that may could ask as well."""
    pool = a_pool(Clock())
    for _ in range(5):
        async with pool.open(repository(registry, "else/where"), emit=nothing, sent=nothing) as client:
            await client.is_empty()


async def test_the_login_of_the_destination_is_not_shown_to_where_a_base_image_is() -> None:
    async with FakeRegistry(auth=Basic("alice", "secret")) as registry:
        add_image(registry.repository("base/os"), "12")
        options = PushOptions(base_image=f"{registry.destination('base/os')}:12")
        with wiring.share(options, LOGIN) as shared:
            base = wiring.open_base(options, emit=nothing, shared=shared)
            assert base is not None
            async with shared.registries.open(repository(registry), emit=nothing, sent=nothing) as client:
                await push(client)
                with pytest.raises(UnusableError, match="docker login"):
                    await base.load([AMD64])
            assert all("authorization" not in one.headers for one in registry.requests_of("get-manifest"))


@pytest.mark.parametrize(
    ("stated", "seconds"), [("{host}=2", 9 / 1.8), ("2", 9 / 1.8), ("2,{host}=1000", 0.0), ("other=2", 0.0)]
)
async def test_a_quota_that_the_user_states_is_kept_at_its_host(stated: str, seconds: float) -> None:
    clock = Clock()
    began = clock.now
    async with FakeRegistry() as registry:
        quotas = read_quotas(stated.format(host=registry.host).split(","))
        pool = a_pool(clock, settings=ClientSettings(quotas=quotas))
        async with pool.open(repository(registry), emit=nothing, sent=nothing) as client:
            for number in range(5):
                await push(client, b"%d" % number)
        assert len(registry.requests) == 10
    assert clock.now - began == pytest.approx(seconds), "a tenth below it: 10 requests take 9 waits"
