"""What every job store does, whatever it is made of: the invariants of jobs and leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from tests.contract.jobs.places import TTL, kinds, leased, state_of, submitted
from uploader.errors import InputError, KeyTakenError
from uploader.jobs import Heartbeat, JobId, JobSpec, Submitted
from uploader.jobs.base import MAX_PAYLOAD_BYTES
from uploader.jobs.store import MESSAGE_SECONDS

if TYPE_CHECKING:
    from tests.contract.jobs.places import Hands, Place
    from uploader.jobs.store import SqlJobStore

pytestmark = pytest.mark.asyncio


async def test_submitted_job_is_there_for_the_next_process(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store, b'{"to": "oci-layout:x"}', key="k", priority=3, max_attempts=2)
    async with place.open() as store:
        found = await store.get(job)
    assert found is not None
    assert (found.state, found.payload, found.key) == ("ready", b'{"to": "oci-layout:x"}', "k")
    assert (found.priority, found.attempts, found.max_attempts) == (3, 0, 2)


async def test_unknown_job_is_none(place: Place) -> None:
    async with place.open() as store:
        assert await store.get(JobId("nobody")) is None
        assert await store.cancel(JobId("nobody")) == "unknown"
        assert not await store.retry(JobId("nobody"))
        assert await store.report(JobId("nobody")) is None
        assert await store.history(JobId("nobody")) == ()


async def test_nothing_asked_is_nothing_done(place: Place) -> None:
    async with place.open() as store:
        await submitted(store)
        assert await store.submit([]) == []
        assert await store.renew([]) == []
        assert await store.lease(limit=0, ttl=TTL) == []


async def test_batch_is_all_or_nothing(place: Place) -> None:
    async with place.open() as store:
        with pytest.raises(InputError):
            await store.submit([JobSpec(b"fine"), JobSpec(b"x" * (MAX_PAYLOAD_BYTES + 1))])
        assert (await store.jobs()).jobs == ()
        answers = await store.submit([JobSpec(bytes([n])) for n in range(200)])
        assert [answer.created for answer in answers] == [True] * 200
        assert sum((await store.stats()).jobs.values()) == 200


async def test_answers_are_in_the_order_of_the_specs(place: Place) -> None:
    async with place.open() as store:
        specs = [JobSpec(b"0", key="z"), JobSpec(b"1"), JobSpec(b"2", key="a"), JobSpec(b"0", key="z")]
        answers = await store.submit(specs)
        payloads = [found.payload for one in answers if (found := await store.get(one.id))]
    assert payloads == [b"0", b"1", b"2", b"0"]
    assert [one.created for one in answers] == [True, True, True, False]


async def test_same_key_is_the_same_job_until_it_is_final(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store, key="k")
        again = JobSpec(b"{}", key="k", priority=3, max_attempts=1)
        assert await store.submit([again]) == [Submitted(job, created=False)]
        lease = await leased(store)
        assert await store.submit([again]) == [Submitted(job, created=False)]
        await store.complete(lease, b"{}")
        assert await submitted(store, key="k") != job


async def test_key_of_a_job_with_another_content_is_refused_until_that_is_final(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store, key="k")
        for batch in ([JobSpec(b"other", key="k")], [JobSpec(b"x", key="new"), JobSpec(b"other", key="k")]):
            with pytest.raises(KeyTakenError, match=f"'k' is that of job {job}"):
                await store.submit(batch)
        with pytest.raises(KeyTakenError, match="two jobs of this request have the key 'two'"):
            await store.submit([JobSpec(b"one", key="two"), JobSpec(b"other", key="two")])
        with pytest.raises(KeyTakenError):
            await store.submit([JobSpec(b"other", key="k")], message="m")
        assert [found.id for found in (await store.jobs()).jobs] == [job]
        await store.cancel(job)
        (answer,) = await store.submit([JobSpec(b"other", key="k")], message="m")
        assert answer.created


async def test_fifty_at_once_with_one_key_make_one_job(place: Place) -> None:
    answers: list[Submitted] = []

    async def submit(store: SqlJobStore) -> None:
        answers.extend(await store.submit([JobSpec(b"{}", key="k"), JobSpec(b"{}", key="l")]))

    async with place.open() as one, place.open() as other:
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(submit, one if number % 2 else other)
        assert len({answer.id for answer in answers}) == 2
        assert sum(answer.created for answer in answers) == 2
        assert (await one.stats()).jobs["ready"] == 2


async def test_highest_priority_goes_first_then_the_oldest(place: Place) -> None:
    async with place.open() as store:
        await store.submit([JobSpec(b"1"), JobSpec(b"2"), JobSpec(b"3", priority=1), JobSpec(b"4", priority=-1)])
        assert [lease.job.payload for lease in await store.lease(limit=9, ttl=TTL)] == [b"3", b"1", b"2", b"4"]


async def test_a_job_has_one_lease_at_most(place: Place) -> None:
    taken: list[bytes] = []

    async def take(store: SqlJobStore) -> None:
        taken.extend(lease.job.payload for lease in await store.lease(limit=3, ttl=TTL))

    async with place.open() as one, place.open() as other:
        await one.submit([JobSpec(bytes([number])) for number in range(40)])
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(take, one if number % 2 else other)
    assert sorted(taken) == [bytes([number]) for number in range(40)]


async def test_message_becomes_jobs_once_whatever_became_of_them(place: Place) -> None:
    async with place.open(keep_seconds=0) as store:
        taken = await store.submit([JobSpec(b"1"), JobSpec(b"2")], message="stream:7")
        assert [answer.created for answer in taken] == [True, True]
        assert len(await store.submit([JobSpec(b"3")], message="stream:8")) == 1
        for answer in taken:
            await store.cancel(answer.id)
        place.hands.pass_time(1)
        assert (await store.sweep()).pruned == 2
    async with place.open() as other:
        assert await other.submit([JobSpec(b"1"), JobSpec(b"2")], message="stream:7") == []
        assert [job.payload for job in (await other.jobs()).jobs] == [b"3"]


async def test_message_that_comes_to_many_at_once_becomes_one_job(place: Place) -> None:
    taken: list[int] = []

    async def take(store: SqlJobStore) -> None:
        taken.append(len(await store.submit([JobSpec(b"{}")], message="m")))

    async with place.open() as one, place.open() as other:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(take, one if number % 2 else other)
        assert sorted(taken) == [0] * 19 + [1]
        assert len((await one.jobs()).jobs) == 1


async def test_message_is_forgotten_a_month_after_it_came_last(place: Place, hands: Hands) -> None:
    async with place.open() as store:

        async def comes() -> bool:
            return bool(await store.submit([JobSpec(b"{}")], message="m"))

        assert await comes()
        hands.pass_time(MESSAGE_SECONDS - 1)
        await store.sweep()
        assert not await comes()
        hands.pass_time(MESSAGE_SECONDS - 1)
        await store.sweep()
        assert not await comes()
        hands.pass_time(MESSAGE_SECONDS + 1)
        await store.sweep()
        assert await comes()


async def test_store_that_nobody_opened_for_a_month_still_knows_its_messages(place: Place, hands: Hands) -> None:
    async with place.open() as store:
        await store.submit([JobSpec(b"{}")], message="m")
    hands.pass_time(2 * MESSAGE_SECONDS)
    async with place.open() as store:
        await store.sweep()
        assert await store.submit([JobSpec(b"{}")], message="m") == []


async def test_succeeded_job_keeps_its_report(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store)
        lease = await leased(store)
        assert (lease.job.state, lease.job.attempts) == ("leased", 1)
        assert await store.complete(lease, b'{"schema": 1}')
        assert [one.id for one in (await store.jobs(state="succeeded")).jobs] == [job]
        assert await store.report(job) == b'{"schema": 1}'
        assert await store.lease(limit=1, ttl=TTL) == []


async def test_asking_again_for_the_same_end_gets_the_same_answer(place: Place) -> None:
    async with place.open() as store:
        await store.submit([JobSpec(b"1"), JobSpec(b"2"), JobSpec(b"3")])
        one, two, three = await store.lease(limit=3, ttl=TTL)
        for _ in range(2):
            assert await store.complete(one, b"{}")
            assert await store.fail(two, "no", retry_in=None) == "failed"
            assert await store.release(three)
        assert await store.fail(one, "no", retry_in=None) == "lost"
        assert not await store.complete(two, b"{}")


async def test_failure_that_may_pass_waits_and_comes_back(place: Place, hands: Hands) -> None:
    async with place.open() as store:
        job = await submitted(store)
        assert await store.fail(await leased(store), "429 from the registry", retry_in=30, report=b"half") == "again"
        waiting = await store.get(job)
        assert waiting is not None
        assert (waiting.state, waiting.error, waiting.attempts) == ("scheduled", "429 from the registry", 1)
        assert [one.id for one in (await store.jobs(state="scheduled")).jobs] == [job]
        assert (await store.jobs(state="ready")).jobs == ()
        assert await store.lease(limit=1, ttl=TTL) == []
        hands.pass_time(30)
        assert await state_of(store, job) == "ready"
        assert (await leased(store)).job.attempts == 2
        assert await store.report(job) == b"half"


async def test_failure_for_good_is_final(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store)
        assert await store.fail(await leased(store), "401", retry_in=None, report=b"{}") == "failed"
        assert await state_of(store, job) == "failed"
        assert await store.lease(limit=1, ttl=TTL) == []


async def test_spent_attempts_end_among_the_dead_with_all_their_errors(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store, b"poison", max_attempts=3)
        for number, ended in enumerate(["again", "again", "dead"]):
            assert await store.fail(await leased(store), f"error {number}", retry_in=0) == ended
        assert await store.lease(limit=1, ttl=TTL) == []
        assert [one.error for one in await store.history(job)] == ["error 0", "error 1", "error 2"]
        dead = await store.get(job)
        assert dead is not None
        assert (dead.state, dead.payload) == ("dead", b"poison")


@pytest.mark.parametrize("end", ["failed", "dead", "cancelled"])
async def test_retry_gives_all_attempts_again(place: Place, end: str) -> None:
    async with place.open() as store:
        job = await submitted(store, max_attempts=1)
        if end == "cancelled":
            await store.cancel(job)
        else:
            await store.fail(await leased(store), "no", retry_in=None if end == "failed" else 0)
        assert await state_of(store, job) == end
        assert await store.retry(job)
        assert not await store.retry(job)
        assert (await leased(store)).job.attempts == 1


async def test_retry_yields_to_a_newer_job_with_the_key(place: Place) -> None:
    async with place.open() as store:
        old = await submitted(store, key="k")
        await store.cancel(old)
        await submitted(store, key="k")
        assert not await store.retry(old)
        assert await state_of(store, old) == "cancelled"


async def test_all_dead_are_retried_but_for_those_whose_key_is_taken(place: Place) -> None:
    async with place.open() as store:
        await store.submit([JobSpec(b"{}", key=f"k{number}", max_attempts=1) for number in range(5)])
        for lease in await store.lease(limit=5, ttl=TTL):
            await store.fail(lease, "no", retry_in=0)
        await submitted(store, key="k3")
        assert await store.retry_dead() == 4
        counts = (await store.stats()).jobs
        assert (counts["ready"], counts["dead"]) == (5, 1)


async def test_released_job_waits_for_the_reason_of_before(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store)
        assert await store.fail(await leased(store), "the registry is away", retry_in=0) == "again"
        assert await store.release(await leased(store))
        found = await store.get(job)
        assert found is not None
        assert (found.state, found.error) == ("ready", "the registry is away")
        assert [attempt.error for attempt in await store.history(job)] == ["the registry is away", None]
        assert await store.complete(await leased(store), b"{}")
        found = await store.get(job)
        assert found is not None
        assert found.error is None


async def test_released_job_gets_its_attempt_back(place: Place, hands: Hands) -> None:
    async with place.open() as store:
        job = await submitted(store, max_attempts=1)
        for _ in range(3):
            assert await store.release(await leased(store), delay=5)
            assert await state_of(store, job) == "scheduled"
            hands.pass_time(5)
        assert (await leased(store)).job.attempts == 1


async def test_lease_that_settled_a_package_was_no_attempt(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store, max_attempts=1)
        for _ in range(3):
            lease = await leased(store)
            assert await store.renew([Heartbeat(lease, "1 of 9", settled=True)]) == ["held"]
            assert await store.renew([Heartbeat(lease)]) == ["held"]
            assert await store.fail(lease, "reset", retry_in=0) == "again"
        assert await store.fail(await leased(store), "reset", retry_in=0, settled=True) == "again"
        assert await store.fail(await leased(store), "reset", retry_in=0) == "dead"
        assert len(await store.history(job)) == 5


async def test_waiting_job_is_cancelled_at_once(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store)
        assert await store.cancel(job, "not needed") == "cancelled"
        assert await store.cancel(job) == "already-final"
        cancelled = await store.get(job)
        assert cancelled is not None
        assert (cancelled.state, cancelled.error) == ("cancelled", "not needed")
        assert await store.lease(limit=1, ttl=TTL) == []


async def test_holder_hears_of_a_cancel_with_its_next_heartbeat(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store)
        lease = await leased(store)
        assert await store.cancel(job, "not needed") == "requested"
        assert await store.cancel(job, "again") == "requested"
        assert await store.renew([Heartbeat(lease)]) == ["cancel-requested"]
        assert await store.fail(lease, "stopped", retry_in=5) == "cancelled"
        assert await state_of(store, job) == "cancelled"
        assert await kinds(store, job) == ["submitted", "leased", "cancel-requested", "cancelled"]


async def test_cancel_that_the_holder_ignores_holds_when_the_lease_ends(place: Place, hands: Hands) -> None:
    async with place.open() as store:
        job = await submitted(store)
        lease = await leased(store)
        await store.cancel(job)
        await store.sweep()
        hands.pass_time(TTL)
        assert (await store.sweep()).taken_back == 1
        assert await state_of(store, job) == "cancelled"
        assert not await store.complete(lease, b"{}")


async def test_released_job_that_is_to_be_cancelled_is(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store)
        lease = await leased(store)
        await store.cancel(job)
        assert await store.release(lease)
        assert await state_of(store, job) == "cancelled"


async def test_progress_is_shown_while_the_job_runs_and_after(place: Place) -> None:
    async with place.open() as store:
        job = await submitted(store)
        lease = await leased(store)
        for text in ("1 of 9", "1 of 9", None, "2 of 9"):
            await store.renew([Heartbeat(lease, text)])
        during = await store.get(job)
        await store.complete(lease, b"{}")
        after = await store.get(job)
        assert during is not None
        assert after is not None
        assert during.progress == after.progress == "2 of 9"
        assert await kinds(store, job) == ["submitted", "leased", "progress", "progress", "succeeded"]


async def test_one_renewal_answers_for_each_lease(place: Place) -> None:
    async with place.open() as store:
        await store.submit([JobSpec(b"1"), JobSpec(b"2"), JobSpec(b"3")])
        one, two, three = await store.lease(limit=3, ttl=TTL)
        await store.complete(one, b"{}")
        await store.cancel(three.job.id)
        beats = [Heartbeat(lease) for lease in (three, two, one)]
        assert await store.renew(beats) == ["cancel-requested", "held", "lost"]


async def test_waiting_lease_gets_a_job_that_comes(place: Place) -> None:
    got: list[bytes] = []

    async def wait(store: SqlJobStore) -> None:
        got.extend(lease.job.payload for lease in await store.lease(limit=1, ttl=TTL, wait=30))

    async with place.open() as worker, place.open() as client:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(wait, worker)
                await anyio.wait_all_tasks_blocked()
                await submitted(client, b"came")
    assert got == [b"came"]


async def test_events_are_read_on_from_where_one_stopped(place: Place) -> None:
    async with place.open() as store:
        job, other = await submitted(store), await submitted(store)
        first = await store.events(limit=1)
        assert [(event.job, event.kind) for event in first] == [(job, "submitted")]
        await store.complete(await leased(store), b"{}")
        rest = await store.events(after=first[-1].seq)
        assert [(event.job, event.kind) for event in rest] == [
            (other, "submitted"),
            (job, "leased"),
            (job, "succeeded"),
        ]
        assert await kinds(store, other) == ["submitted"]


async def test_waiting_reader_gets_the_next_event(place: Place) -> None:
    got: list[str] = []

    async def wait(store: SqlJobStore, job: JobId, after: int) -> None:
        got.extend(event.kind for event in await store.events(job, after=after, wait=30))

    async with place.open() as store:
        job = await submitted(store)
        (seen,) = await store.events(job)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(wait, store, job, seen.seq)
                await anyio.wait_all_tasks_blocked()
                await store.cancel(job)
    assert got == ["cancelled"]


async def test_events_written_at_once_have_no_gap_for_a_reader(place: Place) -> None:
    read: list[int] = []

    async def follow(store: SqlJobStore, until: int) -> None:
        while len(read) < until:
            read.extend(event.seq for event in await store.events(after=read[-1] if read else 0, limit=7))

    async def submit(store: SqlJobStore) -> None:
        for _ in range(10):
            await store.submit([JobSpec(b"{}"), JobSpec(b"{}")])

    async with place.open() as one, place.open() as other:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(follow, one, 160)
                for number in range(8):
                    group.start_soon(submit, one if number % 2 else other)
        every = [event.seq for event in await one.events(limit=1000)]
    assert read == every


async def test_pages_are_newest_first_and_meet(place: Place) -> None:
    async with place.open() as store:
        ids = [answer.id for answer in await store.submit([JobSpec(b"{}") for _ in range(5)])]
        first = await store.jobs(limit=2)
        second = await store.jobs(limit=2, cursor=first.next)
        last = await store.jobs(limit=2, cursor=second.next)
        assert [job.id for page in (first, second, last) for job in page.jobs] == ids[::-1]
        assert last.next is None
        with pytest.raises(InputError):
            await store.jobs(limit=0)


async def test_job_that_ended_shows_how_far_it_came_at_the_end(place: Place) -> None:
    async with place.open() as store:
        done, failed = await submitted(store), await submitted(store)
        one, two = await store.lease(limit=2, ttl=TTL)
        await store.renew([Heartbeat(one, "1/2"), Heartbeat(two, "1/2")])
        assert await store.complete(one, b"{}", progress="2/2")
        assert await store.fail(two, "no", retry_in=None, progress="1/2") == "failed"
        assert [found.progress for job in (done, failed) if (found := await store.get(job))] == ["2/2", "1/2"]
        assert await kinds(store, done) == ["submitted", "leased", "progress", "progress", "succeeded"]
        assert await kinds(store, failed) == ["submitted", "leased", "progress", "failed"]


async def test_stats_count_jobs_by_state_and_tell_how_long_the_oldest_waits(place: Place, hands: Hands) -> None:
    async with place.open() as store, place.open():
        await store.submit([JobSpec(b"1"), JobSpec(b"2"), JobSpec(b"3"), JobSpec(b"4")])
        one, two = await store.lease(limit=2, ttl=TTL)
        await store.complete(one, b"{}")
        await store.fail(two, "later", retry_in=1000)
        hands.pass_time(90)
        stats = await store.stats()
        assert {state: count for state, count in stats.jobs.items() if count} == {
            "ready": 2,
            "scheduled": 1,
            "succeeded": 1,
        }
        assert stats.oldest_ready_seconds == pytest.approx(90)
        assert stats.workers == 2


async def test_workers_are_listed_with_what_they_hold(place: Place) -> None:
    async with place.open(name="a") as store:
        async with place.open(name="b") as other:
            await store.submit([JobSpec(b"1"), JobSpec(b"2")])
            held = await other.lease(limit=2, ttl=TTL)
            assert {(worker.name, worker.leases) for worker in await store.workers()} == {("a", 0), ("b", 2)}
            for lease in held:
                await other.release(lease)
        assert [worker.name for worker in await store.workers()] == ["a"]


async def test_old_jobs_are_dropped_with_all_that_is_theirs_but_not_the_dead(place: Place, hands: Hands) -> None:
    async with place.open(keep_seconds=100) as store:
        old, dead, waiting = [await submitted(store, max_attempts=1) for _ in range(3)]
        await store.complete(await leased(store), b"{}")
        await store.fail(await leased(store), "no", retry_in=0)
        hands.pass_time(99)
        assert (await store.sweep()).pruned == 0
        hands.pass_time(21)
        assert (await store.sweep()).pruned == 1
        assert await store.get(old) is None
        assert (await store.report(old), await store.history(old), await store.events(old)) == (None, (), ())
        assert await state_of(store, dead) == "dead"
        assert await state_of(store, waiting) == "ready"


async def test_check_passes_on_a_store_that_works(place: Place) -> None:
    async with place.open() as store:
        await store.check()
        await store.check()
        assert await kinds(store) == []


async def test_text_that_no_engine_can_keep_is_spelled_out(place: Place) -> None:
    """The name of a file may be no Unicode, and an error says it: that must not keep the job from ending."""
    odd, spelled = "no \udcff\0", "no \\udcff\\0"
    async with place.open() as store:
        one, two = [await submitted(store, payload) for payload in (b"1", b"2")]
        lease = await leased(store)
        assert await store.renew([Heartbeat(lease, odd)]) == ["held"]
        assert await store.fail(lease, odd, retry_in=None, progress=f"{odd}!") == "failed"
        found = await store.get(lease.job.id)
        assert found is not None
        assert (found.error, found.progress) == (spelled, f"{spelled}!")
        (rest,) = {one, two} - {lease.job.id}
        await leased(store)
        assert await store.cancel(rest, odd) == "requested"
        assert spelled in [event.detail for event in await store.events(lease.job.id)]
