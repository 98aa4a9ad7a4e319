"""Quotas as users state them."""

from __future__ import annotations

import pytest

from uploader.errors import InputError
from uploader.oci.profile import DEFAULT, ECR, EVERY_REQUEST, GHCR, Quota
from uploader.oci.quota import EVERY_HOST, read_quotas


@pytest.mark.parametrize(
    ("text", "host", "requests", "seconds"),
    [
        ("60", EVERY_HOST, 60, 1.0),
        ("60/s", EVERY_HOST, 60, 1.0),
        ("ghcr.io=2000/m", "ghcr.io", 2000, 60.0),
        ("Registry.Example:5000=18000/h", "registry.example:5000", 18000, 3600.0),
        ("[::1]:5000=5", "[::1]:5000", 5, 1.0),
    ],
)
def test_a_number_is_read_with_its_unit_and_its_host(text: str, host: str, requests: int, seconds: float) -> None:
    assert read_quotas([text]) == {host: Quota(EVERY_REQUEST, requests, seconds)}


@pytest.mark.parametrize("text", ["", "0", "-1", "60/d", "sixty", "=60", "a=b=60", "60 /s", "1e3", "9999999999"])
def test_what_is_no_number_of_requests_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="limit_requests is"):
        read_quotas([text])


def test_two_numbers_for_one_host_are_refused() -> None:
    assert len(read_quotas(["60", "ghcr.io=5"])) == 2
    with pytest.raises(InputError, match=r"two numbers for ghcr\.io"):
        read_quotas(["ghcr.io=60", "GHCR.io=5"])


def test_what_the_user_states_takes_the_place_of_what_the_table_has_on_all_requests() -> None:
    stated = Quota(EVERY_REQUEST, 60)
    assert DEFAULT.limited(stated).quotas == (stated,)
    assert GHCR.limited(stated).quotas == (stated,)
    assert ECR.limited(stated).quotas == (*ECR.quotas, stated)
