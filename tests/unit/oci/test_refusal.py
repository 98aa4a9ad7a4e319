"""What unwanted answers mean: kind, patience, waits, and words without secrets."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.oci.http import Answer, Lost, Request, Response, error_codes
from uploader.oci.profile import DEFAULT, profile_for
from uploader.oci.refusal import read_refusal, refusal_error

NOW = 1_700_000_000.0
PUSH = Request("PUT", "/v2/a/b?_state=hidden", "push blob sha256:0123 to registry.test/a/b")


def errors(*pairs: tuple[str, str]) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message} for code, message in pairs]}).encode()


def wait(value: str = "", *, status: int = 429, body: bytes = b"", date: str = "") -> float | None:
    headers = {name: text for name, text in {"retry-after": value, "date": date}.items() if text}
    return read_refusal(Response(status, headers, body), DEFAULT, NOW).retry_after


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 522, 529])
def test_what_passes_by_itself_is_transient(status: int) -> None:
    assert read_refusal(Response(status), DEFAULT, NOW).transient


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 409, 411, 413, 416, 422, 501, 505])
def test_what_was_refused_is_final(status: int) -> None:
    assert not read_refusal(Response(status), DEFAULT, NOW).transient


@pytest.mark.parametrize(
    ("answer", "kind", "throttled"),
    [
        (Response(429), "quota", True),
        (Response(503), "registry", True),
        (Response(400, body=errors(("TOOMANYREQUESTS", "slow down"))), "quota", True),
        (Response(401), "auth", False),
        (Response(403), "auth", False),
        (Response(404), "registry", False),
        (Response(500), "registry", False),
        (Lost("reset"), "network", False),
    ],
)
def test_kinds(answer: Answer, kind: str, throttled: bool) -> None:
    refusal = read_refusal(answer, DEFAULT, NOW)
    assert (refusal.kind, refusal.throttled) == (kind, throttled)


def test_a_secondary_rate_limit_is_no_denial_at_ghcr_alone() -> None:
    answer = Response(403, body=b"You have exceeded a secondary rate limit. Please wait a few minutes")
    assert read_refusal(answer, profile_for("ghcr.io"), NOW).kind == "quota"
    assert read_refusal(answer, DEFAULT, NOW).kind == "auth"
    assert read_refusal(Response(403), profile_for("ghcr.io"), NOW).kind == "auth"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("12", 12.0),
        (" 0.5 ", 0.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("1e9", 3600.0),
        ("inf", None),
        ("-inf", None),
        ("1e400", None),
        ("nan", None),
        ("soon", None),
    ],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert wait(value) == seconds


def test_retry_after_as_a_date_counts_from_the_registrys_clock() -> None:
    assert wait(http_date(NOW + 30)) == 30.0
    assert wait(http_date(NOW + 30), date=http_date(NOW + 20)) == 10.0
    assert wait(http_date(NOW - 30)) == 0.0
    assert wait(http_date(NOW + 10**6)) == 3600.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("retry-after: 10.305464ms, allowed: 2000/minute", 0.010305464),
        ("retry-after: 1m30.5s, allowed: 2000/minute", 90.5),
        ("retry-after: 250µs, allowed", 0.00025),
        ("retry-after: 7, allowed", 7.0),
        ("retry-after: 100ns", 1e-7),
        ("retry-after: 1.2.3", 4.2),
        ("retry-after: 100h", 3600.0),
        ("retry-after: ", None),
        ("retry-after: .", None),
    ],
)
def test_the_wait_in_ghcrs_words(text: str, seconds: float | None) -> None:
    expected = seconds if seconds is None else pytest.approx(seconds)
    assert wait(body=errors(("TOOMANYREQUESTS", text))) == expected
    assert wait(body=text.encode()) == expected


def test_the_header_counts_more_than_the_words() -> None:
    assert wait("3", body=b"retry-after: 10s") == 3.0
    assert wait(status=400, body=b"retry-after: 10s") is None


def test_the_message_says_what_came_back_and_what_to_do() -> None:
    answer = Response(403, body=errors(("DENIED", "requested access is denied"), ("X", "")), attempts=3)
    error = refusal_error(PUSH, answer, DEFAULT)
    assert str(error) == (
        "push blob sha256:0123 to registry.test/a/b: answered 403 (DENIED: requested access is denied; X) "
        "after 3 tries; the account may not do this: check its right to push to this repository"
    )
    assert (error.kind, error.status, error.codes, error.attempts) == ("auth", 403, ("DENIED", "X"), 3)


@pytest.mark.parametrize("status", [401, 403, 404, 405, 413])
def test_common_refusals_come_with_a_hint(status: int) -> None:
    assert "; " in str(refusal_error(PUSH, Response(status), DEFAULT))


def test_a_lost_answer_says_why() -> None:
    error = refusal_error(PUSH, Lost("the connection was closed before the answer", attempts=8), DEFAULT)
    assert str(error).endswith("to registry.test/a/b: the connection was closed before the answer after 8 tries")
    assert (error.kind, error.status) == ("network", None)


@pytest.mark.parametrize(
    "said",
    [
        "no upload at https://registry.test/v2/u/1?_state=hidden",
        "no upload at /v2/u/1?hidden&more=1.",
        "bad header Authorization: Bearer hidden0123456789",
        "bad header Basic hidden0123456789==",
    ],
)
def test_secrets_that_a_registry_repeats_are_left_out(said: str) -> None:
    error = refusal_error(PUSH, Response(400, body=errors(("UNKNOWN", said))), DEFAULT)
    assert "hidden" not in str(error)
    assert "…" in str(error)


def test_plain_words_stay_as_they_are() -> None:
    said = "basic authentication is off. Bearer token needed? yes"
    assert said in str(refusal_error(PUSH, Response(400, body=errors(("X", said))), DEFAULT))


def test_control_characters_do_not_reach_a_terminal() -> None:
    error = refusal_error(PUSH, Response(400, body=errors(("A\x1b[2J", "\x1b]0;evil\x07\r\n\u202e"))), DEFAULT)
    assert str(error).isprintable()
    assert all(code.isprintable() for code in error.codes)


def test_requests_and_answers_do_not_show_their_secrets() -> None:
    shown = repr(Request("POST", "/u?_state=hidden", "push", {}, b"hidden")) + repr(
        Response(202, {"location": "/u?_state=hidden"}, b"hidden")
    )
    assert "hidden" not in shown


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"[" * 100_000,
        b'{"errors": 1}',
        b'{"errors": {"code": "X"}}',
        b'{"errors": ["X", null, 3]}',
        b"\xff\xfe",
        b"9" * 10_000,
    ],
)
def test_a_body_that_is_no_list_of_errors_has_no_codes(body: bytes) -> None:
    assert error_codes(body) == ()


@pytest.mark.parametrize("depth", range(100, 1000, 50))
def test_deep_bodies_are_no_trouble(depth: int) -> None:
    body = b'{"errors": [{"code": ' + b"[" * depth + b"]" * depth + b', "message": {}}]}'
    assert error_codes(body) in {(("", ""),), ()}


@given(
    st.integers(300, 599),
    st.text() | st.from_regex(r"[0-9.:, A-Za-z+-]*"),
    st.binary() | st.text().map(str.encode),
    st.text(),
)
def test_any_answer_is_read_without_an_error(status: int, value: str, body: bytes, date: str) -> None:
    answer = Response(status, {"retry-after": value, "date": date}, body)
    refusal = read_refusal(answer, profile_for("ghcr.io"), NOW)
    assert refusal.retry_after is None or 0 <= refusal.retry_after <= 3600
    assert str(refusal_error(PUSH, answer, DEFAULT)).startswith(PUSH.subject)


@given(st.from_regex(r"retry-after: [0-9.hmsuµn]{0,12}"))
def test_any_words_about_a_wait_are_read_without_an_error(text: str) -> None:
    seconds = wait(body=text.encode())
    assert seconds is None or 0 <= seconds <= 3600
