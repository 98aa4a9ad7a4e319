"""The upload machine: every arrow of its docstring, and any sequence of answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploader.errors import RegistryError
from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.oci.blob_upload import TRIES, Ask, BlobUpload, Step
from uploader.oci.http import Answer, Lost, Request, Response, Slice
from uploader.oci.media_types import OCI_LAYER
from uploader.oci.profile import MIB, Profile

WHOLE = Profile()
CHUNKED = Profile(chunk_bytes=4)
NOT_RESUMABLE = Profile(chunk_bytes=4, resumes=False)
SESSION = "/v2/team/cache/blobs/uploads/1"


@dataclass(frozen=True, slots=True)
class Zeros:
    size: int

    def read(self, offset: int, length: int) -> bytes:  # noqa: ARG002
        return bytes(length)


def an_upload(size: int = 10, profile: Profile = WHOLE, ask: Ask = "nothing") -> BlobUpload:
    descriptor = Descriptor(OCI_LAYER, Digest("sha256", "a" * 64), size)
    return BlobUpload("team/cache", descriptor, Zeros(size), profile=profile, ask=ask, where="registry.test/team/cache")


def moved(status: int, location: str = SESSION, **headers: str) -> Response:
    return Response(status, {"location": location} | {name.replace("_", "-"): value for name, value in headers.items()})


def refused(status: int, code: str) -> Response:
    return Response(status, body=f'{{"errors": [{{"code": "{code}", "message": "no"}}]}}'.encode())


def walk(upload: BlobUpload, *answers: Answer) -> list[Step]:
    """All steps, up to the one that follows the last answer."""
    steps: list[Step] = [upload.begin()]
    for answer in answers:
        assert isinstance(steps[-1], Request)
        steps.append(upload.receive(answer))
    return steps


def told(steps: list[Step]) -> list[str]:
    """The steps in short: method, and which bytes."""
    return [step if isinstance(step, str) else f"{step.method}{_bytes(step)}" for step in steps]


def _bytes(request: Request) -> str:
    match request.body:
        case Slice(offset=offset, length=length):
            return f" {offset}+{length}"
        case _:
            return ""


OPENED, TAKEN, CLOSED, ABSENT = moved(202), moved(202), Response(201), Response(404)


class TestWhole:
    def test_nothing_is_asked_where_nothing_is_expected(self) -> None:
        assert told(walk(an_upload(), OPENED, CLOSED)) == ["POST", "PUT 0+10", "uploaded"]

    def test_a_blob_that_head_finds_is_present(self) -> None:
        assert told(walk(an_upload(ask="head"), Response(200))) == ["HEAD", "present"]

    def test_a_blob_that_head_does_not_find_is_sent(self) -> None:
        steps = walk(an_upload(ask="head"), ABSENT, OPENED, CLOSED)
        assert told(steps) == ["HEAD", "POST", "PUT 0+10", "uploaded"]

    @pytest.mark.parametrize("answer", [Response(401), Response(403), Response(429), Response(500), Lost("reset")])
    def test_a_head_that_failed_does_not_mean_absent(self, answer: Answer) -> None:
        with pytest.raises(RegistryError):
            walk(an_upload(ask="head"), answer)

    def test_the_digest_is_added_to_a_query_or_begins_one(self) -> None:
        plain, state = walk(an_upload(), OPENED)[1], walk(an_upload(), moved(202, f"{SESSION}?_state=x"))[1]
        assert isinstance(plain, Request)
        assert isinstance(state, Request)
        assert plain.url == f"{SESSION}?digest=sha256%3A{'a' * 64}"
        assert state.url == f"{SESSION}?_state=x&digest=sha256%3A{'a' * 64}"

    @pytest.mark.parametrize(
        ("location", "url"),
        [
            ("https://elsewhere.test/u/1", "https://elsewhere.test/u/1"),
            ("/u/1", "/u/1"),
            ("1", f"{SESSION}"),
            (f"{SESSION}#part", SESSION),
        ],
    )
    def test_locations_may_be_absolute_or_relative(self, location: str, url: str) -> None:
        upload = an_upload()
        walk(upload, moved(202, location))
        assert upload.cancel() == Request("DELETE", url, "cancel the upload of sha256:aaaaaaaaaaaa", repeatable=False)

    @pytest.mark.parametrize("status", [201, 204])
    def test_created_and_no_content_both_end_it(self, status: int) -> None:
        assert told(walk(an_upload(), OPENED, Response(status)))[-1] == "uploaded"

    def test_an_empty_blob_is_sent_whole(self) -> None:
        assert told(walk(an_upload(size=0, profile=CHUNKED), OPENED, CLOSED)) == ["POST", "PUT 0+0", "uploaded"]

    @pytest.mark.parametrize("location", ["", "http://[bad"])
    def test_an_opened_upload_needs_a_place(self, location: str) -> None:
        with pytest.raises(RegistryError, match="Location"):
            walk(an_upload(), moved(202, location))

    def test_uploads_are_never_repeated_on_suspicion(self) -> None:
        put, patch = walk(an_upload(), OPENED)[-1], walk(an_upload(profile=CHUNKED), OPENED)[-1]
        assert isinstance(put, Request)
        assert isinstance(patch, Request)
        assert (put.repeatable, patch.repeatable) == (False, False)


class TestUnclear:
    @pytest.mark.parametrize(
        "answer", [Lost("reset"), Response(404), Response(416), Response(408), Response(500), Response(520)]
    )
    def test_it_is_settled_by_asking(self, answer: Answer) -> None:
        steps = walk(an_upload(), OPENED, answer, Response(200))
        assert told(steps) == ["POST", "PUT 0+10", "HEAD", "uploaded"]

    def test_what_is_not_there_begins_anew(self) -> None:
        steps = walk(an_upload(), OPENED, Lost("reset"), ABSENT, moved(202, "/u/2"), CLOSED)
        assert told(steps) == ["POST", "PUT 0+10", "HEAD", "POST", "PUT 0+10", "uploaded"]
        assert isinstance(steps[4], Request)
        assert urlsplit(steps[4].url).path == "/u/2"

    @pytest.mark.parametrize("answer", [Response(403), Response(503), Lost("reset")])
    def test_it_is_not_called_absent_when_asking_failed(self, answer: Answer) -> None:
        with pytest.raises(RegistryError):
            walk(an_upload(), OPENED, Lost("reset"), answer)

    def test_the_error_tells_what_broke_and_how_often(self) -> None:
        upload = an_upload()
        broken: list[Answer] = [OPENED, Lost("reset"), ABSENT]
        with pytest.raises(
            RegistryError, match=r"^push blob sha256:a{12} to registry\.test/team/cache: reset"
        ) as caught:
            walk(upload, *broken * TRIES)
        assert (caught.value.kind, caught.value.attempts) == ("network", TRIES)

    def test_a_wrong_digest_is_tried_once_more(self) -> None:
        wrong = refused(400, "DIGEST_INVALID")
        upload = an_upload()
        assert told(walk(upload, OPENED, wrong)) == ["POST", "PUT 0+10", "POST"]
        upload.receive(OPENED)
        with pytest.raises(RegistryError) as caught:
            upload.receive(wrong)
        assert (caught.value.status, caught.value.codes) == (400, ("DIGEST_INVALID",))

    @pytest.mark.parametrize("status", [400, 401, 403, 405])
    def test_a_clear_refusal_ends_it(self, status: int) -> None:
        with pytest.raises(RegistryError) as caught:
            walk(an_upload(), OPENED, Response(status))
        assert caught.value.status == status


class TestMount:
    def test_mounting_from_itself_asks_and_opens_at_once(self) -> None:
        begun = an_upload(ask="mount").begin()
        assert begun.url == (f"/v2/team/cache/blobs/uploads/?mount=sha256%3A{'a' * 64}&from=team%2Fcache")

    def test_created_means_present(self) -> None:
        assert told(walk(an_upload(ask="mount"), CLOSED)) == ["POST", "present"]

    def test_the_session_of_a_202_is_used(self) -> None:
        assert told(walk(an_upload(ask="mount"), OPENED, CLOSED)) == ["POST", "PUT 0+10", "uploaded"]

    @pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 405, 500, 502])
    def test_whatever_else_it_answers_the_blob_is_asked_for(self, status: int) -> None:
        upload = an_upload(ask="mount")
        assert told(walk(upload, Response(status))) == ["POST", "HEAD"]
        assert upload.mount_refused

    @pytest.mark.parametrize("answer", [Response(429), Response(503), Lost("reset")])
    def test_a_registry_that_cannot_now_did_not_refuse_the_mount(self, answer: Answer) -> None:
        upload = an_upload(ask="mount")
        with pytest.raises(RegistryError):
            walk(upload, answer)
        assert not upload.mount_refused


class TestChunks:
    def test_they_follow_each_other_to_the_newest_location(self) -> None:
        upload = an_upload(profile=CHUNKED)
        steps = walk(upload, OPENED, moved(202, "/u/2?s=1"), moved(202, "/u/3"), Response(202), CLOSED)
        assert told(steps) == ["POST", "PATCH 0+4", "PATCH 4+4", "PATCH 8+2", "PUT", "uploaded"]
        requests = [step for step in steps if isinstance(step, Request)]
        assert [request.url.partition("?")[0] for request in requests[1:]] == [SESSION, "/u/2", "/u/3", "/u/3"]
        assert [request.headers.get("content-range") for request in requests[1:]] == ["0-3", "4-7", "8-9", None]

    def test_the_last_byte_goes_before_the_digest(self) -> None:
        steps = walk(an_upload(size=5, profile=CHUNKED), OPENED, TAKEN, TAKEN)
        assert told(steps) == ["POST", "PATCH 0+4", "PATCH 4+1", "PUT"]

    def test_a_blob_of_one_chunk_is_sent_whole(self) -> None:
        assert told(walk(an_upload(size=4, profile=CHUNKED), OPENED)) == ["POST", "PUT 0+4"]

    def test_the_registry_may_ask_for_larger_ones(self) -> None:
        opened = moved(202, oci_chunk_min_length="8")
        assert told(walk(an_upload(profile=CHUNKED), opened, TAKEN)) == ["POST", "PATCH 0+8", "PATCH 8+2"]

    @pytest.mark.parametrize("text", ["", "-1", "8.5", "eight", "9" * 30, "²"])
    def test_a_smallest_chunk_that_is_no_number_is_ignored(self, text: str) -> None:
        opened = moved(202, oci_chunk_min_length=text)
        assert told(walk(an_upload(profile=CHUNKED), opened))[-1] == "PATCH 0+4"

    @pytest.mark.parametrize("status", [201, 202, 204])
    def test_any_success_counts_what_was_sent(self, status: int) -> None:
        taken = Response(status, {"range": "0-0"})  # ECR's Range stays where it was
        assert told(walk(an_upload(profile=CHUNKED), OPENED, taken))[-1] == "PATCH 4+4"

    @pytest.mark.parametrize("broken", [Lost("reset"), Response(416), Response(408), Response(500), Response(522)])
    def test_a_broken_one_goes_on_where_the_registry_says(self, broken: Answer) -> None:
        status = moved(204, "/u/2", range="0-5")
        steps = walk(an_upload(profile=CHUNKED), OPENED, TAKEN, broken, status)
        assert told(steps) == ["POST", "PATCH 0+4", "PATCH 4+4", "GET", "PATCH 6+4"]
        assert isinstance(steps[-1], Request)
        assert (steps[-1].url, steps[-1].headers["content-range"]) == ("/u/2", "6-9")

    def test_a_session_that_has_all_bytes_is_closed(self) -> None:
        steps = walk(an_upload(profile=CHUNKED), OPENED, TAKEN, Lost("reset"), moved(204, range="bytes=0-9"), CLOSED)
        assert told(steps)[-3:] == ["GET", "PUT", "uploaded"]

    @pytest.mark.parametrize(
        "status",
        [
            Response(404),
            Lost("reset"),
            Response(204),
            *(moved(204, range=text) for text in ("0-0", "0--1", "0-10", "5-9")),
        ],
    )
    def test_an_offset_that_cannot_be_trusted_begins_anew(self, status: Answer) -> None:
        steps = walk(an_upload(profile=CHUNKED), OPENED, TAKEN, Lost("reset"), status, OPENED)
        assert told(steps)[-2:] == ["POST", "PATCH 0+4"]

    def test_nothing_is_resumed_where_the_profile_forbids_it(self) -> None:
        steps = walk(an_upload(profile=NOT_RESUMABLE), OPENED, TAKEN, Lost("reset"))
        assert told(steps)[-1] == "POST"

    def test_breaks_that_leave_it_further_than_before_may_be_many(self) -> None:
        upload = an_upload(size=100, profile=CHUNKED)
        steps = walk(upload, OPENED)
        for end in range(5, 95, 4):
            upload.receive(Lost("reset"))
            steps.append(upload.receive(moved(204, range=f"0-{end}")))
        assert isinstance(steps[-1], Request)
        assert steps[-1].headers["content-range"] == "94-97"
        assert upload.tries == 24

    def test_breaks_that_bring_it_no_further_are_few(self) -> None:
        upload = an_upload(size=100, profile=CHUNKED)
        walk(upload, OPENED, TAKEN)
        for _ in range(TRIES - 1):
            upload.receive(Lost("reset"))
            upload.receive(moved(204, range="0-3"))
        with pytest.raises(RegistryError, match="reset"):
            upload.receive(Lost("reset"))

    def test_an_unknown_session_begins_anew(self) -> None:
        assert told(walk(an_upload(profile=CHUNKED), OPENED, TAKEN, Response(404)))[-1] == "POST"

    def test_a_clear_refusal_ends_it(self) -> None:
        with pytest.raises(RegistryError):
            walk(an_upload(profile=CHUNKED), OPENED, Response(403))


class TestTooLarge:
    def test_each_413_takes_smaller_chunks(self) -> None:
        too_large = Response(413)
        upload = an_upload(size=40 * MIB)
        steps = walk(upload, OPENED, too_large, OPENED, too_large, OPENED, too_large, OPENED)
        assert told(steps)[1::2] == ["PUT 0+41943040", "PATCH 0+33554432", "PATCH 0+4194304", "PATCH 0+1048576"]

    def test_what_cannot_be_smaller_is_refused(self) -> None:
        with pytest.raises(RegistryError, match="limits the size") as caught:
            walk(an_upload(size=MIB), OPENED, Response(413))
        assert caught.value.status == 413

    def test_416_to_a_large_chunk_means_the_same(self) -> None:
        """GHCR answers a chunk above 4 MiB so."""
        profile = Profile(chunk_bytes=5 * MIB)
        steps = walk(an_upload(size=20 * MIB, profile=profile), OPENED, Response(416), OPENED)
        assert told(steps)[-1] == "PATCH 0+4194304"


class TestCancel:
    def test_there_is_nothing_to_cancel_before_and_after(self) -> None:
        upload = an_upload()
        upload.begin()
        assert upload.cancel() is None
        upload.receive(OPENED)
        upload.receive(CLOSED)
        assert upload.cancel() is None

    def test_an_open_session_is_cancelled_once(self) -> None:
        upload = an_upload()
        walk(upload, OPENED)
        first, second = upload.cancel(), upload.cancel()
        assert first is not None
        assert (first.method, first.url, second) == ("DELETE", SESSION, None)


locations = st.sampled_from(
    ["", "/u/1", "/u/2?a=b", "3", "https://elsewhere.test/u", "http://[", "//", "?", "\\", "\x7f é"]
)
ranges = st.sampled_from(["", "0-0", "0-3", "bytes=0-5", "0-9", "0-10", "9-0", "0--1", "x"]) | st.text(max_size=5)
statuses = st.sampled_from(
    [100, 200, 201, 202, 204, 301, 307, 400, 401, 403, 404, 408, 413, 416, 425, 429, 500, 503, 520]
)
headers = st.fixed_dictionaries({}, optional={"location": locations, "range": ranges, "oci-chunk-min-length": ranges})
bodies = st.sampled_from([b"", b"{}", refused(400, "DIGEST_INVALID").body, b"[[["]) | st.binary(max_size=20)
answers = st.builds(Response, statuses, headers, bodies) | st.builds(Lost, st.just("reset"), connected=st.booleans())
likely = st.sampled_from([OPENED, TAKEN, CLOSED, ABSENT, moved(202, "/u/9", range="0-3"), moved(204, range="0-3")])
profiles = st.builds(
    Profile,
    chunk_bytes=st.none() | st.integers(1, 6) | st.integers(1, 30 * MIB),
    resumes=st.booleans(),
    self_mount=st.booleans(),
)


class Watcher:
    """Checks each request against what the registry has confirmed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.location = ""
        self.held = 0
        self.request: Request | None = None

    def sees(self, request: Request) -> None:
        self.request = request
        if request.method == "POST":
            self.held = 0
        if request.method in {"PATCH", "PUT", "GET"}:
            assert request.url.partition("digest=")[0].rstrip("?&") == self.location.rstrip("?&"), "newest Location"
        if isinstance(request.body, Slice):
            assert request.body.offset == self.held, "offsets are contiguous"
            assert request.body.offset + request.body.length <= self.size
        if request.method == "PATCH":
            assert request.size > 0
        if "digest=" in request.url:
            assert self.held + request.size == self.size, "the digest comes with or after the last byte"

    def hears(self, answer: Answer, session: str) -> None:
        assert self.request is not None
        self.location = session or self.location
        if not isinstance(answer, Response):
            return
        if self.request.method == "PATCH" and answer.status in {201, 202, 204}:
            self.held += self.request.size
        if self.request.method == "GET" and answer.status in {200, 202, 204}:
            self.held = int(answer.header("range").rpartition("-")[2]) + 1 if "-" in answer.header("range") else 0


def session_after(request: Request, answer: Answer, before: str) -> str:
    """Where the upload is now: said by hand, so that it is not the machine's own word."""
    taken = {"POST": {202}, "PATCH": {201, 202, 204}, "GET": {200, 202, 204}}.get(request.method, set())
    if not isinstance(answer, Response) or answer.status not in taken or not answer.header("location"):
        return before
    return urljoin(request.url, answer.header("location")).partition("#")[0]


@settings(deadline=None)
@given(
    st.data(), st.integers(0, 12) | st.integers(0, 100 * MIB), profiles, st.sampled_from(["head", "mount", "nothing"])
)
def test_any_answers_end_in_done_or_an_error(data: st.DataObject, size: int, profile: Profile, ask: Any) -> None:
    small = profile.chunk_bytes is not None and size > 50 * profile.chunk_bytes
    profile = Profile(chunk_bytes=max(1, size // 5), resumes=profile.resumes) if small else profile
    upload, watcher = an_upload(size, profile, ask), Watcher(size)
    step: Step = upload.begin()
    try:
        for _ in range(400 * TRIES):
            if not isinstance(step, Request):
                break
            watcher.sees(step)
            answer = data.draw(likely | answers)
            following = upload.receive(answer)
            watcher.hears(answer, session_after(step, answer, watcher.location))
            step = following
        assert step in {"uploaded", "mounted", "present"}, "never ends"
    except RegistryError as error:
        assert str(error).startswith("push blob sha256:aaaaaaaaaaaa to registry.test/team/cache")  # noqa: PT017
