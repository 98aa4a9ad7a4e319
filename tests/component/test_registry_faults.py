"""Every fault on every kind of request is survived, and no blob is sent more often than the faults explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from tests.component.a_client import (
    CONFIG,
    LAYER,
    NAME,
    QUICK,
    ZLIB,
    a_client,
    a_manifest,
    described,
    fill,
    has,
    push,
)
from uploader.errors import RegistryError, UploaderError
from uploader.model.digest import Digest
from uploader.model.events import Event, Retried, Waiting
from uploader.model.reference import Tag
from uploader.oci.media_types import OCI_MANIFEST
from uploader.oci.profile import Profile, profile_for
from uploader.registry.bodies import Timeouts
from uploader.registry.credentials import Credentials
from uploader.registry.retry import RetryPolicy
from uploader.testing import (
    DISTRIBUTION_2_8,
    AcceptThenReset,
    Action,
    Answer,
    Bearer,
    FakeRegistry,
    Fault,
    Kind,
    LyingDigest,
    Quirks,
    RefuseMount,
    Reset,
    SessionLost,
    Stall,
    Truncate,
    Unauthorized,
)
from uploader.testing.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploader.registry.client import RegistryClient

pytestmark = pytest.mark.asyncio

CONTENT = bytes(range(256)) * 40
CHUNKS = Profile(chunk_bytes=4096)
NO_MOUNT = Profile(self_mount=False)

TRANSIENT: dict[str, Action] = {
    "408": Answer(408),
    "425": Answer(425),
    "429": Answer(429),
    "429 with a wait": Answer(429, retry_after=3),
    "429 in GHCR's words": Answer(
        429, codes=("TOOMANYREQUESTS",), message="retry-after: 10.305464ms, allowed: 2000/minute"
    ),
    "429 before the body": Answer(429, read_body=False),
    "500": Answer(500),
    "502": Answer(502, body=b"<html>bad gateway"),
    "503 with a wait": Answer(503, retry_after=3),
    "522": Answer(522),
    "reset at once": Reset(),
    "reset after some bytes": Reset(after_bytes=5000),
    "stall": Stall(),
    "stall after some bytes": Stall(after_bytes=5000),
    "accepted but lost": AcceptThenReset(),
    "cut answer": Truncate(),
    "401": Unauthorized(f"repository:{NAME}:pull,push"),
}

PROFILES: dict[Kind, Profile] = {"patch": CHUNKS, "head-blob": NO_MOUNT}


async def do(client: RegistryClient, kind: Kind) -> None:
    """What sends a request of this kind, and how it must end."""
    match kind:
        case "open" | "put-blob" | "patch":
            assert await push(client, CONTENT) == "uploaded"
        case "mount" | "head-blob":
            assert await push(client, CONTENT, expected=True) == "uploaded"
        case "get-blob":
            assert await client.read_blob(described(CONFIG)) == CONFIG
        case "head-manifest":
            assert await client.find_tag(ZLIB) == Digest.of(a_manifest())
        case "get-manifest":
            stored = await client.read_manifest(ZLIB)
            assert stored is not None
            assert stored.content == a_manifest()
        case "put-manifest":
            await client.push_manifest(Tag("new"), a_manifest(), OCI_MANIFEST)
        case "tags":
            assert [tag async for tag in client.tags()] == [ZLIB]
        case _:
            assert await client.has_blob(described(LAYER))


KINDS: tuple[Kind, ...] = (
    "open",
    "put-blob",
    "patch",
    "mount",
    "head-blob",
    "get-blob",
    "head-manifest",
    "get-manifest",
    "put-manifest",
    "tags",
    "token",
)


REFUSED_LOGIN = ("401", "token")  # no passing fault


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in TRANSIENT for kind in KINDS if (name, kind) != REFUSED_LOGIN]
)
async def test_a_passing_fault_is_survived(name: str, kind: Kind, times: int) -> None:
    times = min(times, 1 if name == "401" else 3)
    auth = Bearer("alice", "hidden")
    faults = [Fault(on=kind, then=TRANSIENT[name], times=times)]
    async with FakeRegistry(auth=auth, faults=faults, quirks=Quirks(location_state=True)) as registry:
        fill(registry, ZLIB)
        async with a_client(
            registry,
            credentials=Credentials("alice", "hidden"),
            profile=PROFILES.get(kind, Profile()),
            timeouts=QUICK if "stall" in name else Timeouts(),
        ) as client:
            await do(client, kind)
        if kind in {"open", "put-blob", "patch", "mount"}:
            assert has(registry, CONTENT)
        assert len(registry.requests_of("put-blob")) <= 1 + times * (kind in {"put-blob", "mount"})
        assert sum(request.body_bytes for request in registry.requests_of("put-blob", "patch")) <= len(CONTENT) * (
            1 + times * (kind in {"put-blob", "patch"})
        )


@pytest.mark.parametrize("quirks", [Quirks(), DISTRIBUTION_2_8])
@pytest.mark.parametrize("after_bytes", [0, 1, 5000, 10_000])
async def test_broken_chunks_end_in_the_right_bytes(after_bytes: int, quirks: Quirks) -> None:
    faults = [Fault(on="patch", then=Reset(after_bytes), skip=1, times=2)]
    async with FakeRegistry(quirks=quirks, faults=faults) as registry, a_client(registry, profile=CHUNKS) as client:
        assert await push(client, CONTENT) == "uploaded"
        assert has(registry, CONTENT)


async def test_a_resumed_upload_sends_only_what_is_missing() -> None:
    faults = [Fault(on="patch", then=Reset(after_bytes=1000), skip=1, times=1)]
    async with FakeRegistry(faults=faults) as registry, a_client(registry, profile=CHUNKS) as client:
        assert await push(client, CONTENT) == "uploaded"
        assert len(registry.requests_of("open")) == 1
        assert sum(request.body_bytes for request in registry.requests_of("patch", "put-blob")) == len(CONTENT)


async def test_a_put_that_was_accepted_is_not_sent_again() -> None:
    faults = [Fault(on="put-blob", then=AcceptThenReset())]
    async with FakeRegistry(faults=faults) as registry, a_client(registry) as client:
        assert await push(client) == "uploaded"
        assert [request.kind for request in registry.requests] == ["open", "put-blob", "head-blob"]


async def test_a_late_close_that_answers_404_is_settled_by_asking() -> None:
    """GHCR: the close took longer than the client waited, and the second one found no session (jib#4301)."""
    async with FakeRegistry() as registry, a_client(registry) as client:
        registry.repository(NAME).add_blob(LAYER)
        registry.inject(Fault(on="put-blob", then=SessionLost(), times=1))
        assert await push(client) == "uploaded"
        assert len(registry.requests_of("put-blob")) == 1


@pytest.mark.parametrize("kind", ["put-blob", "patch"])
async def test_a_lost_session_begins_anew(kind: Kind) -> None:
    faults = [Fault(on=kind, then=SessionLost(), times=2)]
    profile = PROFILES.get(kind, Profile())
    async with FakeRegistry(faults=faults) as registry, a_client(registry, profile=profile) as client:
        assert await push(client, CONTENT) == "uploaded"
        assert has(registry, CONTENT)
        assert len(registry.requests_of("open")) == 3


@pytest.mark.parametrize("status", [202, 400, 401, 403, 404, 405, 500])
async def test_a_refused_mount_is_no_failure(status: int) -> None:
    faults = [Fault(on="mount", then=RefuseMount(status))]
    async with FakeRegistry(faults=faults) as registry, a_client(registry) as client:
        assert await push(client, expected=True) == "uploaded"
        assert len(registry.requests_of("put-blob")) == 1


@pytest.mark.parametrize("kind", ["get-manifest", "put-manifest"])
async def test_a_lying_digest_is_caught(kind: Kind) -> None:
    async with FakeRegistry(faults=[Fault(on=kind, then=LyingDigest())]) as registry, a_client(registry) as client:
        fill(registry, ZLIB)
        with pytest.raises(RegistryError):
            await do(client, kind)


async def test_a_413_before_the_body_is_understood() -> None:
    content = bytes(3_000_000)
    faults = [Fault(on="put-blob", then=Answer(413, read_body=False), times=1)]
    async with FakeRegistry(faults=faults) as registry, a_client(registry) as client:
        assert await push(client, content) == "uploaded"
        assert has(registry, content)


async def test_a_fault_without_end_is_given_up_with_the_count_of_tries() -> None:
    async with FakeRegistry(faults=[Fault(on="open", then=Answer(500))]) as registry:
        async with a_client(registry, retry=RetryPolicy(attempts=4)) as client:
            with pytest.raises(RegistryError, match=r"answered 500 .* after 4 tries") as caught:
                await push(client)
        assert (caught.value.attempts, len(registry.requests)) == (4, 4)


async def test_a_put_that_never_works_is_given_up() -> None:
    async with FakeRegistry(faults=[Fault(on="put-blob", then=Answer(500))]) as registry, a_client(registry) as client:
        with pytest.raises(RegistryError, match="answered 500") as caught:
            await push(client)
        assert caught.value.attempts == len(registry.requests_of("put-blob")) == 5


async def test_retry_after_is_obeyed_in_full_by_everybody() -> None:
    clock, events = Clock(), list[Event]()
    faults = [Fault(on="open", then=Answer(429, retry_after=40), times=1)]
    async with FakeRegistry(faults=faults) as registry, a_client(registry, clock=clock, events=events) as client:
        begun = clock.now
        await push(client)
        assert clock.now - begun >= 40.0
        waiting, retried = events
        assert waiting == Waiting(registry.host, 40.0, "asks to wait")
        assert isinstance(retried, Retried)
        assert retried.seconds == 40.0


class StandingClock(Clock):
    """Nobody who sleeps by it ever wakes."""

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await anyio.sleep_forever()


async def test_while_one_waits_no_other_request_goes_out() -> None:
    clock = StandingClock()
    faults = [Fault(on="head-manifest", then=Answer(429, retry_after=40), times=1)]
    async with FakeRegistry(faults=faults) as registry, a_client(registry, clock=clock) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.find_tag, ZLIB)
            await registry.wait_ended("head-manifest")
            await until(lambda: clock.sleeps == [40.0])
            group.start_soon(client.has_blob, described(LAYER))
            group.start_soon(push, client)
            await until(lambda: clock.sleeps == [40.0, 40.0, 40.0])
            group.cancel_scope.cancel()
        assert [request.kind for request in registry.requests] == ["head-manifest"]


async def until(condition: Callable[[], bool]) -> None:
    """Let the others run; the time limit of all tests ends it."""
    while not condition():
        await anyio.lowlevel.checkpoint()


async def test_ghcrs_secondary_limit_is_waited_out() -> None:
    said = b"You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    faults = [Fault(on="put-blob", then=Answer(403, body=said), times=2)]
    async with FakeRegistry(faults=faults) as registry, a_client(registry, profile=profile_for("ghcr.io")) as client:
        assert await push(client) == "uploaded"
        assert len(registry.requests_of("put-blob")) == 3


@dataclass(frozen=True, slots=True)
class Count:
    """How often a blob was sent, and how often the registry had a reason to see it again."""

    sent: int
    explained: int


@pytest.mark.parametrize("seed", range(4))
async def test_random_faults_of_every_kind_lose_nothing(seed: int) -> None:
    actions = [action for name, action in TRANSIENT.items() if name != "401" and "stall" not in name]
    faults = [Fault(on="any", then=action, chance=0.01) for action in actions]
    contents = [bytes([number]) * 3000 for number in range(60)]
    async with FakeRegistry(faults=faults, seed=seed) as registry, a_client(registry) as client:
        failures: list[UploaderError] = []

        async def store(content: bytes) -> None:
            try:
                await push(client, content, expected=content[0] % 2 == 0)
            except UploaderError as error:
                failures.append(error)

        async with anyio.create_task_group() as group:
            for content in contents:
                group.start_soon(store, content)
        assert failures == []
        assert all(has(registry, content) for content in contents)
        for content in contents:
            count = sent(registry, content)
            assert count.sent <= 1 + count.explained


def sent(registry: FakeRegistry, content: bytes) -> Count:
    puts = [one for one in registry.requests_of("put-blob") if one.reference == str(Digest.of(content))]
    return Count(len(puts), sum(one.status != 201 for one in puts))
