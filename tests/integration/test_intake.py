"""Jobs from real brokers: every message becomes exactly one job, or is set aside; whatever is killed."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.to_thread
import nats
import pytest
import redis.asyncio

from uploader.errors import JobStoreError
from uploader.jobs import JobSpec, open_store
from uploader.service.allowed import Allowed
from uploader.service.intake import GROUP, Came, IntakeUrl, Taker, take_in
from uploader.service.metrics import Metrics
from uploader.service.options import PushOptions
from uploader.testing.brokers import BrokerServer, nats_server, redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from uploader.jobs.store import SqlJobStore

STRANDED = 2.0


class Broker(Protocol):
    server: BrokerServer

    async def publish(self, content: bytes) -> None: ...
    async def refused(self) -> list[tuple[bytes, str]]: ...
    async def take_and_die(self) -> None: ...
    async def waiting(self) -> int: ...


@dataclass
class Nats:
    server: BrokerServer

    async def publish(self, content: bytes) -> None:
        async with await nats.connect(self.server.url) as client:
            stream = client.jetstream()
            await stream.add_stream(name="push_jobs", subjects=["push.jobs", "push.jobs.refused"])
            await stream.publish("push.jobs", content)

    async def refused(self) -> list[tuple[bytes, str]]:
        async with await nats.connect(self.server.url) as client:
            stream = client.jetstream()
            state = (await stream.stream_info("push_jobs", subjects_filter="push.jobs.refused")).state
            count = (state.subjects or {}).get("push.jobs.refused", 0)
            consumer = await stream.pull_subscribe("push.jobs.refused")
            messages = await consumer.fetch(count, timeout=5) if count else []  # of none it fails
            assert len(messages) == count
            return [(message.data, (message.headers or {})["Uploader-Refused"]) for message in messages]

    async def take_and_die(self) -> None:
        """Another consumer of the group takes a message and is never heard of again."""
        async with await nats.connect(self.server.url) as client:
            config = nats.js.api.ConsumerConfig(ack_wait=STRANDED, max_deliver=-1, filter_subject="push.jobs")
            consumer = await client.jetstream().pull_subscribe("push.jobs", durable=GROUP, config=config)
            await consumer.fetch(1)

    async def waiting(self) -> int:
        async with await nats.connect(self.server.url) as client:
            stream = client.jetstream()
            try:
                state = await stream.consumer_info("push_jobs", GROUP)
            except nats.js.errors.NotFoundError:  # nobody has come for them yet
                return (await stream.stream_info("push_jobs")).state.messages
            return (state.num_pending or 0) + (state.num_ack_pending or 0)


@dataclass
class Redis:
    server: BrokerServer

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        """A client that closes its connections also when it is cancelled."""
        client = redis.asyncio.Redis.from_url(self.server.url)
        try:
            yield client
        finally:
            with anyio.move_on_after(1, shield=True):
                await client.aclose()

    async def publish(self, content: bytes) -> None:
        async with self._client() as client:
            await client.xadd("push.jobs", {"job": content})

    async def refused(self) -> list[tuple[bytes, str]]:
        async with self._client() as client:
            entries: Any = await client.xrange("push.jobs.refused")
        return [(fields[b"job"], fields[b"refused"].decode()) for _, fields in entries]

    async def take_and_die(self) -> None:
        async with self._client() as client:
            await client.xgroup_create("push.jobs", GROUP, id="0", mkstream=True)
            await client.xreadgroup(GROUP, "dead", {"push.jobs": ">"}, count=1)

    async def waiting(self) -> int:
        async with self._client() as client:
            groups: Any = await client.xinfo_groups("push.jobs")
            if not groups:  # nobody has come for them yet
                return int(await client.xlen("push.jobs"))
            # Not by the group's "lag": a server that was killed and came back may not know it, and says nothing.
            last = groups[0]["last-delivered-id"].decode()
            behind: Any = await client.xrange("push.jobs", min=f"({last}")
            pending: Any = await client.xpending("push.jobs", GROUP)  # last: what is handed out meanwhile counts twice
            return int(pending["pending"]) + len(behind)


pytestmark = pytest.mark.usefixtures("libraries_may_leave_connections")


@pytest.fixture(params=["nats", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    if request.param == "nats":
        with nats_server(tmp_path / "broker") as server:
            yield Nats(server)
    else:
        with redis_server(tmp_path / "broker") as server:
            yield Redis(server)


class NotDraining:
    draining = False


@dataclass
class Intake:
    """An intake that can be killed, as a process is, and started again."""

    url: IntakeUrl
    taker: Taker
    scope: anyio.CancelScope

    async def run(self) -> None:
        with self.scope:
            await take_in(self.url, self.taker, NotDraining(), stranded_seconds=STRANDED)


@asynccontextmanager
async def taking(broker: Broker, store: Any, tmp_path: Path) -> AsyncIterator[Intake]:
    taker = Taker(store, Allowed((tmp_path,)), PushOptions(), 5, Metrics())
    intake = Intake(IntakeUrl.parse(f"{broker.server.url}/push.jobs"), taker, anyio.CancelScope())
    async with anyio.create_task_group() as group:
        group.start_soon(intake.run)
        yield intake
        intake.scope.cancel()


def a_message(number: int) -> bytes:
    return json.dumps({"sources": ["graph.json"], "to": f"oci://host/cache-{number}"}).encode()


async def targets(store: SqlJobStore, count: int) -> list[str]:
    """Where the jobs go, once there are so many of them."""
    after = 0
    while sum((await store.stats()).jobs.values()) < count:
        for event in await store.events(after=after, wait=5):
            after = event.seq
    page = await store.jobs(limit=1000)
    return sorted(json.loads(job.payload)["to"] for job in page.jobs)


def expected(count: int) -> list[str]:
    return sorted(f"oci://host/cache-{number}" for number in range(count))


def open_sockets() -> set[str]:
    """Those of this process."""
    links = (str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
    return {link for link in links if link.startswith("socket:")}


async def settle(broker: Broker) -> None:
    """Wait until the broker has nothing more for the group."""
    with anyio.fail_after(20):
        while await broker.waiting():  # noqa: ASYNC110 - the broker tells nobody
            await anyio.sleep(0.05)


@pytest.mark.real
@pytest.mark.asyncio
async def test_every_message_becomes_one_job(broker: Broker, tmp_path: Path) -> None:
    for number in range(5):
        await broker.publish(a_message(number))
    async with open_store(f"sqlite:///{tmp_path}/jobs.db") as store, taking(broker, store, tmp_path):
        for number in range(5, 10):
            await broker.publish(a_message(number))
        assert await targets(store, 10) == expected(10)
        await settle(broker)


@pytest.mark.real
@pytest.mark.asyncio
async def test_a_malformed_message_is_set_aside_with_the_reason_and_does_not_come_again(
    broker: Broker, tmp_path: Path
) -> None:
    bad = {
        b"{": "JSON",
        b'{"sources": ["/etc/passwd"], "to": "oci://host/x"}': "--source-root",
        b"\xff\x00": "JSON",
        b'{"to": "oci://host/x", "to": "oci://host/y"}': "'to' is given twice",
        b'{"sources": ["graph.json"], "to": "oci://host/x", "key": "taken"}': "the key 'taken' is that of job",
        b'[{"sources": ["graph.json"], "to": "oci://host/x"}, {}]': "job 2 of 2: ",
    }
    for content in bad:
        await broker.publish(content)
    await broker.publish(a_message(0))
    async with open_store(f"sqlite:///{tmp_path}/jobs.db") as store:
        await store.submit([JobSpec(a_message(1), "taken")])
        async with taking(broker, store, tmp_path):
            assert await targets(store, 2) == expected(2)
            await settle(broker)
            refused = dict(await broker.refused())
    assert refused.keys() == bad.keys()
    assert all(word in refused[content] for content, word in bad.items())


@pytest.mark.real
@pytest.mark.asyncio
async def test_a_message_that_a_dead_consumer_took_is_taken_over(broker: Broker, tmp_path: Path) -> None:
    await broker.publish(a_message(0))
    await broker.take_and_die()
    async with open_store(f"sqlite:///{tmp_path}/jobs.db") as store, taking(broker, store, tmp_path):
        assert await targets(store, 1) == expected(1)
        await settle(broker)


@pytest.mark.real
@pytest.mark.asyncio
async def test_nothing_is_acknowledged_before_the_job_is_durable(broker: Broker, tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/jobs.db") as store:
        fails = _Fails()
        await broker.publish(a_message(0))
        before = open_sockets()
        async with taking(broker, fails, tmp_path):
            await fails.asked.wait()
            assert await broker.waiting() == 1
        assert open_sockets() <= before  # also when the library's own stop hangs on the message that is not done
        assert await broker.waiting() == 1
        async with taking(broker, store, tmp_path):
            assert await targets(store, 1) == expected(1)
            await settle(broker)


@pytest.mark.real
@pytest.mark.asyncio
async def test_the_limits_that_an_operator_gave_the_stream_stay(tmp_path: Path) -> None:
    with nats_server(tmp_path / "broker") as server:
        async with await nats.connect(server.url) as client:
            stream = client.jetstream()
            await stream.add_stream(name="push_jobs", subjects=["push.jobs"], max_age=3600, description="ours")
            for content in (b"not JSON", a_message(0)):
                await stream.publish("push.jobs", content)
            broker = Nats(server)
            async with open_store(f"sqlite:///{tmp_path}/jobs.db") as store, taking(broker, store, tmp_path):
                assert await targets(store, 1) == expected(1)
                await settle(broker)
            assert [content for content, _ in await broker.refused()] == [b"not JSON"]
            config = (await stream.stream_info("push_jobs")).config
            kept = (config.max_age, config.description, config.subjects)
            assert kept == (3600, "ours", ["push.jobs", "push.jobs.refused"])


class _Fails:
    """A store that is away."""

    def __init__(self) -> None:
        self.asked = anyio.Event()

    async def submit(self, specs: object, *, message: str) -> object:
        del specs, message
        self.asked.set()
        raise JobStoreError("away", problem="unavailable")


@pytest.mark.real
@pytest.mark.asyncio
async def test_a_message_that_comes_again_when_its_job_is_gone_is_no_second_job(broker: Broker, tmp_path: Path) -> None:
    await broker.publish(a_message(0))
    async with open_store(f"sqlite:///{tmp_path}/jobs.db") as store:
        kills = _TakesAndIsKilled(store)
        async with taking(broker, kills, tmp_path) as intake:
            kills.kill = intake.scope.cancel
            await kills.taken.wait()
    async with open_store(f"sqlite:///{tmp_path}/jobs.db", keep_seconds=-1) as store:
        (job,) = (await store.jobs()).jobs
        await store.cancel(job.id)
        assert (await store.sweep()).pruned == 1
        async with taking(broker, store, tmp_path):
            await settle(broker)
        assert (await store.jobs()).jobs == ()


class _TakesAndIsKilled:
    """A store that takes a message's jobs, and whose daemon is killed before it can say so."""

    def __init__(self, store: SqlJobStore) -> None:
        self._store = store
        self.taken = anyio.Event()
        self.kill: Callable[[], None] = lambda: None

    async def submit(self, specs: list[JobSpec], *, message: str) -> None:
        await self._store.submit(specs, message=message)
        self.taken.set()
        self.kill()
        await anyio.sleep_forever()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("nats", "s", "5", b"a"), ("nats", "s", "6", b"a")),
        (("nats", "s", "5", b"a"), ("nats", "s", "5", b"b")),
        (("nats", "s", "5", b"a"), ("nats", "t", "5", b"a")),
        (("nats", "s", "x" * 200, b"a"), ("nats", "s", "x" * 199 + "y", b"a")),
    ],
)
def test_another_message_has_another_key(one: tuple[str, str, str, bytes], other: tuple[str, str, str, bytes]) -> None:
    assert Came.of(*one) == Came.of(*one)
    assert Came.of(*one).key != Came.of(*other).key
    assert len(Came.of(*one).key) < 300


@pytest.mark.real
@pytest.mark.asyncio
async def test_the_broker_may_be_killed_and_come_back(broker: Broker, tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/jobs.db") as store, taking(broker, store, tmp_path):
        for number in range(6):
            await broker.publish(a_message(number))
            if number % 2:
                await anyio.to_thread.run_sync(broker.server.kill)
                await anyio.to_thread.run_sync(broker.server.start)
        assert await targets(store, 6) == expected(6)
        await settle(broker)
