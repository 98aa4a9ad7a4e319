from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from uploader.jobs.machine import (
    Completed,
    Ending,
    Failed,
    Lost,
    Next,
    Released,
    Standing,
    Watch,
    after,
    most_losses,
)

DELAYS = st.floats(0, 1000)
ENDINGS: st.SearchStrategy[Ending] = st.one_of(
    st.just(Completed()),
    st.builds(Failed, st.none() | DELAYS),
    st.builds(Released, DELAYS),
    st.just(Lost()),
)
STANDINGS = st.integers(1, 9).flatmap(
    lambda most: st.builds(
        Standing,
        st.integers(1, most),
        st.just(most),
        st.integers(0, most_losses(most) - 1),
        st.booleans(),
        st.booleans(),
    )
)


@given(ENDINGS, STANDINGS)
def test_job_that_goes_on_has_an_attempt_left_and_may_be_lost_once_more(ending: Ending, standing: Standing) -> None:
    what = after(ending, standing)
    if not what.final:
        assert 0 <= what.attempts < standing.max_attempts
        assert 0 <= what.losses < most_losses(standing.max_attempts)


@given(ENDINGS, STANDINGS)
def test_job_that_is_to_be_cancelled_ends(ending: Ending, standing: Standing) -> None:
    what = after(ending, standing)
    if standing.cancel_requested:
        assert what.ended == ("succeeded" if isinstance(ending, Completed) else "cancelled")


@given(ENDINGS, STANDINGS)
def test_only_the_holder_ends_a_job_well_or_for_good(ending: Ending, standing: Standing) -> None:
    ended = after(ending, standing).ended
    assert (ended == "succeeded") == isinstance(ending, Completed)
    assert ended != "failed" or ending == Failed(None)


@given(STANDINGS, DELAYS)
def test_failures_that_got_nothing_done_are_counted(standing: Standing, delay: float) -> None:
    given_back = after(Failed(delay), standing).attempts < standing.attempts
    assert given_back == standing.settled


@given(ENDINGS, STANDINGS)
def test_losses_are_no_attempts_and_are_counted_until_something_gets_done(ending: Ending, standing: Standing) -> None:
    what = after(ending, standing)
    if isinstance(ending, Lost):
        assert what.attempts == standing.attempts - 1
    assert what.losses == (0 if standing.settled else standing.losses + isinstance(ending, Lost))


@given(STANDINGS, DELAYS)
def test_last_attempt_leaves_a_job_dead(standing: Standing, delay: float) -> None:
    most = standing.max_attempts
    last = Standing(most, most, 0, settled=False, cancel_requested=False)
    assert after(Failed(delay), last) == Next("dead", most, 0)
    assert after(Released(delay), last).ended == "released"
    assert after(Lost(), last).ended == "again"


@given(st.integers(1, 9))
def test_last_loss_leaves_a_job_dead(most: int) -> None:
    last = Standing(1, most, most_losses(most) - 1, settled=False, cancel_requested=False)
    assert after(Lost(), last) == Next("dead", 0, most_losses(most))


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 5)), min_size=1, max_size=30))
def test_watch_expires_exactly_what_stood_still_for_the_whole_time(steps: list[tuple[int, float]]) -> None:
    watch, now, changed, last = Watch(), 0.0, 0.0, None
    for sign, seconds in steps:
        now += seconds
        if sign != last:
            changed, last = now, sign
        assert watch.observe({"lease": (sign, 4.0)}, now) == ({"lease"} if now - changed >= 4.0 else set())


def test_watch_begins_anew_with_what_was_away() -> None:
    watch = Watch()
    watch.observe({"lease": (0, 1.0)}, 0.0)
    watch.observe({}, 5.0)
    assert watch.observe({"lease": (0, 1.0)}, 10.0) == set()
