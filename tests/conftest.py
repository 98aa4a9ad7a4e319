"""What all tests share: a part that is not installed skips its test, or fails it where parts are required."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from uploader.testing.parts import REQUIRE_VARIABLE, PartMissing, docker_registry, parts_are_required

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

settings.register_profile("uploader", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # nothing is timed
settings.load_profile("uploader")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    return (yield from _skip_without_part())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    return (yield from _skip_without_part())


def _skip_without_part() -> Generator[None, object, object]:
    try:
        return (yield)
    except PartMissing as missing:
        if parts_are_required():
            raise
        pytest.skip(f"{missing} ({REQUIRE_VARIABLE}=1 makes this a failure)")


@pytest.fixture(scope="session")
def docker_registry_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One `docker-registry` for the whole run: use a repository of your own in it."""
    with docker_registry(tmp_path_factory.mktemp("docker-registry")) as host:
        yield host
