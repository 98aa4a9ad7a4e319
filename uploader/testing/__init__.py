"""The test kit, for our tests and yours: a registry that fails on demand, real parts, package graphs.

`FakeRegistry` (`registry.py`) is a strict registry in memory; `faults.py` are things that go wrong, as
values; `fake/` is its inside. `proxy.py` breaks connections on their way to anything. `parts.py` starts
real programs, `graphs.py` writes package graphs.
Nothing in the product imports this package.
"""

from __future__ import annotations

from uploader.testing.fake.exchange import Kind
from uploader.testing.fake.gate import Anonymous, Auth, Basic, Bearer, Grant
from uploader.testing.fake.log import Recorded, most_at_once
from uploader.testing.fake.quirks import DISTRIBUTION_2_8, ECR, GHCR, GOOGLE, SPEC, Quirks, quirks_of
from uploader.testing.fake.storage import StoredRepository
from uploader.testing.faults import (
    AcceptThenReset,
    Action,
    Answer,
    Fault,
    Hold,
    Late,
    LyingDigest,
    RefuseMount,
    Reset,
    SessionLost,
    Stall,
    Truncate,
    Unauthorized,
)
from uploader.testing.graphs import write_graph
from uploader.testing.parts import PartFailedError, PartMissing, docker_registry
from uploader.testing.proxy import BreakingProxy
from uploader.testing.registry import FakeRegistry

__all__ = [
    "DISTRIBUTION_2_8",
    "ECR",
    "GHCR",
    "GOOGLE",
    "SPEC",
    "AcceptThenReset",
    "Action",
    "Anonymous",
    "Answer",
    "Auth",
    "Basic",
    "Bearer",
    "BreakingProxy",
    "FakeRegistry",
    "Fault",
    "Grant",
    "Hold",
    "Kind",
    "Late",
    "LyingDigest",
    "PartFailedError",
    "PartMissing",
    "Quirks",
    "Recorded",
    "RefuseMount",
    "Reset",
    "SessionLost",
    "Stall",
    "StoredRepository",
    "Truncate",
    "Unauthorized",
    "docker_registry",
    "most_at_once",
    "quirks_of",
    "write_graph",
]
