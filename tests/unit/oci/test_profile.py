"""Which row of the table a host gets."""

from __future__ import annotations

import pytest

from uploader.oci.profile import EVERY_REQUEST, GHCR, MIB, PROFILES, Profile, RequestKind, kind_of, profile_for


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("ghcr.io", "ghcr"),
        ("ghcr.io:443", "ghcr"),
        ("docker.io", "docker-hub"),
        ("index.docker.io", "docker-hub"),
        ("registry-1.docker.io", "docker-hub"),
        ("123.dkr.ecr.eu-west-1.amazonaws.com", "ecr"),
        ("public.ecr.aws", "ecr-public"),
        ("registry.gitlab.com", "gitlab"),
        ("quay.io", "quay"),
        ("europe-docker.pkg.dev", "google"),
        ("eu.gcr.io", "google"),
        ("123.dkr.ecr.cn-north-1.amazonaws.com.cn", "ecr"),
        ("demo.goharbor.io", "harbor"),
        ("acme.jfrog.io", "artifactory"),
        ("evilghcr.io", "default"),
        ("ghcr.io.evil.test", "default"),
        ("docker.io.evil.test", "default"),
        ("localhost:5000", "default"),
        ("127.0.0.1:5000", "default"),
        ("[::1]:5000", "default"),
        ("[::1]", "default"),
        ("io", "default"),
    ],
)
def test_a_host_gets_its_own_row_or_that_of_its_domain(host: str, name: str) -> None:
    assert profile_for(host).name == name


@pytest.mark.parametrize(
    ("method", "url", "kind"),
    [
        ("HEAD", "/v2/a/manifests/1", "read"),
        ("GET", "/v2/a/blobs/uploads/1?_state=x", "read"),
        ("POST", "/v2/a/blobs/uploads/?mount=x&from=y", "open"),
        ("POST", "https://auth.example/token", "login"),
        ("PATCH", "https://store.example/x/manifests/y", "chunk"),
        ("PUT", "/v2/a/manifests/blobs/uploads/1", "close"),
        ("PUT", "/v2/a/manifests/1.2", "manifest"),
        ("DELETE", "/v2/a/blobs/uploads/1", "cancel"),
    ],
)
def test_a_request_counts_for_the_quota_of_its_kind(method: str, url: str, kind: RequestKind) -> None:
    assert kind_of(method, url) == kind
    assert kind in EVERY_REQUEST


def test_rows_have_names_of_their_own_and_chunks_that_can_be() -> None:
    assert len({profile.name for profile in PROFILES}) == len(PROFILES)
    for profile in PROFILES:
        assert (profile.chunk_min or 0) <= (profile.chunk_max or profile.chunk_min or 0), profile.name
        names = [quota.name for quota in profile.quotas]
        assert len(set(names)) == len(names), profile.name


@pytest.mark.parametrize(
    ("profile", "size", "piece"),
    [
        (Profile(), 500 * MIB, None),
        (GHCR, 500 * MIB, None),
        (Profile(chunk_bytes=5), 5, None),
        (Profile(chunk_bytes=5), 6, 5),
        (Profile(chunk_bytes=5, chunk_max=4), 6, 4),
        (Profile(largest_body=5), 6, 5),
        (Profile(largest_body=5, chunks=False), 6, None),
    ],
)
def test_a_blob_is_sent_in_pieces_only_where_it_must(profile: Profile, size: int, piece: int | None) -> None:
    assert profile.piece_bytes(size) == piece


def test_smaller_pieces_stay_within_what_the_registry_takes() -> None:
    assert GHCR.smaller_piece(40 * MIB) == 4 * MIB
    assert Profile().smaller_piece(40 * MIB) == 32 * MIB
    assert Profile().smaller_piece(MIB) is None
    assert Profile(chunks=False).smaller_piece(40 * MIB) is None
    assert Profile(chunk_min=5 * MIB).smaller_piece(32 * MIB) is None
