"""Which row of the table a host gets."""

from __future__ import annotations

import pytest

from uploader.oci.profile import profile_for


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
