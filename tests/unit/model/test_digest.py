from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.model.digest import Digest

TEXTS = st.one_of(
    st.text(),
    st.from_regex(r"(sha256|sha512|md5):[a-f0-9]{62,66}", fullmatch=True),
    st.text("sha256:abcf0-+._\n", max_size=140),
)


@given(st.binary())
def test_the_digest_of_content_is_its_sha256(content: bytes) -> None:
    assert str(Digest.of(content)) == f"sha256:{hashlib.sha256(content).hexdigest()}"


@given(st.binary())
def test_what_is_written_can_be_read(content: bytes) -> None:
    for digest in (Digest.of(content), Digest("sha512", hashlib.sha512(content).hexdigest())):
        assert Digest.parse(str(digest)) == digest


@given(TEXTS)
def test_any_text_is_a_digest_that_says_the_same_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        assert str(Digest.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha256:" + "a" * 64 + "\n",
        " sha256:" + "a" * 64,
        "sha512:" + "a" * 64,
        "md5:" + "a" * 32,
        "a" * 64,
    ],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"not a digest: .*expected sha256"):
        Digest.parse(text)


def test_a_refusal_of_a_huge_text_is_short() -> None:
    with pytest.raises(InputError) as refusal:
        Digest.parse("sha256:" + "a" * 1_000_000)
    assert len(str(refusal.value)) < 300


def test_the_short_form_is_for_messages() -> None:
    assert Digest("sha256", "0123456789abcdef" * 4).short == "sha256:0123456789ab"
