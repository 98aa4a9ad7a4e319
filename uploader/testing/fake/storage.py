"""What the fake registry holds: repositories with their blobs, manifests, tags and open uploads."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from uploader.model.digest import Digest
from uploader.oci.media_types import OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable

ALWAYS_KEPT_BYTES: Final = 64 * 1024
"""Content up to this size (a config) is kept even by a registry that keeps no blobs."""


class Session:
    """One open upload: the bytes so far, and the keys of every location that was handed out for it."""

    def __init__(self, identifier: str, algorithm: str, *, keep: bool) -> None:
        self.id = identifier
        self.algorithm = algorithm
        self.size = 0
        self.patches = 0
        self.first_chunk_end = 0
        self.had_short_chunk = False
        self.keys: list[str] = []
        self._keep = keep
        self._content = bytearray()
        self._hash = hashlib.new(algorithm)
        self._writer = 0

    def take_over(self) -> int:
        """A number for a new writer; bytes of earlier ones (whose connection is lost) count no more."""
        self._writer += 1
        return self._writer

    def is_writer(self, writer: int) -> bool:
        """Whether no later request has taken over."""
        return writer == self._writer

    def receive(self, writer: int, piece: bytes) -> None:
        """Append bytes."""
        if not self.is_writer(writer):
            return
        self.size += len(piece)
        self._hash.update(piece)
        if self._keep or self.size <= ALWAYS_KEPT_BYTES:
            self._content += piece
        else:
            self._content.clear()

    def digest(self) -> str:
        """The digest of the bytes so far."""
        return f"{self.algorithm}:{self._hash.hexdigest()}"

    def content(self) -> bytes:
        """The bytes so far; nothing when they were not kept."""
        return bytes(self._content)


@dataclass(slots=True)
class StoredRepository:
    """A repository, live: tests may read it and change it at any time.

    `sizes` holds the true size of blobs whose content was not kept (`keep_blobs=False`).
    """

    name: str
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    hidden_until: dict[str, int] = field(default_factory=dict)
    settled_at: dict[str, float] = field(default_factory=dict)
    """From when on a blob may be named by a manifest, and a tag be found."""
    had_manifest: bool = False

    def add_blob(self, content: bytes) -> str:
        """Put a blob there; gives its digest."""
        digest = str(Digest.of(content))
        self.store(digest, content, len(content))
        return digest

    def add_manifest(self, content: bytes, *tags: str, media_type: str = OCI_MANIFEST) -> str:
        """Put a manifest there and point the tags at it; gives its digest."""
        digest = str(Digest.of(content))
        self.had_manifest = True
        self.manifests[digest] = (media_type, content)
        self.tags.update(dict.fromkeys(tags, digest))
        return digest

    def remove_manifest(self, digest: str) -> None:
        """Take a manifest away, with the tags that point at it."""
        del self.manifests[digest]
        for tag in [tag for tag, target in self.tags.items() if target == digest]:
            del self.tags[tag]

    def store(self, digest: str, content: bytes, size: int) -> None:
        """Put a blob there whose content may not have been kept."""
        self.blobs[digest] = content
        self.sizes[digest] = size

    def size_of(self, digest: str) -> int:
        """The size of a blob that is there."""
        content = self.blobs[digest]
        return len(content) or self.sizes.get(digest, 0)

    @property
    def is_known(self) -> bool:
        """Whether tags can be listed: only a manifest makes a repository, as in distribution."""
        return self.had_manifest or bool(self.manifests)


class Storage:
    """All repositories, and by what late content becomes visible: a count of requests, and a clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.repositories: dict[str, StoredRepository] = {}
        self.requests_seen = 0
        self._clock = clock

    def repository(self, name: str) -> StoredRepository:
        """The repository of that name; an empty one if there was none."""
        return self.repositories.setdefault(name, StoredRepository(name))

    def hide(self, repository: str, references: set[str], requests: int) -> None:
        """Let content or tags appear only after so many further requests."""
        until = self.requests_seen + requests
        self.repository(repository).hidden_until.update(dict.fromkeys(references, until))

    def delay(self, repository: str, reference: str, seconds: float) -> None:
        """Let a blob be named by manifests, or a tag be found, only after that."""
        if seconds:
            self.repository(repository).settled_at[reference] = self._clock() + seconds

    def has_settled(self, repository: str, reference: str) -> bool:
        """Whether manifests may name the blob, or the tag can be found."""
        return self.repository(repository).settled_at.get(reference, self._clock()) <= self._clock()

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the blob is there for a reader."""
        held = self.repository(repository)
        return digest in held.blobs and self._is_visible(held, digest)

    def find_manifest(self, repository: str, reference: str) -> str | None:
        """The digest of the manifest that the tag or digest names, for a reader."""
        held = self.repository(repository)
        digest = held.tags.get(reference, reference)
        if (
            digest in held.manifests
            and self._is_visible(held, reference, digest)
            and self.has_settled(repository, reference)
        ):
            return digest
        return None

    def visible_tags(self, repository: str) -> list[str]:
        """The tags a reader sees, in order."""
        held = self.repository(repository)
        return sorted(tag for tag in held.tags if self._is_visible(held, tag))

    def _is_visible(self, held: StoredRepository, *references: str) -> bool:
        return all(held.hidden_until.get(name, -1) < self.requests_seen for name in references)
