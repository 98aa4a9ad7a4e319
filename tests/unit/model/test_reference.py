from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.model.reference import (
    LayoutFolder,
    Registry,
    Repository,
    parse_destination,
    parse_image,
    parse_tag,
    tag_from,
    with_short_hash,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too, as JSON may hold them
SCHEMES = st.sampled_from(["", "oci://", "oci+http://", "oci-layout:", "https://", "OCI://", "://"])
NEARLY = st.builds(str.__add__, SCHEMES, st.text("aZ09.-_/:@[]\n\0 é", max_size=40))
NAMES = st.from_regex(r"[a-z0-9]{1,9}((\.|_|__|-{1,3})[a-z0-9]{1,9}){0,2}(/[a-z0-9]{1,9}){0,2}", fullmatch=True)
HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?(\.[a-z]{2,3}){0,2}(:[1-9][0-9]{0,3})?", fullmatch=True)
SCHEME_OF: dict[str, str] = {"https": "oci", "http": "oci+http"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://ghcr.io/org/cache", Repository(Registry("https", "ghcr.io"), "org/cache")),
        ("ghcr.io/org/cache", Repository(Registry("https", "ghcr.io"), "org/cache")),
        ("localhost:5000/cache", Repository(Registry("https", "localhost:5000"), "cache")),
        ("oci+http://127.0.0.1:5000/a/b/", Repository(Registry("http", "127.0.0.1:5000"), "a/b")),
        ("oci://[::1]:5000/a", Repository(Registry("https", "[::1]:5000"), "a")),
        ("oci://GHCR.io/Org/Cache", Repository(Registry("https", "ghcr.io"), "org/cache")),
        ("oci-layout:some/folder", LayoutFolder(Path("some/folder"))),
        ("oci-layout:/a:b//c", LayoutFolder(Path("/a:b/c"))),
    ],
)
def test_a_destination_is_read(text: str, expected: object) -> None:
    assert parse_destination(text) == expected


@given(st.sampled_from(["https", "http"]), HOSTS, NAMES)
def test_what_is_written_can_be_read(scheme: str, host: str, name: str) -> None:
    destination = parse_destination(f"{SCHEME_OF[scheme]}://{host}/{name}")
    assert parse_destination(str(destination)) == destination
    assert str(destination) == f"{SCHEME_OF[scheme]}://{host}/{name}"


@given(st.one_of(ANY_TEXT, NEARLY))
def test_any_text_is_a_destination_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        destination = parse_destination(text)
        assert parse_destination(str(destination)) == destination


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a host name"),
        ("oci://", "not a host name"),
        ("oci:///name", "not a host name"),
        ("oci://host", "names no repository"),
        ("oci://host/", "names no repository"),
        ("oci://host:99999/name", "not a host name"),
        ("oci://-host/name", "not a host name"),
        ("oci://[:]/name", "not a host name"),
        ("oci://host/name:tag", "no tag or digest"),
        ("oci://host/a//b", "not a repository name"),
        ("oci://host/" + "a" * 256, "not a repository name"),
        ("https://host/name", "unknown scheme"),
        ("oci-layout:", "names no folder"),
        ("oci-layout:a\0b", "names no folder"),
    ],
)
def test_what_is_no_destination_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_destination(text)


@pytest.mark.parametrize("scheme", ["", "oci://", "oci+http://", "https://", "docker://"])
def test_a_password_in_a_destination_is_refused_and_never_shown(scheme: str) -> None:
    with pytest.raises(InputError, match="docker login") as refusal:
        parse_destination(f"{scheme}user:hunter2@host/name")
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", ":1", "oci://", "oci://:hunter2@host/name", f"@sha256:{'a' * 64}"])
def test_an_image_without_a_name_is_not_docker_hubs_library(text: str) -> None:
    with pytest.raises(InputError, match="the image has no name") as refusal:
        parse_image(text)
    assert "hunter2" not in str(refusal.value)


def test_docker_hub_has_an_api_host_of_its_own() -> None:
    assert Registry("https", "docker.io").origin == "https://registry-1.docker.io"
    assert Registry("http", "127.0.0.1:5000").origin == "http://127.0.0.1:5000"


@given(st.one_of(ANY_TEXT, st.text("abZ09_.-", max_size=140)))
def test_any_text_is_a_tag_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        assert parse_tag(text) == text


@pytest.mark.parametrize("text", ["", ".a", "-a", "a" * 129, "a/b", "a:b", "é", "a\n", "a+b"])
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a tag"):
        parse_tag(text)


@given(st.one_of(ANY_TEXT, ANY_TEXT.map(lambda text: text * 60)))
@example("x" * 129)
@example("\ud800" * 129)
def test_a_tag_can_be_made_of_any_text(text: str) -> None:
    made = tag_from(text)
    assert parse_tag(made) == made
    assert made == tag_from(text)


@given(st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True))
def test_what_is_a_tag_already_stays_as_it_is(text: str) -> None:
    assert tag_from(text) == text


def test_what_a_tag_cannot_hold_becomes_an_underscore() -> None:
    assert tag_from("c++-1.0~rc1") == "c__-1.0_rc1"
    assert tag_from(".hidden") == "_hidden"
    assert tag_from("") == "_"


def test_long_texts_that_differ_at_their_end_make_different_tags() -> None:
    one, other = tag_from("x" * 200 + "1"), tag_from("x" * 200 + "2")
    assert one != other
    assert len(one) == len(other) == 128


@given(st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True), ANY_TEXT, ANY_TEXT)
def test_a_short_hash_tells_two_apart_and_leaves_a_tag(tag: str, one: str, other: str) -> None:
    assert parse_tag(with_short_hash(tag, one)).startswith(tag[:119])
    assert (with_short_hash(tag, one) == with_short_hash(tag, other)) == (one == other)
