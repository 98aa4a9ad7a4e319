"""What registries do differently, as values: the defaults are the distribution-spec read strictly.

`quirks_of` takes them from a row of the client's own table (`oci/profile.py`), so that what the client believes of a
registry is what its tests meet. Beside that stand looks that no client should care about.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from uploader.oci import profile as rows
from uploader.oci.profile import EVERY_REQUEST, MIB, Quota, Throttling

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from uploader.oci.profile import Profile


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
    mount_refusal: int = 202
    """The answer where another repository's blob is not mounted; 202 opens an upload instead."""
    self_mount: bool = True
    """Off: to ask for a mount from the repository itself is of no use, and on record as forbidden."""

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
    """Beyond it: 429 with Retry-After. One more quota, for short."""
    quotas: tuple[Quota, ...] = ()
    throttling: Throttling = field(default_factory=Throttling)
    blob_lag: float = 0.0
    """For so many seconds, a manifest may not name a blob that was just taken."""
    tag_lag: float = 0.0
    """For so many seconds, a new tag is not found."""
    latency_seconds: float = 0.0

    @property
    def all_quotas(self) -> tuple[Quota, ...]:
        """The quotas, with that on requests of every kind."""
        rate = self.requests_per_second
        return (*self.quotas, *([Quota(EVERY_REQUEST, rate)] if rate is not None else []))


SPEC: Final = Quirks()

_DISTRIBUTION: Final[Mapping[str, Any]] = MappingProxyType(
    {"absolute_location": True, "location_state": True, "many_tags": False}
)
_OLD_DISTRIBUTION: Final[Mapping[str, Any]] = MappingProxyType(
    {
        **_DISTRIBUTION,
        "checks_content_range": False,
        "status_at_old_location": False,
        "missing_blob_status": 400,
        "delete_tags": False,
        "paged_tags": False,
    }
)
_LOOKS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "distribution-2.8": _OLD_DISTRIBUTION,
        "harbor": _OLD_DISTRIBUTION,
        "distribution-3": _DISTRIBUTION,
        "gitlab": _DISTRIBUTION,
        "ecr": {"absolute_location": True},
        "quay": {"mount_without_from": "refuse"},
    }
)


def quirks_of(profile: Profile, repositories: Iterable[str] = ()) -> Quirks:
    """What the row says, as the registry does it; `repositories` are those that exist where a push makes none."""
    quirks = Quirks(
        mount=profile.mount,
        mount_refusal=profile.mount_refusal,
        self_mount=profile.self_mount,
        patches=None if profile.chunks else 0,
        patch_status=profile.chunk_status,
        chunk_limit=profile.chunk_max,
        chunk_min=profile.chunk_min,
        range_header=profile.range_header,
        has_status=profile.has_status,
        broken_body=profile.broken_body,
        body_limit=profile.largest_body,
        immutable_tags=profile.immutable_tags,
        repositories=None if profile.creates_repositories else frozenset(repositories),
        quotas=profile.quotas,
        throttling=profile.throttling,
        blob_lag=profile.blob_lag,
        tag_lag=profile.tag_lag,
    )
    return replace(quirks, **_LOOKS.get(profile.name, {}))


DISTRIBUTION_2_8: Final = quirks_of(rows.DISTRIBUTION_2_8)
"""As Debian's docker-registry answers; the contract suite holds the two side by side."""

GHCR: Final = quirks_of(rows.GHCR)

ECR: Final = quirks_of(rows.ECR)
"""Amazon's, with immutable tags on; name the repositories that exist with `dataclasses.replace`."""

GOOGLE: Final = quirks_of(rows.GOOGLE)
