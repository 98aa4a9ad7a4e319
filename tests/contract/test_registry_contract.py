"""The push protocol, asked of the fake registry and of a real one: what the fake says must be true."""

from __future__ import annotations

import hashlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from uploader.oci.media_types import OCI_INDEX, OCI_MANIFEST
from uploader.testing import DISTRIBUTION_2_8, SPEC, FakeRegistry
from uploader.testing.plain import PlainClient, digest_of, manifest_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    Start = Callable[[], AbstractAsyncContextManager[PlainClient]]

pytestmark = pytest.mark.asyncio

ABSENT = "sha256:" + "0" * 64
HELLO = digest_of(b"hello")


@pytest.fixture(params=["fake", "fake like distribution", "docker-registry"])
def start(request: pytest.FixtureRequest) -> Start:
    """Starts a registry, and a client of it."""
    return starter(request)


@pytest.fixture(params=["fake like distribution", "docker-registry"])
def start_distribution(request: pytest.FixtureRequest) -> Start:
    """The same, without the fake that follows the spec more closely than distribution 2.8 does."""
    return starter(request)


def starter(request: pytest.FixtureRequest) -> Start:
    """A repository of its own for each test: `docker-registry` runs once for all of them."""
    name = f"contract/{hashlib.sha256(request.node.name.encode()).hexdigest()[:20]}"
    real: str = request.getfixturevalue("docker_registry_host") if request.param == "docker-registry" else ""
    quirks = SPEC if request.param == "fake" else DISTRIBUTION_2_8

    @asynccontextmanager
    async def started() -> AsyncIterator[PlainClient]:
        async with aiohttp.ClientSession() as session:
            if real:
                yield PlainClient(session, f"http://{real}", name)
                return
            async with FakeRegistry(quirks=quirks) as registry:
                yield PlainClient(session, registry.url, name)

    return started


async def test_ping_says_which_protocol_is_spoken(start: Start) -> None:
    async with start() as client:
        answer = await client.ask("GET", "/v2/")
    assert (answer.status, answer.headers["docker-distribution-api-version"]) == (200, "registry/2.0")


async def test_pushed_blob_can_be_asked_for_and_read(start: Start) -> None:
    async with start() as client:
        await client.push_blob(b"hello")
        head = await client.on("HEAD", f"blobs/{HELLO}")
        read = await client.on("GET", f"blobs/{HELLO}")
    assert (head.status, head.headers["content-length"]) == (200, "5")
    assert head.headers["docker-content-digest"] == HELLO
    assert (read.status, read.body) == (200, b"hello")


async def test_part_of_a_blob_can_be_read(start: Start) -> None:
    async with start() as client:
        await client.push_blob(b"hello")
        middle = await client.on("GET", f"blobs/{HELLO}", range="bytes=1-2")
        rest = await client.on("GET", f"blobs/{HELLO}", range="bytes=3-")
        end = await client.on("GET", f"blobs/{HELLO}", range="bytes=-2")
    assert (middle.status, middle.body, middle.headers["content-range"]) == (206, b"el", "bytes 1-2/5")
    assert (rest.body, end.body) == (b"lo", b"lo")


async def test_unknown_blob_is_404(start: Start) -> None:
    async with start() as client:
        head = await client.on("HEAD", f"blobs/{ABSENT}")
        read = await client.on("GET", f"blobs/{ABSENT}")
    assert (head.status, read.status, read.codes) == (404, 404, ["BLOB_UNKNOWN"])


async def test_malformed_digest_is_400(start: Start) -> None:
    async with start() as client:
        answer = await client.on("GET", "blobs/sha256:12")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


async def test_wrong_digest_is_refused_and_ends_the_upload(start: Start) -> None:
    async with start() as client:
        location = await client.open()
        refused = await client.close(location, digest_of(b"other"), b"hello")
        again = await client.close(location, HELLO, b"hello")
        blob = await client.on("HEAD", f"blobs/{HELLO}")
    assert (refused.status, refused.codes) == (400, ["DIGEST_INVALID"])
    assert (again.status, blob.status) == (404, 404)


async def test_close_without_digest_is_refused(start: Start) -> None:
    async with start() as client:
        answer = await client.ask("PUT", await client.open(), b"hello")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


async def test_closed_upload_cannot_be_closed_again(start: Start) -> None:
    async with start() as client:
        location = await client.open()
        await client.close(location, HELLO, b"hello")
        again = await client.close(location, HELLO, b"hello")
        blob = await client.on("HEAD", f"blobs/{HELLO}")
    assert (again.status, again.codes, blob.status) == (404, ["BLOB_UPLOAD_UNKNOWN"], 200)


async def test_chunks_make_a_blob(start: Start) -> None:
    async with start() as client:
        first = await client.patch(await client.open(), 0, b"hel")
        second = await client.patch(first.headers["location"], 3, b"lo")
        closed = await client.close(second.headers["location"], HELLO)
        read = await client.on("GET", f"blobs/{HELLO}")
    assert [(a.status, a.headers["range"]) for a in (first, second)] == [(202, "0-2"), (202, "0-4")]
    assert (closed.status, read.body) == (201, b"hello")


async def test_close_may_bring_the_last_bytes(start: Start) -> None:
    async with start() as client:
        first = await client.patch(await client.open(), 0, b"hel")
        closed = await client.close(first.headers["location"], HELLO, b"lo")
    assert closed.status == 201


async def test_status_of_a_new_upload_and_after_a_chunk(start: Start) -> None:
    async with start() as client:
        location = await client.open()
        new = await client.ask("GET", location)
        chunk = await client.patch(new.headers["location"], 0, b"hello")
        after = await client.ask("GET", chunk.headers["location"])
        closed = await client.close(after.headers["location"], HELLO)
    assert (new.status, new.headers["range"]) == (204, "0-0")
    assert (after.status, after.headers["range"], closed.status) == (204, "0-4", 201)


async def test_chunk_to_an_old_location_is_refused(start: Start) -> None:
    async with start() as client:
        location = await client.open()
        await client.patch(location, 0, b"hello")
        stale = await client.patch(location, 5, b"world")
    assert stale.status == 404


async def test_cancelled_upload_is_unknown(start: Start) -> None:
    async with start() as client:
        location = await client.open()
        cancelled = await client.ask("DELETE", location)
        answers = [await client.ask(method, location) for method in ("GET", "PATCH", "DELETE")]
    assert cancelled.status == 204
    assert [(answer.status, answer.codes) for answer in answers] == [(404, ["BLOB_UPLOAD_UNKNOWN"])] * 3


async def test_mount_makes_the_blob_be_there(start: Start) -> None:
    async with start() as client:
        await client.push_blob(b"hello")
        target = f"/v2/{client.repository}/target"
        mounted = await client.ask("POST", f"{target}/blobs/uploads/?mount={HELLO}&from={client.repository}")
        read = await client.ask("GET", f"{target}/blobs/{HELLO}")
    assert (mounted.status, read.body) == (201, b"hello")
    assert mounted.headers["location"].endswith(f"{target}/blobs/{HELLO}")


async def test_mount_from_the_repository_itself_asks_and_opens_in_one(start: Start) -> None:
    async with start() as client:
        await client.push_blob(b"hello")
        there = await client.on("POST", f"blobs/uploads/?mount={HELLO}&from={client.repository}")
        absent = await client.on("POST", f"blobs/uploads/?mount={ABSENT}&from={client.repository}")
    assert (there.status, absent.status) == (201, 202)


@pytest.mark.parametrize("query", [f"mount={ABSENT}&from=contract/none", f"mount={HELLO}"])
async def test_mount_that_cannot_be_opens_an_upload(start: Start, query: str) -> None:
    async with start() as client:
        answer = await client.on("POST", f"blobs/uploads/?{query}")
        closed = await client.close(answer.headers["location"], HELLO, b"hello")
    assert (answer.status, closed.status) == (202, 201)


async def test_single_post_opens_an_upload_and_drops_the_bytes(start: Start) -> None:
    async with start() as client:
        answer = await client.on("POST", f"blobs/uploads/?digest={HELLO}", b"hello")
        blob = await client.on("HEAD", f"blobs/{HELLO}")
        closed = await client.close(answer.headers["location"], HELLO, b"hello")
    assert (answer.status, blob.status, closed.status) == (202, 404, 201)


async def test_pushed_manifest_is_read_by_tag_and_by_digest(start: Start) -> None:
    async with start() as client:
        content = await client.push_tag("one")
        read = [
            await client.on("GET", f"manifests/{reference}", accept=OCI_MANIFEST)
            for reference in ("one", digest_of(content))
        ]
        head = await client.on("HEAD", "manifests/one", accept=OCI_MANIFEST)
    assert [(answer.status, answer.body) for answer in read] == [(200, content)] * 2
    assert head.headers["docker-content-digest"] == digest_of(content)
    assert head.headers["content-type"] == OCI_MANIFEST
    assert head.headers["content-length"] == str(len(content))


async def test_manifest_is_found_only_where_accept_names_its_type(start: Start) -> None:
    async with start() as client:
        await client.push_tag("one")
        answer = await client.on("GET", "manifests/one", accept="*/*")
    assert (answer.status, answer.codes) == (404, ["MANIFEST_UNKNOWN"])


async def test_manifest_by_digest_makes_no_tag(start: Start) -> None:
    async with start() as client:
        content = await client.push_tag("one")
        other = content + b"\n"
        pushed = await client.push_manifest(digest_of(other), other)
        tags = await client.on("GET", "tags/list")
    assert (pushed.status, pushed.headers["docker-content-digest"]) == (201, digest_of(other))
    assert json.loads(tags.body) == {"name": client.repository, "tags": ["one"]}


async def test_manifest_that_names_a_missing_blob_is_refused(start: Start) -> None:
    async with start() as client:
        await client.push_blob(b"{}")
        answer = await client.push_manifest("one", manifest_of(digest_of(b"{}"), ABSENT))
        tag = await client.on("HEAD", "manifests/one", accept=OCI_MANIFEST)
    assert answer.status in {400, 404}  # distribution says 400, the spec 404
    assert (answer.codes, tag.status) == (["MANIFEST_BLOB_UNKNOWN"], 404)


async def test_index_that_names_a_missing_manifest_is_refused(start: Start) -> None:
    member = {"mediaType": OCI_MANIFEST, "digest": ABSENT, "size": 1}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [member]}).encode()
    async with start() as client:
        answer = await client.push_manifest("one", index, OCI_INDEX)
    assert (answer.status in {400, 404}, answer.codes) == (True, ["MANIFEST_BLOB_UNKNOWN"])


@pytest.mark.parametrize("media_type", ["application/json", "application/vnd.docker.distribution.manifest.v2+json"])
async def test_manifest_of_another_type_than_announced_is_refused(start: Start, media_type: str) -> None:
    async with start() as client:
        content = await client.push_tag("one")
        answer = await client.push_manifest("two", content, media_type)
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])


async def test_manifest_that_is_no_json_is_refused(start: Start) -> None:
    async with start() as client:
        answer = await client.push_manifest("one", b"{")
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])


async def test_manifest_under_a_wrong_digest_is_refused(start: Start) -> None:
    async with start() as client:
        content = await client.push_tag("one")
        answer = await client.push_manifest(ABSENT, content)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


async def test_tag_can_be_moved(start: Start) -> None:
    async with start() as client:
        content = await client.push_tag("one")
        moved = await client.push_manifest("one", content + b"\n")
        read = await client.on("GET", "manifests/one", accept=OCI_MANIFEST)
    assert (moved.status, read.body) == (201, content + b"\n")


async def test_unknown_manifest_is_404(start: Start) -> None:
    async with start() as client:
        answer = await client.on("GET", "manifests/none", accept=OCI_MANIFEST)
    assert (answer.status, answer.codes) == (404, ["MANIFEST_UNKNOWN"])


async def test_all_tags_are_listed(start: Start) -> None:
    async with start() as client:
        for tag in ("b", "a", "c"):
            await client.push_tag(tag)
        answer = await client.on("GET", "tags/list")
    listed = json.loads(answer.body)
    assert (listed["name"], sorted(listed["tags"])) == (client.repository, ["a", "b", "c"])


async def test_only_a_manifest_makes_a_repository_known(start: Start) -> None:
    async with start() as client:
        await client.push_blob(b"hello")
        unknown = await client.on("GET", "tags/list")
        await client.push_tag("one")
        known = await client.on("GET", "tags/list")
    assert (unknown.status, unknown.codes, known.status) == (404, ["NAME_UNKNOWN"], 200)


async def test_deleted_manifest_takes_its_tags_along(start: Start) -> None:
    async with start() as client:
        content = await client.push_tag("one")
        deleted = await client.on("DELETE", f"manifests/{digest_of(content)}")
        again = await client.on("DELETE", f"manifests/{digest_of(content)}")
        tags = await client.on("GET", "tags/list")
    assert (deleted.status, again.status, again.codes) == (202, 404, ["MANIFEST_UNKNOWN"])
    assert not json.loads(tags.body)["tags"]


async def test_deleted_blob_is_gone(start: Start) -> None:
    async with start() as client:
        await client.push_blob(b"hello")
        answers = [(await client.on(method, f"blobs/{HELLO}")).status for method in ("DELETE", "DELETE", "HEAD")]
    assert answers == [202, 404, 404]


async def test_distribution_knows_an_upload_only_at_its_newest_location(start_distribution: Start) -> None:
    async with start_distribution() as client:
        location = await client.open()
        chunk = await client.patch(location, 0, b"hello")
        old = [await client.ask(method, location) for method in ("GET", "PATCH", "DELETE")]
        newest = await client.ask("GET", chunk.headers["location"])
    assert [answer.status for answer in old] == [404, 404, 404]
    assert (newest.status, newest.headers["range"]) == (204, "0-4")


async def test_distribution_appends_whatever_content_range_says(start_distribution: Start) -> None:
    async with start_distribution() as client:
        first = await client.patch(await client.open(), 0, b"hel")
        second = await client.patch(first.headers["location"], 1000, b"lo")
        closed = await client.close(second.headers["location"], HELLO)
    assert (second.status, second.headers["range"], closed.status) == (202, "0-4", 201)


async def test_distribution_says_400_to_a_missing_blob(start_distribution: Start) -> None:
    async with start_distribution() as client:
        answer = await client.push_manifest("one", manifest_of(ABSENT, ABSENT))
    assert answer.status == 400


async def test_distribution_lists_all_tags_at_once(start_distribution: Start) -> None:
    async with start_distribution() as client:
        for tag in ("a", "b", "c"):
            await client.push_tag(tag)
        answer = await client.on("GET", "tags/list?n=1&last=a")
    assert sorted(json.loads(answer.body)["tags"]) == ["a", "b", "c"]
    assert "link" not in answer.headers


async def test_distribution_deletes_no_tag_alone(start_distribution: Start) -> None:
    async with start_distribution() as client:
        await client.push_tag("one")
        answer = await client.on("DELETE", "manifests/one")
        tag = await client.on("HEAD", "manifests/one", accept=OCI_MANIFEST)
    assert (answer.status, tag.status) == (400, 200)


async def test_distribution_gives_absolute_locations_with_a_secret(start_distribution: Start) -> None:
    async with start_distribution() as client:
        location = await client.open()
    assert location.startswith("http://127.0.0.1:")
    assert "?_state=" in location
