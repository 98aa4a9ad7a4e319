"""The registry client: every method of a destination, asked of the fake registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from tests.component.a_client import CONFIG, LAYER, NAME, ZLIB, a_client, a_manifest, described, fill, has, push
from uploader.errors import AbsentError, RegistryError, SourceError
from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.model.outcome import Traffic
from uploader.model.reference import Tag
from uploader.oci.media_types import OCI_LAYER, OCI_MANIFEST
from uploader.oci.profile import MIB, Profile, profile_for
from uploader.record import Record
from uploader.testing import DISTRIBUTION_2_8, ECR, AcceptThenReset, Answer, FakeRegistry, Fault, Hold, Quirks, Stall
from uploader.testing.clock import Clock

if TYPE_CHECKING:
    from pathlib import Path

    from uploader.model.events import Event

pytestmark = pytest.mark.asyncio

HTML_404 = Answer(404, body=b"<html>not found")


def kinds(registry: FakeRegistry) -> list[str]:
    return [request.kind for request in registry.requests]


class TestReading:
    async def test_a_repository_without_tags_is_empty(self) -> None:
        async with FakeRegistry() as registry, a_client(registry) as client:
            assert await client.is_empty()
            fill(registry)
            assert await client.is_empty(), "manifests, but no tag"
            fill(registry, ZLIB)
            assert not await client.is_empty()

    @pytest.mark.parametrize(
        "answer",
        [
            HTML_404,
            Answer(401, body=b""),
            Answer(403),
            Answer(500),
            Answer(200, body=b"<html>"),
            Answer(200, body=b'{"tags": []}', headers={"link": '</v2/x>; rel="next"'}),
        ],
    )
    async def test_what_is_not_known_to_be_empty_is_not(self, answer: Answer) -> None:
        async with FakeRegistry(faults=[Fault(on="tags", then=answer)]) as registry, a_client(registry) as client:
            assert not await client.is_empty()

    async def test_a_tag_is_found_by_head(self) -> None:
        async with FakeRegistry() as registry, a_client(registry) as client:
            manifest = fill(registry, ZLIB)
            assert await client.find_tag(ZLIB) == Digest.of(manifest)
            assert await client.find_tag(Tag("curl-8.9.0")) is None
            assert kinds(registry) == ["head-manifest", "head-manifest"]

    @pytest.mark.parametrize("text", ["", "sha256:12", "nonsense"])
    async def test_a_registry_that_tells_no_digest_is_asked_by_get(self, text: str) -> None:
        fault = Fault(on="head-manifest", then=Answer(200, headers={"docker-content-digest": text}))
        quirks = Quirks(digest_header=False)
        async with FakeRegistry(quirks=quirks, faults=[fault]) as registry, a_client(registry) as client:
            manifest = fill(registry, ZLIB)
            assert await client.find_tag(ZLIB) == Digest.of(manifest)
            assert kinds(registry) == ["head-manifest", "get-manifest"]

    @pytest.mark.parametrize("status", [401, 403, 429, 500])
    async def test_a_tag_is_not_taken_for_absent_when_asking_failed(self, status: int) -> None:
        fault = Fault(on="head-manifest", then=Answer(status))
        async with FakeRegistry(faults=[fault]) as registry, a_client(registry) as client:
            with pytest.raises(RegistryError) as caught:
                await client.find_tag(ZLIB)
            assert caught.value.status == status

    async def test_a_manifest_is_read_by_tag_and_digest(self) -> None:
        async with FakeRegistry() as registry, a_client(registry) as client:
            manifest = fill(registry, ZLIB)
            by_tag, by_digest = await client.read_manifest(ZLIB), await client.read_manifest(Digest.of(manifest))
            assert by_tag == by_digest
            assert by_tag is not None
            assert (by_tag.content, by_tag.media_type) == (manifest, OCI_MANIFEST)
            assert await client.read_manifest(Tag("none")) is None

    async def test_a_manifest_that_is_not_what_its_digest_says_is_refused(self) -> None:
        lie = Fault(
            on="get-manifest", then=Answer(200, body=b"{}", headers={"docker-content-digest": f"sha256:{'0' * 64}"})
        )
        async with FakeRegistry(faults=[lie]) as registry, a_client(registry) as client:
            for reference in (ZLIB, Digest.of(a_manifest()), Digest("sha512", "0" * 128)):
                with pytest.raises(RegistryError, match="its content is not"):
                    await client.read_manifest(reference)

    async def test_a_blob_is_asked_for_and_read(self) -> None:
        async with FakeRegistry() as registry, a_client(registry) as client:
            fill(registry)
            assert await client.has_blob(described(CONFIG))
            assert not await client.has_blob(described(b"other"))
            assert await client.read_blob(described(CONFIG)) == CONFIG
            assert await client.read_blob(described(b"other")) is None

    @pytest.mark.parametrize("stored", [b"", CONFIG[:-1], CONFIG + b"more"])
    async def test_a_blob_of_another_size_is_not_there(self, stored: bytes) -> None:
        """A registry that lost its disk's last moments may keep the name of a blob and not its bytes."""
        events: list[Event] = []
        no_mount = Profile(self_mount=False)
        async with FakeRegistry() as registry, a_client(registry, profile=no_mount, events=events) as client:
            digest = str(Digest.of(CONFIG))
            registry.repository(NAME).store(digest, stored, len(stored))
            assert not await client.has_blob(described(CONFIG))
            assert any(f"{len(stored)} bytes there instead of {len(CONFIG)}" in str(event) for event in events)
            assert await push(client, CONFIG, expected=True) == "uploaded"
            assert registry.repository(NAME).blobs[digest] == CONFIG
            assert await client.has_blob(described(CONFIG))

    @pytest.mark.parametrize("content", [b"", b"x" * len(CONFIG), CONFIG + b"more"])
    async def test_a_blob_that_is_not_what_its_digest_says_is_refused(self, content: bytes) -> None:
        lie = Fault(on="get-blob", then=Answer(200, body=content))
        async with FakeRegistry(faults=[lie]) as registry, a_client(registry) as client:
            with pytest.raises(RegistryError, match="its content is not"):
                await client.read_blob(described(CONFIG))

    async def test_no_blob_is_read_that_is_too_large_for_a_config(self) -> None:
        async with FakeRegistry() as registry, a_client(registry) as client:
            with pytest.raises(RegistryError, match="too large"):
                await client.read_blob(Descriptor(OCI_LAYER, Digest.of(b""), 10**9))
            assert registry.requests == []

    async def test_tags_come_page_by_page(self) -> None:
        wanted = [Tag(f"package-{number:03}") for number in range(25)]
        async with FakeRegistry(quirks=Quirks(page_limit=10)) as registry, a_client(registry) as client:
            fill(registry, *wanted)
            assert [tag async for tag in client.tags()] == wanted
            assert kinds(registry) == ["tags"] * 3

    async def test_a_repository_that_is_not_there_has_no_list_of_tags(self) -> None:
        async with FakeRegistry() as registry, a_client(registry) as client:
            with pytest.raises(
                AbsentError, match=r"list the tags of .*: answered 404 \(NAME_UNKNOWN.*no such repository"
            ):
                _ = [tag async for tag in client.tags()]

    async def test_a_list_of_tags_that_breaks_off_with_a_404_is_not_the_whole_list(self) -> None:
        gone = Fault(on="tags", skip=1, then=HTML_404)
        async with FakeRegistry(quirks=Quirks(page_limit=10), faults=[gone]) as registry, a_client(registry) as client:
            fill(registry, *(Tag(f"package-{number:03}") for number in range(25)))
            with pytest.raises(RegistryError, match=r"list the tags of .*: answered 404") as caught:
                _ = [tag async for tag in client.tags()]
            assert not isinstance(caught.value, AbsentError)

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(403),
            Answer(200, body=b"<html>"),
            Answer(200, body=b'{"tags": ["a"]}', headers={"link": f'</v2/{NAME}/tags/list?n=1000>; rel="next"'}),
        ],
    )
    async def test_a_list_of_tags_that_cannot_be_read_is_an_error(self, answer: Answer) -> None:
        async with FakeRegistry(faults=[Fault(on="tags", then=answer)]) as registry, a_client(registry) as client:
            with pytest.raises(RegistryError, match="list the tags of"):
                _ = [tag async for tag in client.tags()]

    async def test_pages_of_tags_that_name_each_other_end(self) -> None:
        def leading_to(page: str) -> Answer:
            url = f"/v2/{NAME}/tags/list?n=1000&last={page}"
            return Answer(200, body=b'{"tags": ["a"]}', headers={"link": f'<{url}>; rel="next"'})

        faults = [Fault(on="tags", then=leading_to(page), times=1) for page in ("a", "b", "a")]
        async with FakeRegistry(faults=faults) as registry, a_client(registry) as client:
            with pytest.raises(RegistryError, match="names one as the next that came before"):
                _ = [tag async for tag in client.tags()]
            assert len(registry.requests_of("tags")) == 3


class TestPushing:
    @pytest.mark.parametrize("expected", [False, True])
    @pytest.mark.parametrize(
        "quirks", [Quirks(), DISTRIBUTION_2_8, Quirks(mount="never"), Quirks(mount_without_from="refuse")]
    )
    async def test_a_blob_costs_two_requests(self, quirks: Quirks, expected: bool) -> None:
        async with FakeRegistry(quirks=quirks) as registry, a_client(registry) as client:
            assert await push(client, expected=expected) == "uploaded"
            assert has(registry)
            assert kinds(registry) == ["mount" if expected else "open", "put-blob"]

    async def test_a_blob_that_is_there_costs_one(self) -> None:
        async with FakeRegistry() as registry, a_client(registry) as client:
            fill(registry)
            assert await push(client, expected=True) == "present"
            assert kinds(registry) == ["mount"]

    async def test_without_mounts_it_is_asked_for_by_head(self) -> None:
        async with FakeRegistry() as registry, a_client(registry, profile=Profile(self_mount=False)) as client:
            await push(client, expected=True)
            assert await push(client, expected=True) == "present"
            assert kinds(registry) == ["head-blob", "open", "put-blob", "head-blob"]

    @pytest.mark.parametrize("status", [400, 401, 403, 405, 500])
    async def test_a_refused_mount_is_tried_no_second_time(self, status: int) -> None:
        fault = Fault(on="mount", then=Answer(status))
        async with FakeRegistry(faults=[fault]) as registry, a_client(registry) as client:
            assert await push(client, expected=True) == "uploaded"
            before = len(registry.requests_of("mount"))
            assert await push(client, b"another", expected=True) == "uploaded"
            assert len(registry.requests_of("mount")) == before

    async def test_chunks_are_sent_where_the_profile_wants_them(self) -> None:
        quirks = Quirks(absolute_location=True, location_state=True)
        content = bytes(range(256)) * 5
        async with (
            FakeRegistry(quirks=quirks) as registry,
            a_client(registry, profile=Profile(chunk_bytes=500)) as client,
        ):
            assert await push(client, content) == "uploaded"
            assert has(registry, content)
            assert kinds(registry) == ["open", "patch", "patch", "patch", "put-blob"]

    async def test_chunks_suit_ecr(self) -> None:
        quirks = Quirks(patch_status=ECR.patch_status, range_header=ECR.range_header, chunk_min=800)
        content = bytes(range(256)) * 5
        async with (
            FakeRegistry(quirks=quirks) as registry,
            a_client(registry, profile=Profile(chunk_bytes=500)) as client,
        ):
            assert await push(client, content) == "uploaded"
            assert has(registry, content)
            assert [request.body_bytes for request in registry.requests_of("patch")] == [800, 480]

    async def test_a_limit_of_the_body_is_found_out(self) -> None:
        content = bytes(3 * MIB)
        async with FakeRegistry(quirks=Quirks(body_limit=MIB)) as registry, a_client(registry) as client:
            assert await push(client, content) == "uploaded"
            assert has(registry, content)
            assert [request.body_bytes for request in registry.requests_of("patch")] == [MIB] * 3

    async def test_content_that_changed_fails_and_ends_the_upload(self) -> None:
        class Gone:
            size = len(LAYER)

            def read(self, offset: int, length: int) -> bytes:
                raise SourceError(f"{offset}+{length} is gone")

        async with FakeRegistry() as registry, a_client(registry) as client:
            with pytest.raises(SourceError, match="is gone"):
                await client.push_blob(described(LAYER), Gone(), expected=False)
            assert registry.repository(NAME).sessions == {}

    async def test_a_given_up_upload_is_ended(self) -> None:
        fault = Fault(on="put-blob", then=Answer(403))
        async with FakeRegistry(faults=[fault]) as registry, a_client(registry) as client:
            with pytest.raises(RegistryError, match="answered 403"):
                await push(client)
            assert kinds(registry) == ["open", "put-blob", "cancel"]
            assert registry.repository(NAME).sessions == {}

    async def test_a_manifest_arrives_byte_for_byte(self) -> None:
        async with FakeRegistry() as registry, a_client(registry) as client:
            fill(registry)
            await client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST)
            held = registry.repository(NAME)
            assert held.manifests[held.tags[ZLIB]] == (OCI_MANIFEST, a_manifest())
            assert kinds(registry) == ["put-manifest"]

    async def test_a_refused_manifest_is_an_error_with_its_codes(self) -> None:
        async with FakeRegistry() as registry, a_client(registry) as client:
            with pytest.raises(RegistryError, match=rf"push manifest {ZLIB} to .*: answered 404") as caught:
                await client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST)
            assert (caught.value.status, caught.value.codes) == (404, ("MANIFEST_BLOB_UNKNOWN",))

    @pytest.mark.parametrize("faults", [[], [Fault(on="put-manifest", then=AcceptThenReset(), times=1)]])
    async def test_an_immutable_tag_that_points_there_already_is_success(self, faults: list[Fault]) -> None:
        quirks = Quirks(immutable_tags="any-digest")
        async with FakeRegistry(quirks=quirks, faults=faults) as registry, a_client(registry) as client:
            fill(registry)
            for _ in range(2):
                await client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST)

    async def test_an_immutable_tag_that_points_elsewhere_is_an_error(self) -> None:
        async with FakeRegistry(quirks=Quirks(immutable_tags="any-digest")) as registry, a_client(registry) as client:
            fill(registry, ZLIB)
            with pytest.raises(RegistryError, match="immutable"):
                await client.push_manifest(ZLIB, a_manifest() + b"\n", OCI_MANIFEST)

    async def test_a_registry_that_stored_something_else_is_caught(self) -> None:
        lie = Fault(on="put-manifest", then=Answer(201, headers={"docker-content-digest": f"sha256:{'0' * 64}"}))
        async with FakeRegistry(faults=[lie]) as registry, a_client(registry) as client:
            with pytest.raises(RegistryError, match="stored sha256:000000000000 instead of"):
                await client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST)

    async def test_traffic_is_counted(self) -> None:
        fault = Fault(on="open", then=Answer(500), times=2)
        async with FakeRegistry(faults=[fault]) as registry, a_client(registry) as client:
            await push(client)
            assert client.traffic() == Traffic(bytes_sent=len(LAYER), requests=4, retries=2)


class TestCancellation:
    @pytest.mark.parametrize(
        "fault", [Fault(on="put-blob", then=Stall()), Fault(on="patch", then=Stall(after_bytes=2), skip=1)]
    )
    async def test_it_ends_the_open_upload(self, fault: Fault) -> None:
        profile = Profile(chunk_bytes=4 if fault.on == "patch" else None)
        async with FakeRegistry(faults=[fault]) as registry, a_client(registry, profile=profile) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(push, client)
                await registry.wait_started(str(fault.on), 2 if fault.on == "patch" else 1)  # type: ignore[arg-type]
                group.cancel_scope.cancel()
            assert registry.repository(NAME).sessions == {}
            assert kinds(registry)[-1] == "cancel"

    async def test_it_works_while_the_host_is_held_back(self) -> None:
        """The DELETE does not queue: there is no time to wait."""
        release = anyio.Event()
        faults = [Fault(on="put-blob", then=Hold(release))]
        async with FakeRegistry(faults=faults) as registry, a_client(registry, jobs=1) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(push, client)
                await registry.wait_started("put-blob")
                group.start_soon(client.has_blob, described(CONFIG))
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
            assert len(registry.requests_of("cancel")) == 1

    async def test_it_is_not_replaced_by_an_error_of_its_cleaning_up(self) -> None:
        registry = FakeRegistry(faults=[Fault(on="put-blob", then=Stall())])
        async with (
            registry,
            a_client(registry, no_connection_seconds=0.0) as client,
            anyio.create_task_group() as group,
        ):
            with anyio.CancelScope() as scope:
                group.start_soon(closed_soon, registry, scope)
                await push(client)
            assert scope.cancelled_caught


async def closed_soon(registry: FakeRegistry, scope: anyio.CancelScope) -> None:
    await registry.wait_started("put-blob")
    registry.inject(Fault(on="cancel", then=Answer(500)))
    scope.cancel()


class TestWhatARegistryIsKnownFor:
    async def test_what_was_learnt_is_used_by_the_next_push(self, tmp_path: Path) -> None:
        content, clock = bytes(5 * MIB // 2), Clock()
        record = Record(tmp_path / "record.sqlite")
        quirks = Quirks(body_limit=MIB, mount_without_from="refuse")
        async with FakeRegistry(quirks=quirks) as registry:
            registry.inject(Fault(on="mount", then=Answer(405)))
            async with a_client(registry, facts=record, clock=clock) as client:
                assert await push(client, content, expected=True) == "uploaded"
                assert await push(client, b"other", expected=True) == "uploaded"
            taught = [(one.kind, one.forbidden != "") for one in registry.requests]
            assert taught == [
                ("mount", False), ("head-blob", False), ("open", False), ("put-blob", True),
                ("open", False), ("patch", False), ("patch", False), ("patch", False), ("put-blob", False),
                ("head-blob", False), ("open", False), ("put-blob", False),
            ]  # fmt: skip
            async with a_client(registry, facts=record, clock=clock) as client:
                assert await push(client, content[1:], expected=True) == "uploaded"
            again = registry.requests[len(taught) :]
            assert [one.kind for one in again] == ["head-blob", "open", "patch", "patch", "patch", "put-blob"]
            assert not any(one.forbidden for one in again)

    async def test_a_manifest_waits_for_a_blob_that_is_not_everywhere_yet(self) -> None:
        """ECR; elsewhere the push asks at once what is missing (`service/push.py`)."""
        clock, profile = Clock(), Profile(blob_lag=0.5)
        async with (
            FakeRegistry(profile=profile, clock=clock.time) as registry,
            a_client(registry, profile=profile, clock=clock) as client,
        ):
            await push(client, CONFIG)
            await push(client, LAYER)
            await client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST)
            assert kinds(registry)[4:] == ["put-manifest"] * 4
            assert sum(clock.sleeps) == pytest.approx(0.7)
            clock.now += 60
            registry.inject(Fault(on="put-manifest", then=Answer(404, codes=("BLOB_UNKNOWN",))))
            with pytest.raises(RegistryError, match="BLOB_UNKNOWN"):
                await client.push_manifest(Tag("other"), a_manifest(), OCI_MANIFEST)
            assert kinds(registry)[8:] == ["put-manifest", "head-manifest"], "that is not the lag of a moment"

    async def test_a_tag_that_was_just_written_is_asked_for_until_it_is_seen(self) -> None:
        clock, profile = Clock(), Profile(tag_lag=0.5)
        async with (
            FakeRegistry(profile=profile, clock=clock.time) as registry,
            a_client(registry, profile=profile, clock=clock) as client,
        ):
            await push(client, CONFIG)
            await push(client, LAYER)
            await client.push_manifest(ZLIB, a_manifest(), OCI_MANIFEST)
            assert await client.find_tag(ZLIB) == Digest.of(a_manifest())
            assert await client.find_tag(Tag("never-written")) is None
            assert kinds(registry)[5:] == ["head-manifest"] * 5
            del registry.repository(NAME).tags[ZLIB]
            clock.now += 60
            assert await client.find_tag(ZLIB) is None
            assert kinds(registry)[10:] == ["head-manifest"]

    async def test_a_limit_on_pushes_that_says_no_time_is_waited_out_for_a_minute(self) -> None:
        """GHCR's secondary limit."""
        clock, profile = Clock(), profile_for("ghcr.io")
        limit = Answer(403, codes=("DENIED",), message="You have exceeded a secondary rate limit.")
        async with (
            FakeRegistry(profile=profile, clock=clock.time, faults=[Fault(on="open", then=limit, times=2)]) as registry,
            a_client(registry, profile=profile, clock=clock) as client,
        ):
            assert await push(client) == "uploaded"
        assert clock.now - 1000 >= 120
