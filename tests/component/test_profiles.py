"""The matrix: each registry of the table, as the fake one does it, times pushes with and without faults.

All of a push takes part (plan, engine, client, record, report) over real sockets, in virtual time.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from tests.component.a_client import NAME, a_client
from uploader import PushOptions, Report, wiring
from uploader.oci.profile import DISTRIBUTION_2_8, ECR, PROFILES, Profile
from uploader.record import NoRecord, Record
from uploader.registry.bodies import Timeouts
from uploader.registry.credentials import Credentials
from uploader.registry.timing import Timing
from uploader.service.batch import Task, run_push
from uploader.service.images import ImageMaker
from uploader.sources.base import parse_source
from uploader.sources.merge import merge
from uploader.testing import (
    AcceptThenReset,
    Action,
    Answer,
    Bearer,
    FakeRegistry,
    Fault,
    Kind,
    Late,
    LyingDigest,
    RefuseMount,
    Reset,
    SessionLost,
    Stall,
    Truncate,
    Unauthorized,
)
from uploader.testing.graphs import write_graph
from uploader.testing.packages import write_packages
from uploader.testing.virtual import run_in_virtual_time

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES: Final = 100
PATIENCE: Final = 0.003
"""Real seconds."""
LOGIN: Final = 3
"""The first request, refused; the token; and the first request again."""
PATIENT: Final = Timeouts(connect=1000.0, stall=1000.0, answer=1000.0)
HASTY: Final = Timeouts(connect=1000.0, stall=50.0, answer=50.0)

by_profile = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)


def a_registry(profile: Profile, *faults: Fault) -> FakeRegistry:
    return FakeRegistry(
        profile=profile,
        repositories=[NAME],
        faults=faults,
        auth=Bearer("alice", "hidden"),
        clock=anyio.current_time,
    )


async def push(
    registry: FakeRegistry, profile: Profile, graph: Path, record: Record, timeouts: Timeouts = PATIENT
) -> Report:
    """As `uploader.push` does it, to a registry that is known by its row and not by its host."""
    options = PushOptions()
    merged = merge([wiring.open_source(parse_source(str(graph)), options).load()])
    images = ImageMaker(wiring.created_at(options), {}, merged.formats)
    task = Task(
        merged.graph,
        frozenset(package.id for package in merged.graph.packages),
        where=registry.destination(NAME),
        source=(str(graph),),
        notes=(),
        jobs=options.jobs,
        images=images,
        force=False,
        strict=True,
    )
    client = a_client(
        registry,
        credentials=Credentials("alice", "hidden"),
        timing=Timing(),
        profile=profile,
        jobs=options.jobs,
        facts=record,
        timeouts=timeouts,
        no_connection_seconds=1000.0,
    )
    contents = wiring.make_contents(options, record, images)
    return await run_push(task, client, contents, record, emit=lambda _: None, stop=anyio.Event())


def outcomes(report: Report) -> dict[str, int]:
    """How many packages ended how; all of them are complete, and nothing failed."""
    assert report.error is None
    assert [entry.error for entry in report.packages if entry.error] == []
    assert report.totals.incomplete == 0
    return Counter(entry.outcome for entry in report.packages)


def sent_again(registry: FakeRegistry) -> int:
    """Blobs that were taken more than once."""
    taken = Counter(one.reference for one in registry.requests_of("put-blob") if one.status == 201)
    return sum(count - 1 for count in taken.values())


@by_profile
def test_a_push_and_the_same_again(profile: Profile, tmp_path: Path) -> None:
    """Five requests for each package, one for each that is there; a lagging manifest is asked for again."""
    graph = write_graph(tmp_path / "graph", PACKAGES, seed=7)

    async def scenario() -> None:
        with Record(tmp_path / "record.sqlite") as record:
            async with a_registry(profile) as registry:
                assert outcomes(await push(registry, profile, graph, record)) == {"pushed": PACKAGES}
                first = Counter(one.kind for one in registry.requests)
                assert registry.forbidden == []
                assert sent_again(registry) == 0
                assert first.pop("put-manifest") <= PACKAGES * (6 if profile.blob_lag else 1)
                assert first == {
                    "token": 1, "tags": LOGIN - 1, "open": 2 * PACKAGES, "put-blob": 2 * PACKAGES
                }  # fmt: skip
                await anyio.sleep(60)
                before = len(registry.requests)
                assert outcomes(await push(registry, profile, graph, record)) == {"present": PACKAGES}
                again = Counter(one.kind for one in registry.requests[before:])
                assert again == {"token": 1, "tags": LOGIN - 1, "head-manifest": PACKAGES}
                assert registry.forbidden == []
                assert len(registry.repository(NAME).tags) == PACKAGES

    run_in_virtual_time(scenario, patience=PATIENCE)


READ: Final[tuple[Kind, ...]] = ("tags", "head-manifest")
WRITE: Final[tuple[Kind, ...]] = ("open", "put-blob", "put-manifest")
ANY: Final = (*READ, *WRITE)
ASKS: Final[tuple[Kind, ...]] = ("mount", "head-blob")

FAULTS: Final[dict[str, tuple[Action, tuple[Kind, ...]]]] = {
    "408": (Answer(408), ANY),
    "425": (Answer(425), ANY),
    "429": (Answer(429), ANY),
    "429 with seconds": (Answer(429, retry_after=2), ANY),
    "429 with a date": (Answer(429, retry_after="Thu, 01 Jan 1970 00:00:01 GMT"), ANY),
    "429 in GHCR's words": (
        Answer(429, codes=("TOOMANYREQUESTS",), message="retry-after: 10.305464ms, allowed: 2000/minute"), ANY
    ),
    "500": (Answer(500), ANY),
    "502": (Answer(502, body=b"<html>"), ANY),
    "503 with seconds": (Answer(503, retry_after=1), ANY),
    "504": (Answer(504), ANY),
    "reset": (Reset(), ANY),
    "reset within the body": (Reset(after_bytes=50), ("put-blob", "put-manifest")),
    "stall": (Stall(), ("put-blob", "put-manifest")),
    "accepted, and the answer lost": (AcceptThenReset(), ANY),
    "cut answer": (Truncate(), ("tags",)),
    "401": (Unauthorized(f"repository:{NAME}:pull,push"), ANY),
    "refused mount": (RefuseMount(405), ("mount",)),
    "opened instead of mounted": (RefuseMount(202), ("mount",)),
    "lost session": (SessionLost(), ("put-blob",)),
    "late blob": (Late(visible_after_requests=2), ("put-blob",)),
    "late tag": (Late(visible_after_requests=2), ("put-manifest",)),
    "another digest told of a blob": (LyingDigest(), ("put-blob",)),
}  # fmt: skip
RESENT: Final = {"late blob"}
"""What is not there when it is asked for is sent again."""


@by_profile
def test_each_fault_once_on_each_kind_of_request(profile: Profile, tmp_path: Path) -> None:
    """A repository that is not empty, so that everything is asked for; each fault has a push of its own."""
    graph = write_packages(tmp_path, {"app": ["lib"], "lib": []})

    async def scenario() -> None:
        for name, (action, kinds) in FAULTS.items():
            if profile.self_mount is False and kinds == ("mount",):
                continue  # it is never asked to
            faults = [Fault(on=kind, then=action, times=1) for kind in (*kinds, *(ASKS if kinds == ANY else ()))]
            async with a_registry(profile, *faults) as registry:
                registry.repository(NAME).add_manifest(b"{}", "something")
                timeouts = HASTY if name == "stall" else PATIENT
                report = await push(registry, profile, graph, NoRecord(), timeouts)
                assert outcomes(report) == {"pushed": 2}, name
                assert registry.forbidden == [], name
                assert len(registry.repository(NAME).tags) == 3, name
                assert sent_again(registry) <= (1 if name in RESENT else 0), name
                # LOGIN; for each its tag, two blobs (asked for, opened, sent) and the manifest; four for a fault at
                # the most: two HEADs, and a blob's two anew; five for a lag.
                most = LOGIN + 2 * 8 + 4 * len(faults) + (2 * 5 if profile.blob_lag else 0)
                assert len(registry.requests) <= most, (name, [(one.kind, one.status) for one in registry.requests])

    run_in_virtual_time(scenario, patience=PATIENCE)


@pytest.mark.parametrize("late", [0, 1], ids=["there at once", "there later"])
def test_a_close_that_comes_too_late_is_neither_a_failure_nor_sent_again(late: int, tmp_path: Path) -> None:
    """jib#4301: the client has given up waiting, the blob is there all the same, and a second try is answered 404."""
    graph = write_graph(tmp_path / "graph", PACKAGES, seed=4301)
    fault = Fault(on="put-blob", then=AcceptThenReset(visible_after_requests=late), chance=0.5)

    async def scenario() -> None:
        async with a_registry(DISTRIBUTION_2_8, fault) as registry:
            assert outcomes(await push(registry, DISTRIBUTION_2_8, graph, NoRecord())) == {"pushed": PACKAGES}
            puts = Counter(one.reference for one in registry.requests_of("put-blob"))
            assert set(puts.values()) == {1}
            lost = sum(one.status is None for one in registry.requests_of("put-blob"))
            assert lost > PACKAGES / 2
            asked = len(registry.requests_of("head-blob"))
            assert lost <= asked <= lost * (1 + late), "another's request may have come in between"

    run_in_virtual_time(scenario, patience=PATIENCE)


def test_a_tag_that_cannot_be_written_twice_is_done_when_it_is_right(tmp_path: Path) -> None:
    """ECR with immutable tags: whoever pushed the same before us did our work."""
    graph = write_packages(tmp_path, {"app": ["lib"], "lib": []})

    async def scenario() -> None:
        async with a_registry(ECR) as registry:
            await push(registry, ECR, graph, NoRecord())
            tags = dict(registry.repository(NAME).tags)
            registry.inject(Fault(on="head-manifest", then=Answer(404), times=2))
            assert outcomes(await push(registry, ECR, graph, NoRecord())) == {"pushed": 2}
            assert registry.repository(NAME).tags == tags
            assert [one.status for one in registry.requests_of("put-manifest")][-2:] == [400, 400]

    run_in_virtual_time(scenario, patience=PATIENCE)
