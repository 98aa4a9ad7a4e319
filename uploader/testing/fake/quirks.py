"""What registries do differently, as values: the defaults are the distribution-spec read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Quirks:
    """How the fake registry deviates from the spec, or uses a freedom that the spec leaves."""

    absolute_location: bool = False
    location_state: bool = False
    """Upload locations carry a secret in the query (`_state`)."""

    single_post: bool = False
    """POST ?digest= with the whole blob is taken; otherwise it opens a session, as distribution does."""
    mount: Literal["from", "anywhere", "never", "after-manifest"] = "from"
    """Which blobs can be mounted: `after-manifest` (ECR) only those that a manifest there names."""
    mount_without_from: Literal["session", "find", "refuse"] = "session"

    patches: int | None = None
    """How many PATCH requests an upload takes; 0 = chunked uploads are refused (Google), None = any."""
    patch_status: Literal[201, 202] = 202
    checks_content_range: bool = True
    """Off (distribution 2.8): whatever the header says, the bytes go to the end."""
    chunk_limit: int | None = None
    """A PATCH with more bytes answers 416 "request body is too large" (GHCR)."""
    chunk_min: int | None = None
    """Announced as OCI-Chunk-Min-Length; bytes after a smaller chunk are refused (ECR)."""
    range_header: Literal["right", "first-chunk", "absent", "unit"] = "right"
    """Upload progress: `first-chunk` never moves on (ECR), `unit` writes `bytes=0--1` (Quay)."""
    has_status: bool = True
    """Off (ECR public): GET on an upload answers 404."""
    broken_body: Literal["kept", "session-lost"] = "kept"
    """What becomes of an upload whose connection broke within a body."""
    status_at_old_location: bool = True
    """An upload can be asked for, and cancelled, at any location it had; off (distribution 2.8): only at
    the newest, so that an upload whose last answer was lost cannot be resumed."""

    body_limit: int | None = None
    """Any larger request body answers 413, as a proxy would."""
    manifest_limit: int = 4 * MIB
    missing_blob_status: Literal[400, 404] | None = 404
    """The answer to a manifest that names a missing blob; None = it is taken."""
    immutable_tags: Literal["no", "other-digest", "any-digest"] = "no"
    many_tags: bool = True
    """PUT of a manifest by digest with ?tag= sets those tags (spec since 2026)."""
    digest_header: bool = True
    """Off: no Docker-Content-Digest, as older registries."""
    delete_tags: bool = True
    paged_tags: bool = True
    """Off (distribution 2.8): tags/list knows neither n nor last."""
    page_limit: int = 1000
    repositories: frozenset[str] | None = None
    """Only these can be pushed to (ECR); None = a push creates its repository."""

    requests_per_second: int | None = None
    """Beyond it: 429 with Retry-After."""
    latency_seconds: float = 0.0


SPEC: Final = Quirks()

DISTRIBUTION_2_8: Final = Quirks(
    absolute_location=True,
    location_state=True,
    checks_content_range=False,
    broken_body="session-lost",
    status_at_old_location=False,
    missing_blob_status=400,
    many_tags=False,
    delete_tags=False,
    paged_tags=False,
)
"""As Debian's docker-registry answers; the contract suite holds the two side by side."""

GHCR: Final = Quirks(chunk_limit=4 * MIB)

ECR: Final = Quirks(
    absolute_location=True,
    mount="after-manifest",
    patch_status=201,
    chunk_min=5 * MIB,
    range_header="first-chunk",
    immutable_tags="any-digest",
    repositories=frozenset(),
)
"""Amazon's, with immutable tags on; name the repositories that exist with `dataclasses.replace`."""

GOOGLE: Final = Quirks(patches=0)
