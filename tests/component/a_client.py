"""A registry client for tests: of a fake registry, at a clock that nobody waits for."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.model.reference import Registry, Repository, Tag
from uploader.oci.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from uploader.oci.profile import DEFAULT, Profile
from uploader.registry.asking import Asker, ClientSettings
from uploader.registry.bodies import Timeouts
from uploader.registry.client import RegistryClient
from uploader.registry.learnt import Limits, NoFacts, RecordedBoard
from uploader.registry.meter import Meter
from uploader.registry.pace import Pace
from uploader.registry.transport import Transport
from uploader.testing.clock import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from uploader.model.events import Event
    from uploader.registry.bandwidth import Bandwidth
    from uploader.registry.certificates import Certificates
    from uploader.registry.credentials import Credentials
    from uploader.registry.learnt import HostFacts
    from uploader.registry.reach import Reach
    from uploader.registry.timing import Timing
    from uploader.testing import FakeRegistry

NAME = "team/cache"
ZLIB = Tag("zlib-1.3.1")
LAYER = b"a layer of zlib"
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"}}'
QUICK = Timeouts(connect=5.0, stall=0.15, answer=0.15)


@dataclass(frozen=True, slots=True)
class Bytes:
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


def described(content: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    return Descriptor(media_type, Digest.of(content), len(content))


def a_manifest(config: bytes = CONFIG, layer: bytes = LAYER) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [{"mediaType": OCI_LAYER, "digest": str(Digest.of(layer)), "size": len(layer)}],
    }
    return json.dumps(document).encode()


@asynccontextmanager
async def a_client(
    registry: FakeRegistry | Registry,
    *,
    credentials: Credentials | None = None,
    clock: Clock | None = None,
    timing: Timing | None = None,
    profile: Profile = DEFAULT,
    ca_file: Path | None = None,
    events: list[Event] | None = None,
    jobs: int = 32,
    certificates: Certificates | None = None,
    reach: Reach | None = None,
    facts: HostFacts | None = None,
    limit: Bandwidth | None = None,
    **settings: Any,
) -> AsyncIterator[RegistryClient]:
    """A client of the repository `team/cache`, at a `clock` or `timing`; `settings` are those of ClientSettings."""
    timing = timing or (clock or Clock()).timing
    where = (
        registry if isinstance(registry, Registry) else Registry("https" if registry.ca_file else "http", registry.host)
    )
    chosen = ClientSettings(**settings)
    kept = facts or NoFacts()
    transport = Transport(
        where.origin,
        connections=jobs,
        user_agent="uploader/test",
        timeouts=chosen.timeouts,
        ca_file=ca_file,
        certificates=certificates,
        reach=reach,
        meter=Meter(limit=limit),
    )
    asker = Asker(
        Repository(where, NAME),
        transport=transport,
        pace=Pace(
            where.host,
            jobs,
            timing=timing,
            emit=(events if events is not None else []).append,
            quotas=profile.quotas,
            board=RecordedBoard(where.host, kept),
        ),
        credentials=credentials,
        limits=Limits(where.host, profile, kept, timing.wall),
        settings=chosen,
        timing=timing,
    )
    async with RegistryClient(asker) as client:
        yield client


async def push(client: RegistryClient, content: bytes = LAYER, *, expected: bool = False) -> str:
    return await client.push_blob(described(content), Bytes(content), expected=expected)


def has(registry: FakeRegistry, content: bytes = LAYER) -> bool:
    """Whether the repository holds exactly this blob."""
    return registry.repository(NAME).blobs.get(str(Digest.of(content))) == content


def fill(registry: FakeRegistry, *tags: Tag) -> bytes:
    """Put a manifest with its blobs there, at these tags; gives its bytes."""
    repository = registry.repository(NAME)
    repository.add_blob(CONFIG)
    repository.add_blob(LAYER)
    repository.add_manifest(a_manifest(), *tags)
    return a_manifest()
