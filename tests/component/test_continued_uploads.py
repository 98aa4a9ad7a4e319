"""Large blobs are continued: after a broken connection, and by a later push; never by two, and nothing leaks."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.component.a_client import NAME, Bytes, a_client, described, has
from uploader.errors import SourceError
from uploader.oci.profile import Profile
from uploader.record import Record, RecordedSession
from uploader.registry.credentials import Credentials
from uploader.service.journal import journal
from uploader.testing import (
    DISTRIBUTION_2_8,
    AcceptThenReset,
    Answer,
    Basic,
    FakeRegistry,
    Fault,
    Kind,
    Quirks,
    Reset,
    SessionLost,
    Stall,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from uploader.model.outcome import Resent
    from uploader.registry.client import RegistryClient

pytestmark = pytest.mark.asyncio

CONTENT = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(256)) * 4  # no two pieces alike
SIZE = len(CONTENT)
BLOB = described(CONTENT)
LARGE = Profile(resume_above_bytes=4096)
PART = 9000
SECRETIVE = Quirks(location_state=True, absolute_location=True)


@contextmanager
def a_record(folder: Path, **settings: object) -> Iterator[Record]:
    with Record(folder / "record.db", **settings) as record:  # type: ignore[arg-type]
        yield record
        assert record.problem is None


async def send(client: RegistryClient, record: Record, content: bytes = CONTENT) -> tuple[str, Resent | None]:
    with journal(record, "here", BLOB, Bytes(content)) as notes:
        how = await client.push_blob(BLOB, notes, expected=False, journal=notes)
    return how, notes.resent


async def interrupt(registry: FakeRegistry, record: Record, *, leaves: tuple[int, ...] = (PART,)) -> None:
    """Push until a part is there, and cancel; open uploads then hold so many bytes each."""
    registry.inject(Fault(on="patch", then=Stall(after_bytes=PART)))
    async with a_client(registry, profile=LARGE) as client, anyio.create_task_group() as group:
        group.start_soon(send, client, record)
        await registry.wait_until(lambda: asked(registry) == ["open", "patch"] and held(registry) == [*leaves])
        group.cancel_scope.cancel()
    registry.clear_faults()


def held(registry: FakeRegistry) -> list[int]:
    return [session.size for session in registry.repository(NAME).sessions.values()]


def asked(registry: FakeRegistry, *, since: int = 0) -> list[Kind]:
    return [request.kind for request in registry.requests[since:]]


def ranges(registry: FakeRegistry) -> list[str]:
    return [request.headers["content-range"] for request in registry.requests_of("patch")]


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def modes(folder: Path) -> set[int]:
    """What others than the owner may do with what is in the folder."""
    return {path.stat().st_mode & 0o077 for path in folder.rglob("*")}


class TestInOnePush:
    async def test_broken_connections_cost_nothing_that_was_confirmed(self, tmp_path: Path) -> None:
        faults = [Fault(on="patch", then=Reset(after_bytes=5000), times=4)]
        async with FakeRegistry(faults=faults) as registry, a_client(registry, profile=LARGE) as client:
            with a_record(tmp_path) as record:
                assert await send(client, record) == ("uploaded", None)
                assert record.session("here", BLOB.digest) is None
            assert has(registry, CONTENT)
            assert ranges(registry) == [f"{start}-{SIZE - 1}" for start in (0, 5000, 10000, 15000, 20000)]
            assert asked(registry) == ["open", *["patch", "status"] * 4, "patch", "put-blob"]

    @pytest.mark.parametrize(
        ("quirks", "why"),
        [
            (DISTRIBUTION_2_8, "answered 404"),
            (Quirks(has_status=False), "answered 404"),
            (Quirks(range_header="absent"), "the registry kept nothing of it"),
        ],
    )
    async def test_where_that_cannot_be_it_is_sent_again_and_told(
        self, quirks: Quirks, why: str, tmp_path: Path
    ) -> None:
        faults = [Fault(on="patch", then=Reset(after_bytes=5000), times=2)]
        async with FakeRegistry(quirks=quirks, faults=faults) as registry, a_client(registry, profile=LARGE) as client:
            with a_record(tmp_path) as record:
                how, resent = await send(client, record)
            assert how == "uploaded"
            assert has(registry, CONTENT)
            assert ranges(registry) == [f"0-{SIZE - 1}"] * 3
            assert resent is not None
            assert why in resent.why
            assert 2 * 5000 <= resent.bytes <= 2 * SIZE

    async def test_a_registry_that_takes_no_patch_is_asked_once(self, tmp_path: Path) -> None:
        async with FakeRegistry(quirks=Quirks(patches=0)) as registry, a_client(registry, profile=LARGE) as client:
            with a_record(tmp_path) as record:
                await send(client, record)
                assert has(registry, CONTENT)
                assert asked(registry) == ["open", "patch", "open", "put-blob"]
                registry.repository(NAME).blobs.clear()
                await send(client, record)
            assert asked(registry, since=4) == ["open", "put-blob"]

    async def test_a_close_whose_answer_was_lost_is_settled_by_asking(self, tmp_path: Path) -> None:
        faults = [Fault(on="put-blob", then=AcceptThenReset(), times=1)]
        async with FakeRegistry(faults=faults) as registry, a_client(registry, profile=LARGE) as client:
            with a_record(tmp_path) as record:
                assert await send(client, record) == ("uploaded", None)
            assert asked(registry) == ["open", "patch", "put-blob", "head-blob"]

    @pytest.mark.parametrize("action", [Answer(502), Reset(), Answer(404, codes=("BLOB_UPLOAD_UNKNOWN",))])
    async def test_a_close_that_did_not_happen_is_made_again_without_the_bytes(
        self, action: Answer | Reset, tmp_path: Path
    ) -> None:
        faults = [Fault(on="put-blob", then=action, times=1)]
        async with FakeRegistry(faults=faults) as registry, a_client(registry, profile=LARGE) as client:
            with a_record(tmp_path) as record:
                assert await send(client, record) == ("uploaded", None)
            assert has(registry, CONTENT)
            assert [request.body_bytes for request in registry.requests_of("patch")] == [SIZE]

    async def test_a_session_lost_with_all_bytes_in_it_begins_anew(self, tmp_path: Path) -> None:
        faults = [Fault(on="put-blob", then=SessionLost(), times=1)]
        async with FakeRegistry(faults=faults) as registry, a_client(registry, profile=LARGE) as client:
            with a_record(tmp_path) as record:
                how, resent = await send(client, record)
            assert (how, has(registry, CONTENT)) == ("uploaded", True)
            assert resent is not None
            assert resent.bytes == SIZE


class TestUnclearEndings:
    """jib#4301: the close takes its time, and a second one is answered 404."""

    @pytest.mark.parametrize("profile", [Profile(resumes=False), LARGE])
    async def test_a_blob_that_can_be_found_only_later_is_not_sent_twice(
        self, profile: Profile, tmp_path: Path
    ) -> None:
        faults = [Fault(on="put-blob", then=AcceptThenReset(visible_after_requests=1), times=1)]
        async with FakeRegistry(faults=faults) as registry, a_client(registry, profile=profile) as client:
            with a_record(tmp_path) as record:
                assert await send(client, record) == ("uploaded", None)
            assert len(registry.requests_of("open")) == 1
            assert sum(request.body_bytes for request in registry.requests) == SIZE

    async def test_nothing_is_called_done_without_proof(self, tmp_path: Path) -> None:
        """The registry loses what it had accepted: an answer that never came is not taken for a yes."""
        faults = [Fault(on="put-blob", then=Answer(404, codes=("BLOB_UNKNOWN",)), times=1)]
        async with (
            FakeRegistry(faults=faults) as registry,
            a_client(registry, profile=Profile(resumes=False)) as client,
        ):
            with a_record(tmp_path) as record:
                assert (await send(client, record))[0] == "uploaded"
            assert has(registry, CONTENT)
            assert [request.status for request in registry.requests_of("put-blob")] == [404, 201]


class TestInTheNextPush:
    async def test_it_goes_on_from_where_the_last_one_was_ended(self, tmp_path: Path) -> None:
        async with FakeRegistry(quirks=SECRETIVE) as registry:
            with a_record(tmp_path) as record:
                await interrupt(registry, record)
            assert held(registry) == [PART], "what is to be continued is not cancelled"
            before = len(registry.requests)
            with a_record(tmp_path) as record:
                async with a_client(registry, profile=LARGE) as client:
                    assert await send(client, record) == ("uploaded", None)
                assert record.session("here", BLOB.digest) is None
            assert has(registry, CONTENT)
            assert asked(registry, since=before) == ["status", "patch", "put-blob"]
            assert ranges(registry)[-1] == f"{PART}-{SIZE - 1}"

    async def test_without_a_record_the_session_is_ended(self) -> None:
        async with FakeRegistry() as registry:
            with Record(None) as record:
                await interrupt(registry, record)
            assert held(registry) == []

    async def test_a_session_that_is_gone_is_told(self, tmp_path: Path) -> None:
        async with FakeRegistry(quirks=DISTRIBUTION_2_8) as registry:
            with a_record(tmp_path) as record:
                await interrupt(registry, record, leaves=())
                async with a_client(registry, profile=LARGE) as client:
                    how, resent = await send(client, record)
            assert (how, has(registry, CONTENT)) == ("uploaded", True)
            assert resent is not None
            assert (resent.bytes, resent.why[:45]) == (0, "an earlier push was ended on the way, and the")

    async def test_a_blob_that_was_closed_just_before_is_found(self, tmp_path: Path) -> None:
        async with FakeRegistry() as registry, a_client(registry, profile=LARGE) as client:
            with a_record(tmp_path) as record:
                await interrupt(registry, record)
                session = record.session("here", BLOB.digest)
                assert session is not None
                await send(client, record)
                record.remember_session("here", BLOB.digest, session)  # as if we had been killed before we knew
                before = len(registry.requests)
                assert await send(client, record) == ("present", None)
            assert asked(registry, since=before) == ["status", "mount"]

    async def test_what_is_not_the_same_content_any_more_is_not_added(self, tmp_path: Path) -> None:
        async with FakeRegistry() as registry, a_client(registry, profile=LARGE) as client:
            with a_record(tmp_path) as record:
                await interrupt(registry, record)
                before = len(registry.requests)
                with pytest.raises(SourceError, match="not what was hashed"):
                    await send(client, record, CONTENT[:-1] + b"\0")
            assert asked(registry, since=before) == []

    async def test_two_at_a_time_do_not_share_a_session(self, tmp_path: Path) -> None:
        async with FakeRegistry() as registry, a_client(registry, profile=LARGE) as client:
            registry.inject(Fault(on="patch", then=Stall(after_bytes=PART), times=1))
            with a_record(tmp_path) as record, a_record(tmp_path) as other:
                async with anyio.create_task_group() as group:
                    group.start_soon(send, client, record)
                    await registry.wait_until(lambda: held(registry) == [PART])
                    assert await send(client, other) == ("uploaded", None)
                    assert record.session("here", BLOB.digest), "still the first one's"
                    group.cancel_scope.cancel()
            assert asked(registry) == ["open", "patch", "open", "patch", "put-blob"]

    async def test_an_old_session_is_not_asked_for(self, tmp_path: Path) -> None:
        async with FakeRegistry() as registry, a_client(registry, profile=LARGE) as client:
            now = [1e9]
            with a_record(tmp_path, clock=lambda: now[0]) as record:
                await interrupt(registry, record)
                now[0] += 24 * 3600
                before = len(registry.requests)
                assert (await send(client, record))[0] == "uploaded"
            assert asked(registry, since=before) == ["open", "patch", "put-blob"]


class TestSecrets:
    async def test_a_record_that_others_may_read_holds_no_session(self, tmp_path: Path) -> None:
        (tmp_path / "record.db").touch()
        (tmp_path / "record.db").chmod(0o644)
        async with FakeRegistry(quirks=SECRETIVE) as registry:
            with a_record(tmp_path) as record:
                await interrupt(registry, record)
            assert held(registry) == [], "and so it is ended"
        assert b"_state" not in all_bytes(tmp_path)

    async def test_the_record_is_private(self, tmp_path: Path) -> None:
        async with FakeRegistry(quirks=SECRETIVE) as registry:
            with a_record(tmp_path) as record:
                await interrupt(registry, record)
                assert b"_state" in all_bytes(tmp_path)
                assert modes(tmp_path) == {0}

    async def test_credentials_do_not_go_to_a_session_elsewhere(self, tmp_path: Path) -> None:
        login = Basic("ci", "hunter2")
        async with FakeRegistry(auth=login) as registry, FakeRegistry() as elsewhere:
            with a_record(tmp_path) as record:
                stray_url = f"{elsewhere.url}/v2/{NAME}/blobs/uploads/1?_state=s"
                record.remember_session("here", BLOB.digest, RecordedSession(stray_url, 0))
                async with a_client(registry, profile=LARGE, credentials=Credentials("ci", "hunter2")) as client:
                    assert (await send(client, record))[0] == "uploaded"
            (stray,) = elsewhere.requests
            assert (stray.kind, stray.headers.get("authorization")) == ("status", None)
            assert has(registry, CONTENT)
