"""What the fake registry does beyond the contract: the spec's finer points, its quirks and its record."""

from __future__ import annotations

import hashlib
import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.oci.media_types import OCI_MANIFEST
from uploader.oci.profile import Profile, Quota, Throttling
from uploader.testing import DISTRIBUTION_2_8, ECR, GOOGLE, FakeRegistry, Fault, Hold, Quirks, most_at_once, quirks_of
from uploader.testing.clock import Clock
from uploader.testing.fake.exchange import Intake, Reply, read_call
from uploader.testing.fake.storage import Storage
from uploader.testing.fake.uploads import Uploads
from uploader.testing.plain import PlainClient, digest_of, manifest_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ABSENT = "sha256:" + "0" * 64
HELLO = digest_of(b"hello")


@asynccontextmanager
async def a_registry(quirks: Quirks | None = None, **more: Any) -> AsyncIterator[tuple[FakeRegistry, PlainClient]]:
    async with (
        FakeRegistry(quirks=quirks or Quirks(), **more) as registry,
        aiohttp.ClientSession() as session,
    ):
        yield registry, PlainClient(session, registry.url, "team/cache")


class TestReadCall:
    @given(
        st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5}|/blobs|/uploads|/manifests){0,3}", fullmatch=True),
        st.sampled_from(["head-blob", "get-blob", "delete-blob"]),
    )
    def test_any_repository_name_is_told_from_the_path(self, name: str, kind: str) -> None:
        call = read_call(kind.partition("-")[0].upper(), f"/v2/{name}/blobs/{HELLO}")
        assert (call.kind, call.repository, call.reference) == (kind, name, HELLO)

    @given(st.sampled_from(["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"]), st.text())
    def test_any_path_is_sorted_without_an_error(self, method: str, path: str) -> None:
        assert read_call(method, path).path == path


class TestUploads:
    def test_later_writer_silences_one_whose_connection_is_lost(self) -> None:
        uploads = Uploads(Storage(), Quirks(), Random(0), keep_blobs=True)
        opened = uploads.open(read_call("POST", "/v2/a/blobs/uploads/"))
        assert isinstance(opened, Reply)
        first = patch(uploads, opened.headers["location"], "0-9")
        first.receive(b"hel")
        second = patch(uploads, opened.headers["location"], "3-4")
        first.receive(b"XXXXXXX")
        second.receive(b"lo")
        answers = [first.finish(), second.finish()]
        assert [(answer.status, answer.headers.get("range")) for answer in answers] == [(404, None), (202, "0-4")]


def patch(uploads: Uploads, location: str, content_range: str) -> Intake:
    first, _, last = content_range.partition("-")
    headers = {"content-range": content_range, "content-length": str(int(last) - int(first) + 1)}
    intake = uploads.patch(read_call("PATCH", location, headers=headers))
    assert isinstance(intake, Intake)
    return intake


@pytest.mark.asyncio
class TestSpec:
    async def test_wrong_offset_answers_416_with_what_is_awaited(self) -> None:
        async with a_registry() as (_, client):
            chunk = await client.patch(await client.open(), 0, b"hel")
            wrong = await client.patch(chunk.headers["location"], 7, b"lo")
            right = await client.patch(wrong.headers["location"], 3, b"lo")
        assert (wrong.status, wrong.headers["range"], right.status) == (416, "0-2", 202)

    async def test_last_chunk_in_the_close_is_checked_too(self) -> None:
        async with a_registry() as (_, client):
            chunk = await client.patch(await client.open(), 0, b"hel")
            url = f"{chunk.headers['location']}?digest={HELLO}"
            wrong = await client.ask("PUT", url, b"lo", content_range="2-3")
            right = await client.ask("PUT", url, b"lo", content_range="3-4")
        assert (wrong.status, right.status) == (416, 201)

    @pytest.mark.parametrize("content_range", ["bytes 0-4", "bytes=0-4", "0-4/5", "0-3", ""])
    async def test_malformed_content_range_is_refused(self, content_range: str) -> None:
        async with a_registry() as (registry, client):
            answer = await client.ask("PATCH", await client.open(), b"hello", content_range=content_range)
            [session] = registry.repository("team/cache").sessions.values()
        assert (answer.status, session.size) == (400, 0)

    async def test_upload_can_be_asked_for_at_any_location_it_had(self) -> None:
        async with a_registry() as (_, client):
            first = await client.open()
            chunk = await client.patch(first, 0, b"hello")
            status = await client.ask("GET", first)
        assert (status.status, status.headers["range"]) == (204, "0-4")
        assert status.headers["location"] == chunk.headers["location"]

    async def test_manifest_type_with_parameters_is_refused(self) -> None:
        async with a_registry() as (_, client):
            content = await client.push_tag("one")
            answer = await client.push_manifest("two", content, f"{OCI_MANIFEST}; charset=utf-8")
        assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])

    async def test_manifest_with_a_wrong_size_is_refused(self) -> None:
        async with a_registry() as (registry, client):
            config = registry.repository("team/cache").add_blob(b"{}")
            layer = registry.repository("team/cache").add_blob(b"longer than five")
            answer = await client.push_manifest("one", manifest_of(config, layer))
        assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])

    async def test_too_large_a_manifest_is_413(self) -> None:
        async with a_registry(Quirks(manifest_limit=10)) as (_, client):
            answer = await client.push_manifest("one", b"x" * 11)
        assert answer.status == 413

    async def test_pages_of_tags_follow_each_other_by_link(self) -> None:
        async with a_registry() as (registry, client):
            registry.repository("team/cache").add_manifest(b"{}", "c", "a", "e", "b", "d")
            link, pages = "/v2/team/cache/tags/list?n=2", []
            while link:
                answer = await client.ask("GET", link)
                pages.append(json.loads(answer.body)["tags"])
                link = answer.headers.get("link", "<>").partition(">")[0][1:]
        assert pages == [["a", "b"], ["c", "d"], ["e"]]

    async def test_tags_may_come_with_a_manifest_pushed_by_digest(self) -> None:
        async with a_registry() as (registry, client):
            content = await client.push_tag("one")
            answer = await client.push_manifest(f"{digest_of(content)}?tag=a&tag=b", content)
            assert sorted(registry.repository("team/cache").tags) == ["a", "b", "one"]
        assert (answer.status, answer.headers["oci-tag"]) == (201, "a, b")

    async def test_sha512_blob_is_checked_by_its_own_hash(self) -> None:
        digest = f"sha512:{hashlib.sha512(b'hello').hexdigest()}"
        async with a_registry() as (_, client):
            opened = await client.on("POST", "blobs/uploads/?digest-algorithm=sha512")
            closed = await client.close(opened.headers["location"], digest, b"hello")
        assert closed.status == 201

    async def test_invalid_repository_name_is_refused(self) -> None:
        async with a_registry() as (_, client):
            answer = await client.ask("POST", "/v2/UPPER/blobs/uploads/")
        assert (answer.status, answer.codes) == (400, ["NAME_INVALID"])


@pytest.mark.asyncio
class TestQuirks:
    @pytest.mark.parametrize("absolute", [True, False])
    @pytest.mark.parametrize("state", [True, False])
    async def test_every_style_of_location_can_be_followed(self, absolute: bool, state: bool) -> None:
        async with a_registry(Quirks(absolute_location=absolute, location_state=state)) as (registry, client):
            location = await client.open()
            chunk = await client.patch(location, 0, b"hello")
            closed = await client.close(chunk.headers["location"], HELLO)
            assert location.startswith(registry.url) == absolute
        assert ("?_state=" in location) == state
        assert closed.status == 201

    async def test_single_post_takes_the_whole_blob(self) -> None:
        async with a_registry(Quirks(single_post=True)) as (registry, client):
            answer = await client.on("POST", f"blobs/uploads/?digest={HELLO}", b"hello")
            wrong = await client.on("POST", f"blobs/uploads/?digest={ABSENT}", b"hello")
            assert registry.repository("team/cache").blobs == {HELLO: b"hello"}
        assert (answer.status, wrong.status, wrong.codes) == (201, 400, ["DIGEST_INVALID"])

    @pytest.mark.parametrize(
        ("quirks", "query", "status"),
        [
            (Quirks(mount="never"), f"mount={HELLO}&from=other", 202),
            (Quirks(mount="anywhere"), f"mount={HELLO}&from=wrong", 201),
            (Quirks(mount="anywhere"), f"mount={HELLO}", 201),
            (Quirks(mount_without_from="find"), f"mount={HELLO}", 201),
            (Quirks(mount_without_from="refuse"), f"mount={HELLO}", 400),
            (Quirks(mount="after-manifest"), f"mount={HELLO}&from=other", 202),
            (Quirks(mount="after-manifest"), f"mount={HELLO}&from=named", 201),
        ],
    )
    async def test_mount_policies(self, quirks: Quirks, query: str, status: int) -> None:
        async with a_registry(quirks) as (registry, client):
            registry.repository("other").add_blob(b"hello")
            if "named" in query:
                registry.repository("named").add_blob(b"hello")
                registry.repository("named").add_manifest(manifest_of(ABSENT, HELLO))
            answer = await client.on("POST", f"blobs/uploads/?{query}")
        assert answer.status == status

    async def test_chunk_above_the_limit_is_416_as_at_ghcr(self) -> None:
        async with a_registry(Quirks(chunk_limit=4)) as (_, client):
            large = await client.patch(await client.open(), 0, b"hello")
            whole = await client.push_blob(b"hello")
        assert (large.status, whole.status) == (416, 201)
        assert b"request body is too large" in large.body

    async def test_ecr_takes_a_short_chunk_only_at_the_end(self) -> None:
        quirks = replace(ECR, chunk_min=3, repositories=frozenset({"team/cache"}))
        async with a_registry(quirks) as (_, client):
            opened = await client.on("POST", "blobs/uploads/")
            first = await client.patch(opened.headers["location"], 0, b"hel")
            second = await client.patch(first.headers["location"], 3, b"lo")
            third = await client.patch(second.headers["location"], 5, b"more")
            closed = await client.close(second.headers["location"], HELLO)
        assert opened.headers["oci-chunk-min-length"] == "3"
        assert [(a.status, a.headers["range"]) for a in (first, second)] == [(201, "0-2"), (201, "0-2")]
        assert (third.status, closed.status) == (400, 201)

    async def test_ecr_knows_only_repositories_that_were_made(self) -> None:
        async with a_registry(ECR) as (_, client):
            answer = await client.on("POST", "blobs/uploads/")
        assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])

    async def test_google_takes_no_chunks(self) -> None:
        async with a_registry(GOOGLE) as (_, client):
            chunk = await client.patch(await client.open(), 0, b"hello")
            whole = await client.push_blob(b"hello")
        assert (chunk.status, whole.status) == (400, 201)

    async def test_what_a_profile_forbids_is_on_record(self) -> None:
        """Small limits, so that every rule can be broken with a few bytes."""
        row = Profile(
            self_mount=False, has_status=False, chunk_min=2, chunk_max=4, largest_body=6, chunk_status=201
        )  # fmt: skip
        async with a_registry(quirks_of(row)) as (registry, client):
            await client.on("POST", f"blobs/uploads/?mount={HELLO}&from={client.repository}")
            await client.ask("GET", await client.open())
            await client.patch(await client.open(), 0, b"hello")
            await client.push_blob(b"1234567")
            short = await client.patch(await client.open(), 0, b"h")
            await client.patch(short.headers["location"], 1, b"ello")
            assert (await client.push_blob(b"hello")).status == 201
        assert [one.forbidden for one in registry.forbidden] == [
            "a mount from the repository itself",
            "asking for an upload's status",
            "a PATCH of more than 4 bytes",
            "a body of more than 6 bytes",
            "a chunk before was smaller than 2 bytes",
        ]

    @pytest.mark.parametrize(
        ("throttling", "header", "text"),
        [
            (Throttling(seconds=2.0), "2", b"TOOMANYREQUESTS"),
            (Throttling("date", seconds=2.0), "Thu, 01 Jan 1970 00:16:51 GMT", b"TOOMANYREQUESTS"),
            (Throttling("text", "retry-after: {wait}, allowed"), None, b"retry-after: 500.000000ms, allowed"),
            (Throttling("untold", "slow down", code=""), None, b"slow down"),
        ],
    )
    async def test_each_says_in_its_own_way_that_a_quota_is_exceeded(
        self, throttling: Throttling, header: str | None, text: bytes
    ) -> None:
        clock = Clock(1000.0)
        row = Profile(quotas=(Quota(frozenset({"open"}), 2, 10.0),), throttling=throttling)
        async with a_registry(quirks_of(row), clock=clock.time) as (registry, client):
            await client.open()
            clock.now += 9.5
            await client.open()
            refused = await client.on("POST", "blobs/uploads/")
            assert (await client.on("GET", "tags/list")).status == 404, "another kind of request"
            clock.now += 0.5
            await client.open()
        assert (refused.status, refused.headers.get("retry-after")) == (429, header)
        assert text in refused.body
        assert [one.forbidden for one in registry.forbidden] == ["more than 2 requests (open) in 10 s"]

    async def test_what_was_just_written_is_not_everywhere_at_once(self) -> None:
        clock = Clock()
        async with a_registry(quirks_of(Profile(blob_lag=2.0, tag_lag=3.0)), clock=clock.time) as (_, client):
            content = await client.push_tag("one")
            early = await client.push_manifest("one", content)
            clock.now += 2.0
            await client.push_manifest("one", content)
            unseen = await client.on("HEAD", "manifests/one", accept=OCI_MANIFEST)
            clock.now += 3.0
            seen = await client.on("HEAD", "manifests/one", accept=OCI_MANIFEST)
        assert (early.status, early.codes) == (404, ["BLOB_UNKNOWN"])
        assert (unseen.status, seen.status) == (404, 200)

    @pytest.mark.parametrize(("rule", "same", "other"), [("other-digest", 201, 400), ("any-digest", 400, 400)])
    async def test_immutable_tags(self, rule: Any, same: int, other: int) -> None:
        async with a_registry(Quirks(immutable_tags=rule)) as (_, client):
            content = await client.push_tag("one")
            answers = [await client.push_manifest("one", content + end) for end in (b"", b"\n")]
        assert [answer.status for answer in answers] == [same, other]

    async def test_manifests_with_missing_blobs_can_be_taken(self) -> None:
        async with a_registry(Quirks(missing_blob_status=None)) as (_, client):
            answer = await client.push_manifest("one", manifest_of(ABSENT, ABSENT))
        assert answer.status == 201

    async def test_body_above_the_limit_is_413(self) -> None:
        async with a_registry(Quirks(body_limit=4)) as (registry, client):
            answer = await client.push_blob(b"hello")
            assert not registry.repository("team/cache").blobs
        assert answer.status == 413

    async def test_digest_header_can_be_missing(self) -> None:
        async with a_registry(Quirks(digest_header=False)) as (_, client):
            await client.push_tag("one")
            answer = await client.on("HEAD", "manifests/one", accept=OCI_MANIFEST)
        assert (answer.status, "docker-content-digest" in answer.headers) == (200, False)

    @pytest.mark.parametrize(
        ("style", "expected"), [("first-chunk", "0-2"), ("absent", None), ("unit", "bytes=0-4"), ("right", "0-4")]
    )
    async def test_range_can_be_unreliable(self, style: Any, expected: str | None) -> None:
        async with a_registry(Quirks(range_header=style)) as (_, client):
            first = await client.patch(await client.open(), 0, b"hel")
            second = await client.patch(first.headers["location"], 3, b"lo")
        assert second.headers.get("range") == expected

    async def test_requests_beyond_the_rate_are_429_until_the_clock_moves_on(self) -> None:
        now = [100.0]
        async with a_registry(Quirks(requests_per_second=2), clock=lambda: now[0]) as (_, client):
            statuses = [(await client.ask("GET", "/v2/")).status for _ in range(3)]
            now[0] += 1
            later = await client.ask("GET", "/v2/")
        assert (statuses, later.status) == ([200, 200, 429], 200)


@pytest.mark.asyncio
class TestFakeRegistry:
    async def test_requests_are_recorded_in_order(self) -> None:
        async with a_registry() as (registry, client):
            await client.push_blob(b"hello")
            await client.on("HEAD", f"blobs/{HELLO}")
            recorded = registry.requests
        assert [(r.kind, r.repository, r.reference, r.status, r.body_bytes) for r in recorded] == [
            ("open", "team/cache", "", 202, 0),
            ("put-blob", "team/cache", HELLO, 201, 5),
            ("head-blob", "team/cache", HELLO, 200, 0),
        ]
        assert [(r.started, r.ended) for r in recorded] == [(1, 2), (3, 4), (5, 6)]
        assert (recorded[1].query, recorded[1].headers["content-length"]) == ((("digest", HELLO),), "5")

    async def test_record_shows_what_runs_at_once(self) -> None:
        event = anyio.Event()
        async with a_registry(faults=[Fault(on="ping", then=Hold(event))]) as (registry, client):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(client.ask, "GET", "/v2/")
                await registry.wait_started("ping", 3)
                assert [request.ended for request in registry.requests] == [None] * 3
                event.set()
            await client.ask("GET", "/v2/")
            assert most_at_once(registry.requests) == 3

    async def test_large_blobs_need_not_be_kept(self) -> None:
        content = bytes(200_000)
        async with a_registry(keep_blobs=False) as (registry, client):
            pushed = await client.push_blob(content)
            small = await client.push_blob(b"{}")
            head = await client.on("HEAD", f"blobs/{digest_of(content)}")
            read = await client.on("GET", f"blobs/{digest_of(b'{}')}")
            assert registry.repository("team/cache").blobs[digest_of(content)] == b""
        assert (pushed.status, small.status, read.body) == (201, 201, b"{}")
        assert head.headers["content-length"] == "200000"

    async def test_state_can_be_changed_by_the_test(self) -> None:
        async with a_registry() as (registry, client):
            await client.push_tag("one")
            del registry.repository("team/cache").blobs[digest_of(b"layer")]
            registry.repository("team/cache").tags["two"] = registry.repository("team/cache").tags.pop("one")
            answers = [await client.on("HEAD", f"manifests/{tag}", accept=OCI_MANIFEST) for tag in ("one", "two")]
            blob = await client.on("HEAD", f"blobs/{digest_of(b'layer')}")
        assert [answer.status for answer in (*answers, blob)] == [404, 200, 404]

    async def test_same_seed_gives_the_same_locations(self) -> None:
        locations = []
        for seed in (1, 1, 2):
            async with a_registry(seed=seed) as (_, client):
                locations.append(await client.open())
        assert locations[0] == locations[1] != locations[2]

    async def test_expect_continue_is_answered(self) -> None:
        async with a_registry(DISTRIBUTION_2_8) as (_, client):
            joint = f"{await client.open()}&digest={HELLO}"
            answer = await client.ask("PUT", joint, b"hello", expect="100-continue")
        assert answer.status == 201

    async def test_tls_is_vouched_for_by_its_own_authority(self) -> None:
        async with FakeRegistry(tls=True) as registry, aiohttp.ClientSession() as session:
            assert registry.ca_file is not None
            trusting = ssl.create_default_context(cafile=registry.ca_file)
            async with session.get(f"{registry.url}/v2/", ssl=trusting) as answer:
                assert answer.status == 200
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(f"{registry.url}/v2/")
