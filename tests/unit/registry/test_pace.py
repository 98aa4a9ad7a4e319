"""How fast a host is spoken to: rules by a clock that is handed in, places by requests that a test holds."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model.events import Event, Waiting
from uploader.registry.pace import Pace, PaceRules, RateCeiling
from uploader.testing.clock import Clock

SMALL, LARGE = 0, 5_000_000


def accept(rules: PaceRules, count: int, *, over: float, start: float = 0.0) -> float:
    """So many good answers, evenly spread; gives the time after them."""
    for number in range(count):
        rules.accepted(start + over * number / count)
    return start + over


class TestInFlight:
    def test_it_grows_by_one_after_each_window_without_pushback(self) -> None:
        rules = PaceRules(64, 0.0)
        accept(rules, 16, over=1.0)
        assert rules.in_flight_limit == 17
        accept(rules, 16, over=1.0, start=1.0)
        assert rules.in_flight_limit == 17
        accept(rules, 1, over=1.0, start=2.0)
        assert rules.in_flight_limit == 18

    def test_it_never_exceeds_what_the_user_allows(self) -> None:
        rules = PaceRules(4, 0.0)
        accept(rules, 100, over=1.0)
        assert rules.in_flight_limit == 4

    def test_a_burst_of_pushback_halves_it_once(self) -> None:
        rules = PaceRules(64, 0.0)
        for _ in range(16):  # all sent before the first refusal came
            rules.pushed_back(sent_at=1.0, now=2.0, retry_after=None, limits_rate=True)
        assert rules.in_flight_limit == 8
        rules.pushed_back(sent_at=2.1, now=2.2, retry_after=None, limits_rate=True)
        assert rules.in_flight_limit == 4

    def test_one_place_always_stays(self) -> None:
        rules = PaceRules(64, 0.0)
        for step in range(1, 20):
            rules.pushed_back(sent_at=step, now=step + 0.5, retry_after=None, limits_rate=False)
        assert rules.in_flight_limit == 1

    def test_pushback_begins_the_window_anew(self) -> None:
        rules = PaceRules(64, 0.0)
        accept(rules, 15, over=1.0)
        rules.pushed_back(sent_at=1.0, now=1.0, retry_after=None, limits_rate=False)
        accept(rules, 7, over=1.0, start=1.0)
        assert rules.in_flight_limit == 8


def refuse(ceiling: RateCeiling, count: int, now: float) -> None:
    for _ in range(count):
        ceiling.refused(now, now, now)


def answered(ceiling: RateCeiling, count: int, *, over: float, start: float = 0.0) -> float:
    for number in range(count):
        ceiling.accepted(start + over * number / count)
    return start + over


class BucketHost:
    """A host that takes `rate` requests a second, and `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.tokens, self.at = rate, burst, burst, 0.0

    def takes(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def push_to(host: BucketHost, requests: int, *, retry_after: float, latency: float = 0.02) -> tuple[float, int]:
    """Push so many requests as fast as the rules allow; gives the time it took, and how many were refused."""
    rules = PaceRules(32, 0.0)
    flying: list[tuple[float, float, bool]] = []  # when the answer comes, when it was sent, what it is
    now, done, refused = 0.0, 0, 0
    while done < requests:
        wait = rules.wait_before(now)
        if len(flying) < rules.in_flight_limit and wait <= 0:
            rules.went_out()
            flying.append((now + latency, now, host.takes(now)))
            continue
        answer_at = flying[0][0] if flying else float("inf")
        free_at = now + wait if len(flying) < rules.in_flight_limit else float("inf")
        now = min(answer_at, free_at)
        if answer_at <= free_at:
            _, sent_at, good = flying.pop(0)
            done += good
            refused += not good
            if good:
                rules.accepted(now)
            else:
                rules.pushed_back(sent_at, now, retry_after, limits_rate=True)
    return now, refused


class TestCeiling:
    def test_there_is_none_before_the_first_refusal(self) -> None:
        ceiling = RateCeiling(0.0)
        assert ceiling.wait_before(answered(ceiling, 10_000, over=1.0)) == 0.0

    def test_it_is_nine_tenths_of_what_was_accepted(self) -> None:
        ceiling = RateCeiling(0.0)
        now = answered(ceiling, 100, over=5.0)
        refuse(ceiling, 3, now)
        assert ceiling.rate == pytest.approx(18.0, rel=0.01)

    def test_a_refusal_now_and_then_sets_none(self) -> None:
        ceiling = RateCeiling(0.0)
        now = answered(ceiling, 1000, over=5.0)
        refuse(ceiling, 3, now)
        assert ceiling.rate is None

    def test_a_host_that_is_only_busy_sets_none(self) -> None:
        rules = PaceRules(64, 0.0)
        for _ in range(9):
            rules.pushed_back(sent_at=1.0, now=1.0, retry_after=None, limits_rate=False)
        assert rules.ceiling.rate is None

    def test_a_guess_that_was_too_low_is_mended_within_seconds(self) -> None:
        ceiling = RateCeiling(0.0)
        answered(ceiling, 100, over=0.1)
        refuse(ceiling, 10, 0.1)
        now = 0.1
        while now < 10:
            now += 0.1
            ceiling.accepted(now)
        assert ceiling.rate == pytest.approx(0.7 * 1030, rel=0.01), (
            "a safe share of what was asked of it when it refused"
        )

    def test_near_the_refused_rate_it_is_probed_by_a_twentieth_every_20_seconds(self) -> None:
        ceiling = RateCeiling(0.0)
        now = answered(ceiling, 100, over=5.0)
        refuse(ceiling, 3, now)
        before = ceiling.rate
        assert before is not None
        answered(ceiling, 100, over=19.0, start=now)
        assert ceiling.rate == before
        answered(ceiling, 10, over=1.0, start=now + 20.0)
        assert ceiling.rate == pytest.approx(before * 1.05)

    @pytest.mark.parametrize("burst", [1, 10, 60])
    @pytest.mark.parametrize("rate", [60, 200])
    def test_a_limit_per_second_is_found_and_used(self, rate: float, burst: float) -> None:
        """In the first minute, from knowing nothing, with waits of 2 s after every refusal."""
        requests = int(rate * 60)
        seconds, refused = push_to(BucketHost(rate, burst), requests, retry_after=2.0)
        assert seconds < 1.65 * requests / rate
        assert refused < 0.02 * requests

    @given(st.floats(1.0, 500.0), st.integers(50, 300))
    def test_no_more_goes_out_than_it_allows(self, rate: float, count: int) -> None:
        ceiling = RateCeiling(0.0)
        ceiling.rate = rate
        now = 0.0
        for _ in range(count):
            while (wait := ceiling.wait_before(now)) > 0:
                now += wait
            ceiling.went_out()
        burst = max(1.0, rate / 10)
        assert count <= rate * now + burst + 1e-6
        assert now <= count / rate + 1e-6, "and it is used up"


class TestHolding:
    def test_everybody_waits_as_long_as_was_asked(self) -> None:
        rules = PaceRules(64, 0.0)
        rules.pushed_back(sent_at=0.0, now=1.0, retry_after=12.0, limits_rate=False)
        assert (rules.wait_before(1.0), rules.wait_before(13.0)) == (12.0, 0.0)

    def test_a_shorter_wait_never_shortens_a_longer_one(self) -> None:
        rules = PaceRules(64, 0.0)
        rules.pushed_back(sent_at=0.0, now=1.0, retry_after=12.0, limits_rate=False)
        rules.pushed_back(sent_at=0.0, now=2.0, retry_after=1.0, limits_rate=False)
        assert rules.wait_before(2.0) == 11.0


class Visitors:
    """Requests that stay inside until the test lets them go."""

    def __init__(self, most: int = 64) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.pace = Pace("registry.test", most, timing=self.clock.timing, emit=self.events.append)
        self.inside: list[str] = []
        self._leave: dict[str, anyio.Event] = {}

    async def visit(self, name: str, size: int = SMALL, refused: float | None = None) -> None:
        leave = self._leave[name] = anyio.Event()
        async with self.pace.visit(size) as visit:
            self.inside.append(name)
            try:
                await leave.wait()
            finally:
                self.inside.remove(name)
            if refused is not None:
                visit.push_back(refused, limits_rate=True)

    async def let_go(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()
        await anyio.wait_all_tasks_blocked()


@pytest.mark.asyncio
async def test_no_more_are_inside_than_the_limit() -> None:
    visitors = Visitors(most=2)
    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(visitors.visit, name)
        await anyio.wait_all_tasks_blocked()
        assert visitors.inside == ["a", "b"]
        await visitors.let_go("a")
        assert visitors.inside == ["b", "c"]
        await visitors.let_go("b", "c")


@pytest.mark.asyncio
async def test_large_bodies_leave_two_places_for_small_requests() -> None:
    visitors = Visitors(most=4)
    async with anyio.create_task_group() as group:
        for name in ("L1", "L2", "L3"):
            group.start_soon(visitors.visit, name, LARGE)
        for name in ("s1", "s2"):
            group.start_soon(visitors.visit, name)
        await anyio.wait_all_tasks_blocked()
        assert visitors.inside == ["L1", "L2", "s1", "s2"]
        await visitors.let_go("s1")
        assert visitors.inside == ["L1", "L2", "s2"], "its place is not for a third large one"
        await visitors.let_go("L1")
        assert visitors.inside == ["L2", "s2", "L3"]
        await visitors.let_go("L2", "L3", "s2")


@pytest.mark.asyncio
async def test_one_large_body_may_go_even_where_there_is_one_place() -> None:
    visitors = Visitors(most=1)
    async with anyio.create_task_group() as group:
        group.start_soon(visitors.visit, "large", LARGE)
        await anyio.wait_all_tasks_blocked()
        assert visitors.inside == ["large"]
        await visitors.let_go("large")


@pytest.mark.asyncio
async def test_small_requests_go_before_large_ones() -> None:
    visitors = Visitors(most=1)
    async with anyio.create_task_group() as group:
        group.start_soon(visitors.visit, "first")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(visitors.visit, "large", LARGE)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(visitors.visit, "small")
        await anyio.wait_all_tasks_blocked()
        await visitors.let_go("first")
        assert visitors.inside == ["small"]
        await visitors.let_go("small")
        assert visitors.inside == ["large"]
        await visitors.let_go("large")


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_waiter_that_is_cancelled_loses_no_place(size: int) -> None:
    visitors = Visitors(most=1)
    async with anyio.create_task_group() as group:
        group.start_soon(visitors.visit, "first")
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(visitors.visit, "cancelled", size)
            await anyio.wait_all_tasks_blocked()
            waiting.cancel_scope.cancel()
        group.start_soon(visitors.visit, "next", size)
        await anyio.wait_all_tasks_blocked()
        await visitors.let_go("first")
        assert visitors.inside == ["next"]
        await visitors.let_go("next")


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_waiter_that_is_cancelled_after_it_was_let_in_hands_its_place_on(size: int) -> None:
    visitors = Visitors(most=1)
    async with anyio.create_task_group() as group, anyio.create_task_group() as waiting:

        async def leave_and_cancel() -> None:
            await visitors.visit("first")
            waiting.cancel_scope.cancel()  # no await in between: the waiter has its place, but has not run

        group.start_soon(leave_and_cancel)
        await anyio.wait_all_tasks_blocked()
        waiting.start_soon(visitors.visit, "cancelled", size)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(visitors.visit, "next", size)
        group.start_soon(visitors.let_go, "first")
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            assert visitors.inside == ["next"]
            await visitors.let_go("next")


@pytest.mark.asyncio
async def test_a_visit_that_fails_gives_its_place_back() -> None:
    pace = Pace("registry.test", 1, timing=Clock().timing, emit=lambda _: None)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with pace.visit(SMALL):
                _ = 1 / 0
    assert pace.rules.in_flight_limit == 1


@pytest.mark.asyncio
async def test_a_wait_that_the_host_asked_for_holds_everybody_back_and_is_said_once() -> None:
    visitors = Visitors(most=3)
    async with anyio.create_task_group() as group:
        for name in "ab":
            group.start_soon(visitors.visit, name, SMALL, 12.0)
        await anyio.wait_all_tasks_blocked()
        await visitors.let_go("a", "b")
        group.start_soon(visitors.visit, "c")
        await anyio.wait_all_tasks_blocked()
        assert sum(visitors.clock.sleeps) == pytest.approx(12.0)
        assert visitors.events == [Waiting("registry.test", 12.0, "asks to wait")]
        await visitors.let_go("c")


@pytest.mark.asyncio
async def test_places_that_were_halved_away_are_not_filled() -> None:
    visitors = Visitors(most=4)
    async with anyio.create_task_group() as group:
        for name in "abcde":
            group.start_soon(visitors.visit, name, SMALL, 1.0 if name == "a" else None)
        await anyio.wait_all_tasks_blocked()
        await visitors.let_go("a")
        assert visitors.inside == ["b", "c", "d"]
        await visitors.let_go("b", "c")
        assert visitors.inside == ["d", "e"]
        await visitors.let_go("d", "e")
