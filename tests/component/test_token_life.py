"""Tokens that live shorter than a push: renewed in time, with no request that need not be."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from tests.component.a_client import NAME, a_client, has, push
from uploader.oci.profile import Profile
from uploader.oci.quota import read_quotas
from uploader.registry.bandwidth import Bandwidth
from uploader.registry.credentials import Credentials
from uploader.testing import Bearer, FakeRegistry, Fault, Unauthorized
from uploader.testing.clock import Clock

if TYPE_CHECKING:
    from uploader.testing import Recorded

LIFE_SECONDS: Final = 5
BLOBS: Final = 24
BLOB_BYTES: Final = 250_000
PUSH_SECONDS: Final = 60
RATE: Final = BLOBS * BLOB_BYTES / PUSH_SECONDS
JOBS: Final = 2
LARGE: Final = Profile(resume_above_bytes=100_000)
CONTENTS: Final = [bytes([number]) * BLOB_BYTES for number in range(BLOBS)]


async def push_all(profile: Profile, faults: list[Fault]) -> tuple[list[Recorded], float]:
    """All blobs at once over a line that needs a minute for them; gives the requests, and how long it took."""
    clock = Clock()  # only the line's limit moves it
    auth = Bearer("ci", "secret", seconds=LIFE_SECONDS)
    began = clock.now
    async with (
        FakeRegistry(auth=auth, clock=clock.time, faults=faults, seed=1) as registry,
        a_client(
            registry,
            credentials=Credentials("ci", "secret"),
            clock=clock,
            profile=profile,
            jobs=JOBS,
            limit=Bandwidth(RATE, clock.timing),
        ) as client,
    ):
        assert await client.is_empty()  # as every push begins: the first login
        async with anyio.create_task_group() as group:
            for content in CONTENTS:
                group.start_soon(push, client, content)
        assert all(has(registry, content) for content in CONTENTS)
        assert registry.repository(NAME).sessions == {}
        return registry.requests, clock.now - began


@pytest.mark.parametrize(("profile", "requests_of_a_blob"), [(Profile(), 2), (LARGE, 3)])
@pytest.mark.asyncio
async def test_tokens_are_renewed_before_they_end_and_not_more_often(profile: Profile, requests_of_a_blob: int) -> None:
    requests, seconds = await push_all(profile, [])
    assert seconds >= 0.9 * PUSH_SECONDS
    refused = [request for request in requests if request.status == 401]
    assert [request.kind for request in refused] == ["tags"], "nobody can know before the first"
    tokens = sum(request.kind == "token" for request in requests)
    assert tokens <= 1 + seconds / (LIFE_SECONDS * 2 / 3)
    assert len(requests) == 2 + tokens + requests_of_a_blob * BLOBS
    assert sum(request.body_bytes for request in requests) == BLOBS * BLOB_BYTES


@pytest.mark.parametrize(("profile", "kind"), [(Profile(), "put-blob"), (LARGE, "patch")])
@pytest.mark.asyncio
async def test_a_body_that_was_refused_is_sent_from_its_beginning(profile: Profile, kind: str) -> None:
    """A registry may look at the token again when it has the body (gitlab-ce#17890)."""
    again = Unauthorized(f"repository:{NAME}:pull,push")
    faults = [Fault(on=kind, then=again, times=1, skip=skip) for skip in (5, 11, 17)]  # type: ignore[arg-type]
    requests, _ = await push_all(profile, faults)
    statuses = Counter((request.kind, request.status) for request in requests)
    assert statuses[kind, 401] == 3  # type: ignore[index]
    assert sum(request.body_bytes for request in requests) == (BLOBS + 3) * BLOB_BYTES


@pytest.mark.timeout(30)
@pytest.mark.parametrize("jobs", [1, 16])
@pytest.mark.asyncio
async def test_tokens_that_live_shorter_than_the_wait_for_a_turn_hold_nobody_up(jobs: int) -> None:
    """Four requests a second, of which 16 wait at once: one that came with its turn to a token that had ended would
    wait again, and so for ever."""
    clock, auth = Clock(), Bearer("ci", "secret", seconds=LIFE_SECONDS)
    (quota,) = read_quotas(("4",)).values()
    async with (
        FakeRegistry(auth=auth, clock=clock.time, seed=1) as registry,
        a_client(
            registry,
            credentials=Credentials("ci", "secret"),
            clock=clock,
            profile=Profile().limited(quota),
            jobs=jobs,
        ) as client,
    ):
        assert await client.is_empty()
        began = clock.now
        async with anyio.create_task_group() as group:
            for content in CONTENTS:
                group.start_soon(push, client, content)
        assert all(has(registry, content) for content in CONTENTS)
        requests = registry.requests
        assert clock.now - began <= 1.2 * len(requests) / 4
        tokens = sum(request.kind == "token" for request in requests)
        assert tokens <= 2 + (clock.now - began) / (LIFE_SECONDS * 2 / 3)
