"""What is sent again, after which wait, and when it is given up."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from uploader.oci.http import Answer, Lost, Request, Response
from uploader.oci.profile import DEFAULT, profile_for
from uploader.registry.retry import Retrying, RetryPolicy
from uploader.testing.clock import Clock

if TYPE_CHECKING:
    from uploader.oci.profile import Profile

ASK = Request("HEAD", "/v2/a", "ask")
SEND = Request("PUT", "/v2/a", "send", body=b"x", repeatable=False)
OK = Response(200)


class Server:
    """Gives these answers in turn, the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def once(self, request: Request) -> Answer:  # noqa: ARG002
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def send(
    clock: Clock,
    server: Server,
    request: Request = ASK,
    policy: RetryPolicy | None = None,
    profile: Profile = DEFAULT,
) -> Answer:
    return await Retrying(policy or RetryPolicy(), profile, clock.timing).send(request, server.once)


@pytest.mark.asyncio
async def test_a_good_answer_costs_one_request_and_no_wait() -> None:
    clock, server = Clock(), Server(OK)
    assert await send(clock, server) == OK
    assert (server.asked, clock.sleeps) == (1, [])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "trouble", [Response(408), Response(425), Response(429), Response(500), Response(503), Response(522), Lost("reset")]
)
async def test_what_passes_by_itself_is_tried_again(trouble: Answer) -> None:
    clock, server = Clock(), Server(trouble, trouble, OK)
    answer = await send(clock, server)
    assert (answer.attempts, server.asked, len(clock.sleeps)) == (3, 3, 2)


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [200, 202, 307, 400, 401, 403, 404, 405, 413, 416, 501])
async def test_what_is_final_is_not(status: int) -> None:
    clock, server = Clock(), Server(Response(status))
    assert (await send(clock, server)).attempts == 1
    assert server.asked == 1


@pytest.mark.asyncio
async def test_a_secondary_limit_of_ghcr_passes_by_itself() -> None:
    limited = Response(403, body=b"You have exceeded a secondary rate limit.")
    server = Server(limited, OK)
    assert (await send(Clock(), server, profile=profile_for("ghcr.io"))).attempts == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("trouble", [Response(500), Response(503), Response(408), Lost("reset")])
async def test_an_upload_is_not_repeated_when_its_ending_is_unclear(trouble: Answer) -> None:
    server = Server(trouble, OK)
    assert await send(Clock(), server, SEND) == trouble
    assert server.asked == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("trouble", [Response(429), Lost("refused", connected=False)])
async def test_an_upload_that_never_began_is_repeated(trouble: Answer) -> None:
    server = Server(trouble, OK)
    assert (await send(Clock(), server, SEND)).attempts == 2


@pytest.mark.asyncio
async def test_the_last_answer_comes_back_when_the_tries_are_spent() -> None:
    clock, server = Clock(), Server(Response(500))
    answer = await send(clock, server, policy=RetryPolicy(attempts=4))
    assert answer == Response(500, attempts=4)
    assert (server.asked, len(clock.sleeps)) == (4, 3)


@pytest.mark.asyncio
async def test_it_is_given_up_by_time_too() -> None:
    clock, server = Clock(), Server(Response(429, {"retry-after": "50"}))
    await send(clock, server, policy=RetryPolicy(attempts=100, seconds=120.0))
    assert clock.sleeps == [50.0, 50.0, 50.0]


@pytest.mark.asyncio
async def test_waits_are_full_jitter_below_a_limit_that_doubles() -> None:
    policy = RetryPolicy(attempts=40, seconds=1e9, first_wait=0.5, longest_wait=30.0)
    clock = Clock()
    await send(clock, Server(Lost("reset")), policy=policy)
    limits = [min(0.5 * 2**number, 30.0) for number in range(39)]
    assert all(0 <= wait <= limit for wait, limit in zip(clock.sleeps, limits, strict=True))
    assert len(set(clock.sleeps)) > 30, "random"


@pytest.mark.asyncio
@pytest.mark.parametrize("value", ["12", formatdate(1012.0, usegmt=True)])
async def test_retry_after_is_obeyed_in_full(value: str) -> None:
    clock = Clock(now=1000.0)
    await send(clock, Server(Response(429, {"retry-after": value}), OK))
    assert clock.sleeps == [12.0]


@pytest.mark.asyncio
async def test_a_short_retry_after_does_not_shorten_the_backoff_for_ever() -> None:
    clock = Clock()
    await send(clock, Server(Response(503, {"retry-after": "0"})), policy=RetryPolicy(attempts=30, seconds=1e9))
    assert sum(clock.sleeps) > 0
