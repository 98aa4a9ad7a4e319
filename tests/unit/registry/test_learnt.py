"""What was learnt of a host: kept in a real record, believed for a while, and never a reason to fail."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.registry.test_pace import SIXTY, WindowHost, push_to
from uploader.oci.profile import DEFAULT, MIB, Profile
from uploader.record import Record
from uploader.registry.ceiling import Board, Bucket, HostPace
from uploader.registry.learnt import Limits, NoFacts, RecordedBoard, parse_pace, render_pace
from uploader.testing.clock import Clock

if TYPE_CHECKING:
    from pathlib import Path

HOST = "registry.example:5000"
DAY = 24 * 3600.0
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["held", "buckets", "all"]), inner),
    max_leaves=20,
)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record.sqlite")


class TestLimits:
    def test_the_next_push_begins_with_what_this_one_learnt(self, record: Record) -> None:
        clock = Clock()
        limits = Limits(HOST, DEFAULT, record, clock.time)
        limits.body_limit(32 * MIB)
        limits.body_limit(4 * MIB)
        limits.least_piece(MIB)
        limits.no_mount()
        limits.no_stream()
        learnt = replace(DEFAULT, largest_body=4 * MIB, chunk_min=MIB, self_mount=False, resumes=False)
        assert limits.profile == learnt
        assert Limits(HOST, DEFAULT, record, clock.time).profile == learnt
        assert Limits("other.example", DEFAULT, record, clock.time).profile == DEFAULT

    def test_a_known_limit_is_never_widened(self, record: Record) -> None:
        clock = Clock()
        Limits(HOST, DEFAULT, record, clock.time).body_limit(32 * MIB)
        strict = Profile(largest_body=MIB)
        assert Limits(HOST, strict, record, clock.time).profile == strict

    def test_after_a_week_the_registry_is_tried_again(self, record: Record) -> None:
        clock = Clock()
        Limits(HOST, DEFAULT, record, clock.time).no_mount()
        clock.now += 6 * DAY
        assert not Limits(HOST, DEFAULT, record, clock.time).profile.self_mount
        clock.now += 2 * DAY
        assert Limits(HOST, DEFAULT, record, clock.time).profile.self_mount

    @pytest.mark.parametrize("value", ["x", 5, [5], [-5, 1000.0], [True], [5, "x"], [5, 1e300], {"a": 1}, [[], {}]])
    def test_what_makes_no_sense_is_as_good_as_nothing(self, record: Record, value: object) -> None:
        for name in ("largest body", "least piece", "mounts", "streams", "pace"):
            record.change_fact(HOST, name, lambda _: value)
        clock = Clock()
        assert Limits(HOST, DEFAULT, record, clock.time).profile == DEFAULT
        assert RecordedBoard(HOST, record).read(1000.0) == HostPace()

    def test_without_a_record_it_is_learnt_for_this_push(self) -> None:
        limits = Limits(HOST, DEFAULT, NoFacts(), Clock().time)
        limits.body_limit(MIB)
        assert limits.profile.largest_body == MIB


class TestPaceOnRecord:
    def test_it_comes_back_as_it_was(self) -> None:
        pace = HostPace(1005.0, 1000.0).with_buckets({"all": Bucket(54.0, 50.0, 1.25, 1001.0, 77, 990.0, 980.0)})
        assert parse_pace(render_pace(pace), 1000.0) == pace
        assert parse_pace(render_pace(HostPace()), 1000.0) == HostPace()

    @given(JSON)
    @example({"held": [413, 0], "buckets": {"all": None}})
    @example({"held": [0, 0], "buckets": {"all": [0.1, 0, 1, 100, 0, 0, 0]}})
    def test_whatever_is_kept_can_be_used(self, kept: object) -> None:
        """And takes no longer than what it says, where that makes sense."""
        requests, pace = 20, parse_pace(kept, 0.0)
        bucket = pace.bucket("all")
        begin = max(0.0, pace.held_until, bucket.free_at)
        seconds, _ = push_to(WindowHost(60), requests, board=RecordedBoard(HOST, Kept(kept)), quotas=SIXTY)
        assert seconds < begin + requests / min(60, bucket.rate or 60) + 60

    def test_a_clock_that_was_set_back_makes_nobody_wait(self) -> None:
        later = HostPace(4700.0, 4600.0).with_buckets({"all": Bucket(50.0, 50.0, 1.05, 4701.0, 7, 4700.0, 4600.0)})
        read = parse_pace(render_pace(later), 1000.0)
        assert read == HostPace().with_buckets({"all": Bucket(50.0, 50.0, taken=7, grown_at=1000.0, lowered_at=1000.0)})

    @pytest.mark.parametrize("quotas", [SIXTY, ()], ids=["known", "unknown"])
    def test_two_processes_together_keep_to_what_the_host_takes(self, tmp_path: Path, quotas: tuple[()]) -> None:
        """Each with its own connection to the record; then one more alone, which begins with what they found out."""
        boards: list[Board] = [RecordedBoard(HOST, Record(tmp_path / "record.sqlite")) for _ in range(3)]
        host = WindowHost(60)
        seconds, refused = push_to(host, 1000, 1000, board=boards[:2], quotas=quotas)
        assert seconds <= (1.3 if quotas else 1.5) * 2000 / 60
        assert refused <= (0 if quotas else 0.04 * 2000)
        began = host.times[-1]
        seconds, refused = push_to(host, 2000, board=boards[2], quotas=quotas, begin=began + 1)
        assert seconds <= 1.3 * 2000 / 60
        assert refused < 0.02 * 2000

    def test_a_push_that_begins_beside_another_is_told_of_its_quota(self, tmp_path: Path) -> None:
        boards: list[Board] = [RecordedBoard(HOST, Record(tmp_path / "record.sqlite")) for _ in range(2)]
        _, refused = push_to(WindowHost(60), 600, 300, board=boards, quotas=SIXTY, apart=3.0)
        assert refused == 0


class Kept:
    """Facts that are what they are, and take no change."""

    def __init__(self, value: object) -> None:
        self._value = value

    def fact(self, host: str, name: str) -> object:  # noqa: ARG002
        return self._value

    def change_fact(self, host: str, name: str, change: object) -> bool:  # noqa: ARG002
        return False
