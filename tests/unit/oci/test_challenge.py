"""Challenges, scopes and token answers: as real registries send them, and as nobody should."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.oci.challenge import Challenge, Token, parse_challenges, parse_token, wanted_scope

HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/alpine:pull",error="insufficient_scope"'
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param(
            HUB,
            Challenge(
                "bearer",
                "https://auth.docker.io/token",
                "registry.docker.io",
                "repository:library/alpine:pull",
                "insufficient_scope",
            ),
            id="Docker Hub",
        ),
        pytest.param(
            'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:org/cache:pull"',
            Challenge("bearer", "https://ghcr.io/token", "ghcr.io", "repository:org/cache:pull"),
            id="GHCR",
        ),
        pytest.param(
            'Bearer realm="https://gitlab.com/jwt/auth",service="container_registry",'
            'scope="repository:group/project:pull,push",error="invalid_token"',
            Challenge(
                "bearer",
                "https://gitlab.com/jwt/auth",
                "container_registry",
                "repository:group/project:pull,push",
                "invalid_token",
            ),
            id="GitLab",
        ),
        pytest.param(
            'Bearer realm="https://harbor.test/service/token",service="harbor-registry",scope="repository:p/r:pull"',
            Challenge("bearer", "https://harbor.test/service/token", "harbor-registry", "repository:p/r:pull"),
            id="Harbor",
        ),
        pytest.param(
            'Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws"',
            Challenge("bearer", "https://public.ecr.aws/token/", "public.ecr.aws", "aws"),
            id="ECR Public",
        ),
        pytest.param(
            'Bearer realm="https://quay.io/v2/auth",service="quay.io",scope="repository:org/r:pull,push"',
            Challenge("bearer", "https://quay.io/v2/auth", "quay.io", "repository:org/r:pull,push"),
            id="quay",
        ),
        pytest.param(
            'Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com"',
            Challenge("basic", "https://1.dkr.ecr.eu-west-1.amazonaws.com/"),
            id="ECR",
        ),
        pytest.param("basic realm=plain", Challenge("basic", "plain"), id="lower case, no quotes"),
        pytest.param("Basic", Challenge("basic"), id="bare"),
        pytest.param(r'Basic realm="a \"b\" \\ c"', Challenge("basic", r'a "b" \ c'), id="escapes"),
    ],
)
def test_a_single_challenge_is_read(header: str, expected: Challenge) -> None:
    assert parse_challenges(header) == [expected]


@pytest.mark.parametrize(
    "header",
    [
        'Basic realm="nexus", Bearer realm="https://r.test/t"',
        'Negotiate, Basic realm="nexus", Bearer realm="https://r.test/t"',
        'NTLM TlRMTVNTUAAB=, Basic realm="nexus" ,, Bearer realm = "https://r.test/t"',
        'Digest realm="x", nonce="a,b", Basic realm="nexus", Bearer realm="https://r.test/t"',
    ],
)
def test_several_challenges_are_all_read(header: str) -> None:
    assert parse_challenges(header) == [Challenge("basic", "nexus"), Challenge("bearer", "https://r.test/t")]


@pytest.mark.parametrize(
    "header", ["", ",", "Bearer", 'Bearer service="x"', 'Bearer realm=""', "Negotiate abc=", '=", ="']
)
def test_what_we_cannot_answer_is_passed_over(header: str) -> None:
    assert parse_challenges(header) == []


@pytest.mark.parametrize("piece", ['a="', "a=b,", "Basic ", 'x="\\', " ,", '"', "a a=", "Bearer realm=a "])
def test_a_bomb_costs_little(piece: str) -> None:
    """The time limit of all tests ends it, should it not."""
    assert len(parse_challenges(piece * 100_000)) <= 8192


@given(st.text() | st.text(alphabet='Bearer basic realm="scope\\,= \t\udc80é', max_size=200))
def test_any_text_is_read_without_an_error(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme in {"basic", "bearer"}
        assert f"{challenge.realm}{challenge.service}{challenge.scope}".isascii()
        wanted_scope("team/cache", "pull,push", challenge).encode()


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("", "repository:team/cache:pull,push"),
        ("repository:team/cache:pull", "repository:team/cache:pull,push"),
        ("repository:team/cache:pull,push,delete", "repository:team/cache:pull,push"),
        ("repository:docker/team/cache:pull", "repository:docker/team/cache:pull,push"),
        ("repository:host:5000/r:pull", "repository:host:5000/r:pull,push"),
        ("repository:a:pull repository:b:pull repository:a:push", "repository:a:pull,push repository:b:pull,push"),
        ("registry:catalog:*", "repository:team/cache:pull,push"),
        ("aws", "aws"),
    ],
)
def test_pull_and_push_are_asked_for_at_once(asked: str, wanted: str) -> None:
    assert wanted_scope("team/cache", "pull,push", Challenge("bearer", scope=asked)) == wanted


@pytest.mark.parametrize(
    ("answer", "token"),
    [
        ({"token": "t", "expires_in": 300}, Token("t", 300.0)),
        ({"access_token": "t"}, Token("t", 60.0)),
        ({"token": "t", "access_token": "other"}, Token("t", 60.0)),
        ({"token": "", "access_token": "t"}, Token("t", 60.0)),
        ({"token": "t", "expires_in": 10**400}, Token("t", 86400.0)),
        ({"token": "t", "expires_in": float("nan")}, Token("t", 60.0)),
        ({"token": "t", "expires_in": -1}, Token("t", 60.0)),
        ({"token": "t", "expires_in": True}, Token("t", 60.0)),
        ({"token": "t", "expires_in": "300"}, Token("t", 60.0)),
        ({"token": "a\r\nX-Evil: 1"}, None),
        ({"token": "é"}, None),
        ({"token": 1}, None),
        ({}, None),
        ([], None),
    ],
)
def test_a_token_and_its_life_are_read(answer: object, token: Token | None) -> None:
    assert parse_token(json.dumps(answer).encode()) == token


@given(st.binary() | st.recursive(st.none() | st.floats() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_token_answer_is_read_without_an_error(answer: bytes | str) -> None:
    parse_token(answer if isinstance(answer, bytes) else answer.encode())
    parse_token(b'{"token": "t", "expires_in": ' + (answer if isinstance(answer, bytes) else answer.encode()) + b"}")


def test_a_token_is_not_shown() -> None:
    assert "hidden" not in repr(Token("hidden", 1.0))


def test_a_deep_token_answer_is_none() -> None:
    assert parse_token(b"[" * 1_000_000) is None
