from __future__ import annotations

import uuid

from uploader.jobs.ids import Ids


def test_ids_are_uuids_of_version_7_that_grow() -> None:
    ids = Ids()
    made = [ids.next() for _ in range(2000)]
    assert made == sorted(set(made))
    assert {(uuid.UUID(one).version, uuid.UUID(one).variant) for one in made} == {(7, uuid.RFC_4122)}


def test_ids_grow_when_the_clock_is_put_back() -> None:
    seconds = iter([2000.0, 1000.0, 2000.001])
    ids = Ids(lambda: next(seconds))
    first, second, third = ids.next(), ids.next(), ids.next()
    assert first < second < third
