"""Every test here that asks for a `place` runs over both engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.jobs.places import Hands, Place
from tests.contract.jobs.postgresql import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.jobs.postgresql import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path, hands: Hands) -> Place:
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path}/jobs.db", tmp_path / "locks", hands)
    server: PostgresServer = request.getfixturevalue("postgres")
    return Place(server.empty_database(), tmp_path / "locks", hands)
