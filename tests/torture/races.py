"""The race matrix: complete, fail, release, cancel, sweep, renew against each other, from two processes' stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from uploader.jobs import FINAL, Heartbeat, JobSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.contract.jobs.places import Hands
    from uploader.jobs import Lease
    from uploader.jobs.store import SqlJobStore

_TTL: Final = 60.0


async def _complete(store: SqlJobStore, lease: Lease) -> str:
    return "succeeded" if await store.complete(lease, b"{}") else "lost"


async def _fail(store: SqlJobStore, lease: Lease) -> str:
    return await store.fail(lease, "no", retry_in=None)


async def _fail_for_now(store: SqlJobStore, lease: Lease) -> str:
    return await store.fail(lease, "later", retry_in=0)


async def _release(store: SqlJobStore, lease: Lease) -> str:
    return "released" if await store.release(lease) else "lost"


async def _cancel(store: SqlJobStore, lease: Lease) -> str:
    return await store.cancel(lease.job.id)


async def _sweep(store: SqlJobStore, _: Lease) -> str:
    return "taken back" if (await store.sweep()).taken_back else "nothing"


async def _renew(store: SqlJobStore, lease: Lease) -> str:
    (answer,) = await store.renew([Heartbeat(lease)])
    return answer


ACTS: Final[Mapping[str, Callable[[SqlJobStore, Lease], Awaitable[str]]]] = {
    "complete": _complete,
    "fail": _fail,
    "fail for now": _fail_for_now,
    "release": _release,
    "cancel": _cancel,
    "sweep": _sweep,
    "renew": _renew,
}
WAITING: Final = frozenset({"again", "released", "lost"})
ENDS: Final = frozenset({"complete", "fail", "fail for now", "release", "sweep"})


async def race(one: SqlJobStore, other: SqlJobStore, pair: tuple[str, str], hands: Hands) -> None:
    """Let both do their act on one lease, which is just about to expire; raises AssertionError."""
    (job,) = [answer.id for answer in await one.submit([JobSpec(b"{}", max_attempts=9)])]
    (lease,) = await one.lease(limit=1, ttl=_TTL)
    await one.sweep()
    await other.sweep()
    hands.pass_time(_TTL)
    answers = ["", ""]

    async def act(place: int, store: SqlJobStore) -> None:
        answers[place] = await ACTS[pair[place]](store, lease)

    async with anyio.create_task_group() as group:
        group.start_soon(act, 0, one)
        group.start_soon(act, 1, other)

    said = dict(zip(pair, answers, strict=True)) if pair[0] != pair[1] else {pair[0]: answers[0]}
    context = f"{pair}: {answers}"
    found = await one.get(job)
    assert found is not None, context
    events = [event.kind for event in await one.events(job)]
    ended = [kind for kind in events if kind in WAITING or kind in FINAL]
    assert len(ended) <= 1 or (ended[0] in WAITING and ended[1:] == ["cancelled"]), f"{context}: {events}"
    winners = {act for act, answer in said.items() if act in ENDS and answer not in {"lost", "nothing"}}
    assert len(winners) <= 1, f"{context}: two winners"
    if winners == {"complete"}:
        assert found.state == "succeeded", context
    if "cancel" in said and found.state not in {"cancelled", "leased"}:
        assert said["cancel"] == "already-final" or winners == {"complete"}, context
    given_back = winners == {"release"} or "lost" in events
    assert found.attempts == (0 if given_back else 1), f"{context}: {found.attempts} attempts"
    await _clear(one, other, hands)


async def _clear(one: SqlJobStore, other: SqlJobStore, hands: Hands) -> None:
    """Leave no job that the next race could lease."""
    await other.sweep()
    hands.pass_time(_TTL)
    await other.sweep()
    for job in (await one.jobs(state="ready")).jobs:
        await one.cancel(job.id)
