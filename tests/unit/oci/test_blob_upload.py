"""The upload machine: every arrow of its docstring, and any sequence of answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import RegistryError
from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.oci.blob_upload import PIECE_BYTES, TRIES, TRIES_OF_LARGE, Ask, BlobUpload, Step
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


def an_upload(size: int = 10, profile: Profile = WHOLE, ask: Ask = "nothing", session: str = "") -> BlobUpload:
    descriptor = Descriptor(OCI_LAYER, Digest("sha256", "a" * 64), size)
    where = "registry.test/team/cache"
    return BlobUpload("team/cache", descriptor, Zeros(size), profile=profile, ask=ask, where=where, session=session)


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
    @pytest.mark.parametrize("answer", [Lost("reset"), *map(Response, (200, 202, 404, 408, 416, 500, 520))])
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

    @pytest.mark.parametrize("status", [200, 202])
    def test_a_success_that_is_none_is_asked_after_more_than_once_and_tried_again(self, status: int) -> None:
        taken: list[Answer] = [OPENED, Response(status), ABSENT, ABSENT, ABSENT, ABSENT]
        steps = told(walk(an_upload(size=MIB + 1), *taken))
        assert [step.split(" ")[0] for step in steps] == ["POST", "PUT", *["HEAD"] * 4, "POST"]
        upload = an_upload(size=MIB + 1)
        with pytest.raises(RegistryError, match=f"answered {status}") as caught:
            walk(upload, *taken * TRIES)
        assert caught.value.attempts == TRIES

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


LARGE = Profile(resume_above_bytes=8)


def carry(step: Step, count: int) -> None:
    """The transport reads so many bytes of the request's body."""
    assert isinstance(step, Request)
    assert isinstance(step.body, Slice)
    step.body.body.read(step.body.offset, count)


class TestLarge:
    def test_all_of_it_goes_in_one_patch(self) -> None:
        steps = walk(an_upload(profile=LARGE), OPENED, TAKEN, CLOSED)
        assert told(steps) == ["POST", "PATCH 0+10", "PUT", "uploaded"]

    def test_a_smaller_one_is_sent_whole(self) -> None:
        assert told(walk(an_upload(size=8, profile=LARGE), OPENED)) == ["POST", "PUT 0+8"]

    def test_a_broken_one_goes_on_from_the_confirmed_offset(self) -> None:
        upload = an_upload(profile=LARGE)
        steps = walk(upload, OPENED, Lost("reset"), moved(204, "/u/2", range="0-6"), TAKEN, CLOSED)
        assert told(steps) == ["POST", "PATCH 0+10", "GET", "PATCH 7+3", "PUT", "uploaded"]
        assert upload.why_again == ""

    def test_an_offset_behind_or_beyond_is_asked_for(self) -> None:
        """416 RANGE_INVALID (distribution 3): what we took for its offset was not."""
        status = moved(204, range="0-3")
        steps = walk(an_upload(profile=LARGE), OPENED, Lost("reset"), moved(204, range="0-6"), Response(416), status)
        assert told(steps)[-3:] == ["PATCH 7+3", "GET", "PATCH 4+6"]

    def test_a_lost_session_begins_anew_and_is_told(self) -> None:
        upload = an_upload(profile=LARGE)
        steps = walk(upload, OPENED)
        carry(steps[-1], 7)
        steps = [upload.receive(Lost("the connection broke")), upload.receive(refused(404, "BLOB_UPLOAD_UNKNOWN"))]
        assert told(steps) == ["GET", "POST"]
        assert upload.why_again == (
            "the connection broke; the upload cannot be continued (answered 404 (BLOB_UPLOAD_UNKNOWN: no))"
        )

    @pytest.mark.parametrize("status", [400, 405, 411, 415, 416, 501])
    def test_a_registry_without_patch_gets_it_whole(self, status: int) -> None:
        upload = an_upload(profile=LARGE)
        assert told(walk(upload, OPENED, Response(status), OPENED, CLOSED)) == [
            *("POST", "PATCH 0+10", "POST", "PUT 0+10", "uploaded")
        ]
        assert upload.streams_refused

    def test_an_unknown_session_at_once_may_mean_no_patch_at_all(self) -> None:
        upload = an_upload(profile=LARGE)
        assert told(walk(upload, OPENED, Response(404), OPENED))[-1] == "PUT 0+10"
        assert not upload.streams_refused

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_denied_one_ends_it(self, status: int) -> None:
        with pytest.raises(RegistryError) as caught:
            walk(an_upload(profile=LARGE), OPENED, Response(status))
        assert caught.value.kind == "auth"

    def test_a_proxy_that_kept_nothing_gets_pieces(self) -> None:
        upload = an_upload(size=100 * MIB)
        steps = walk(upload, OPENED, Lost("reset"), moved(204, range="0-0"), OPENED, TAKEN)
        assert told(steps)[-2:] == [f"PATCH 0+{PIECE_BYTES}", f"PATCH {PIECE_BYTES}+{PIECE_BYTES}"]

    def test_an_unclear_close_is_settled_by_head_and_then_by_the_session(self) -> None:
        upload = an_upload(profile=LARGE)
        steps = walk(upload, OPENED, TAKEN, Lost("reset"), ABSENT, moved(204, range="0-9"), CLOSED)
        assert told(steps) == ["POST", "PATCH 0+10", "PUT", "HEAD", "GET", "PUT", "uploaded"]
        assert upload.why_again == ""

    def test_connections_may_break_more_often(self) -> None:
        """Distribution 2.8 loses the session each time."""
        upload = an_upload(profile=LARGE)
        walk(upload, OPENED)
        for _ in range(4):
            walk_on(upload, Lost("reset"), Response(404), OPENED)
        for _ in range(TRIES_OF_LARGE - TRIES):
            walk_on(upload, Lost("reset"), ABSENT, OPENED)  # by PUT: nothing was ever confirmed
        assert upload.tries == TRIES_OF_LARGE
        upload.receive(Lost("reset"))
        with pytest.raises(RegistryError, match="reset"):
            upload.receive(ABSENT)

    def test_refusals_may_not(self) -> None:
        upload = an_upload(profile=LARGE)
        walk(upload, OPENED)
        for _ in range(TRIES - 1):
            walk_on(upload, Response(500), Response(404), OPENED)
        with pytest.raises(RegistryError, match="answered 500"):
            walk_on(upload, Response(500), ABSENT)

    def test_the_wait_grows_only_while_nothing_moves(self) -> None:
        upload = an_upload(size=100 * MIB)
        step: Step = walk(upload, OPENED)[-1]
        pauses = []
        for count in (0, 0, 2 * MIB, 0):
            carry(step, count)
            upload.receive(Lost("reset"))
            pauses.append(upload.pause)
            upload.receive(Response(404))
            step = upload.receive(OPENED)
        assert pauses == [0, 1, 0, 1]


def walk_on(upload: BlobUpload, *answers: Answer) -> None:
    for answer in answers:
        upload.receive(answer)


class TestLeftBehind:
    """The session of an earlier push."""

    def test_it_is_asked_for_its_offset_and_continued(self) -> None:
        upload = an_upload(profile=LARGE, session="/u/left?_state=s")
        steps = walk(upload, moved(204, "/u/2", range="0-6"), TAKEN, CLOSED)
        assert told(steps) == ["GET", "PATCH 7+3", "PUT", "uploaded"]
        assert isinstance(steps[0], Request)
        assert steps[0].url == "/u/left?_state=s"
        assert upload.why_again == ""

    def test_one_that_holds_something_else_is_given_up(self) -> None:
        """Another process may have been writing to it still."""
        upload = an_upload(profile=LARGE, session="/u/left")
        wrong = refused(400, "DIGEST_INVALID")
        steps = walk(upload, moved(204, range="0-6"), Lost("reset"), moved(204, range="0-7"), TAKEN, wrong, OPENED)
        assert told(steps)[-3:] == ["PUT", "POST", "PATCH 0+10"]
        walk_on(upload, TAKEN)
        with pytest.raises(RegistryError, match="DIGEST_INVALID"):
            walk_on(upload, wrong)

    def test_one_that_has_all_bytes_is_closed(self) -> None:
        assert told(walk(an_upload(profile=LARGE, session="/u/1"), moved(204, range="0-9"), CLOSED)) == [
            *("GET", "PUT", "uploaded")
        ]

    @pytest.mark.parametrize("answer", [Response(404), Response(500), Lost("reset"), moved(204, range="0-10")])
    def test_one_that_is_gone_may_have_become_the_blob(self, answer: Answer) -> None:
        upload = an_upload(profile=LARGE, ask="head", session="/u/1")
        assert told(walk(upload, answer, Response(200))) == ["GET", "HEAD", "present"]

    def test_one_that_is_gone_is_told(self) -> None:
        upload = an_upload(profile=LARGE, ask="mount", session="/u/1")
        assert told(walk(upload, Response(404), OPENED, TAKEN, CLOSED)) == [
            *("GET", "POST", "PATCH 0+10", "PUT", "uploaded")
        ]
        assert upload.why_again == (
            "an earlier push was ended on the way, and the upload cannot be continued (answered 404)"
        )


class TestLate:
    """The registry may still be closing the upload whose answer was lost (jib#4301)."""

    @pytest.mark.parametrize(("size", "asks"), [(10, 1), (2 * MIB, 3), (100 * MIB, 6)])
    @pytest.mark.parametrize("answer", [Lost("reset", complete=True), Response(404), Response(504)])
    def test_it_is_asked_for_again_before_anything_is_sent(self, answer: Answer, size: int, asks: int) -> None:
        upload = an_upload(size=size, profile=Profile(resumes=False))
        walk(upload, OPENED, answer)
        pauses = []
        for _ in range(asks):
            assert told([upload.receive(ABSENT)]) == ["HEAD"]
            pauses.append(upload.pause)
        assert pauses == list(range(asks))
        assert told([upload.receive(ABSENT)]) == ["POST"]

    def test_what_comes_late_is_uploaded(self) -> None:
        steps = walk(an_upload(), OPENED, Response(404), ABSENT, Response(200))
        assert told(steps) == ["POST", "PUT 0+10", "HEAD", "HEAD", "uploaded"]

    @pytest.mark.parametrize("answer", [Lost("reset"), Response(500), Response(503)])
    def test_what_cannot_have_arrived_is_asked_for_once(self, answer: Answer) -> None:
        assert told(walk(an_upload(size=2 * MIB), OPENED, answer, ABSENT))[-1] == "POST"

    @pytest.mark.parametrize("answer", [Response(403), Response(503), Lost("reset")])
    def test_it_is_never_called_absent_because_asking_failed(self, answer: Answer) -> None:
        with pytest.raises(RegistryError):
            walk(an_upload(), OPENED, Response(404), ABSENT, answer)


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
    resume_above_bytes=st.sampled_from([0, 4, 8 * MIB, 200 * MIB]),
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
    try:
        return urljoin(request.url, answer.header("location")).partition("#")[0]
    except ValueError:  # no address: the machine has said so, or did not need it
        return before


@given(
    st.data(),
    st.integers(0, 12) | st.integers(0, 100 * MIB),
    profiles,
    st.sampled_from(["head", "mount", "nothing"]),
    st.sampled_from(["", "/u/0?left"]),
)
def test_any_answers_end_in_done_or_an_error(
    data: st.DataObject, size: int, profile: Profile, ask: Any, left: str
) -> None:
    small = profile.chunk_bytes is not None and size > 50 * profile.chunk_bytes
    profile = replace(profile, chunk_bytes=max(1, size // 5)) if small else profile
    upload, watcher = an_upload(size, profile, ask, left), Watcher(size)
    watcher.location = left
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
