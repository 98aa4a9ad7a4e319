"""What a registry does differently, as values in a table by host.

The default suits every registry that follows the specification, and asks for nothing that some registry is known to get
wrong. A row exists only for what has been seen; its source stands beside it. The same rows drive the test kit's
`FakeRegistry`, so a row says what the registry does, and the client decides what follows from it.

distribution 2.8 and 3 cannot be told apart from outside: both (and Harbor, GitLab and others that are built on them)
say `Docker-Distribution-Api-Version: registry/2.0`, and nothing else. So a host of one's own gets the default row,
which is safe for both: blobs whole in one PUT, and an upload that answers 404 after a broken chunk begins anew. Their
rows are here for tests, as are those of Harbor and Artifactory where they run under a name of one's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

MIB: Final = 1024 * 1024

RequestKind = Literal["read", "open", "chunk", "close", "manifest", "cancel", "login"]
"""For what a quota counts: `open` are POSTs (a mount too), `chunk` PATCH, `close` the PUT of a blob."""

WRITES: Final[frozenset[RequestKind]] = frozenset({"open", "chunk", "close", "manifest", "cancel"})
EVERY_REQUEST: Final[frozenset[RequestKind]] = WRITES | {"read", "login"}


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `requests` of these kinds, all together, within any `seconds`."""

    kinds: frozenset[RequestKind]
    requests: int
    seconds: float = 1.0

    @property
    def name(self) -> str:
        """What tells it from the other quotas of its registry."""
        return "all" if self.kinds == EVERY_REQUEST else " ".join(sorted(self.kinds))


@dataclass(frozen=True, slots=True)
class Throttling:
    """How a registry says that requests come too fast.

    `wait` is where it tells for how long: Retry-After in seconds or as a date, or in the text (`{wait}`, a duration in
    Go's words), or nowhere. `text` is the body, in the specification's JSON where `code` is given. `seconds` is the
    wait that it asks for; 0 = until the next request would be taken.
    """

    wait: Literal["seconds", "date", "text", "untold"] = "seconds"
    text: str = "too many requests"
    code: str = "TOOMANYREQUESTS"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """How to treat one kind of registry.

    Mounts. `self_mount`: `POST ?mount=D&from=THIS` answers 201 where the blob is there and otherwise opens the
    session, so asking and opening are one request; off: it would not, and is not sent. `mount`: which blobs of other
    repositories it mounts (`after-manifest`: those that a manifest there names). `mount_refusal`: its answer to
    others; 202 opens a session.

    Bodies. `chunk_bytes`: send blobs above this size by PATCH in pieces of it; None sends them whole. `chunk_min` and
    `chunk_max` bound a piece (the last may be smaller). `chunks`: off, PATCH is refused. `chunk_status`: the answer to
    a good one. `range_header`: what upload progress says; `first-chunk` never moves on, `unit` writes `bytes=0--1`.
    `resumes`: the offset that an upload session reports may be trusted after a broken chunk. Blobs of more than
    `resume_above_bytes` are then sent by PATCH, and continued: below, one more request for every blob costs more than
    a broken connection would (64 MiB are half a second at 1 Gbit/s). `has_status`: that offset can be asked for by GET.
    `broken_body`: what becomes of a session whose connection broke within a body.
    `largest_body`: any larger one is answered 413.

    Limits. `quotas`, and `throttling` when they are exceeded. `throttling_403`: texts that tell a rate limit from a
    refusal, and `untold_wait`, in seconds, how long such a refusal lasts where it does not say so itself.

    Time. `blob_lag`, `tag_lag`: for how many seconds a manifest may be refused for a blob that was just taken, and a
    tag that was just written be answered 404.

    `immutable_tags`: a second PUT at a tag fails, for another digest or for any (`any-digest`).
    `realms`: hosts, beside the registry's own domain, whose token service may see the credentials.
    `creates_repositories`: a push makes the repository.
    """

    name: str = "default"
    self_mount: bool = True
    mount: Literal["from", "anywhere", "never", "after-manifest"] = "from"
    mount_refusal: int = 202
    chunk_bytes: int | None = None
    chunk_min: int | None = None
    chunk_max: int | None = None
    chunks: bool = True
    chunk_status: Literal[201, 202] = 202
    range_header: Literal["right", "first-chunk", "unit"] = "right"
    resumes: bool = True
    resume_above_bytes: int = 64 * MIB
    has_status: bool = True
    broken_body: Literal["kept", "session-lost"] = "kept"
    largest_body: int | None = None
    quotas: tuple[Quota, ...] = ()
    throttling: Throttling = field(default_factory=Throttling)
    throttling_403: tuple[str, ...] = ()
    untold_wait: float = 0.0
    blob_lag: float = 0.0
    tag_lag: float = 0.0
    immutable_tags: Literal["no", "other-digest", "any-digest"] = "no"
    realms: tuple[str, ...] = ()
    creates_repositories: bool = True

    def limited(self, quota: Quota) -> Profile:
        """The same with a quota that the user states: it takes the place of the row's on the same kinds of request."""
        return replace(self, quotas=(*(known for known in self.quotas if known.kinds != quota.kinds), quota))

    def piece_bytes(self, size: int) -> int | None:
        """In pieces of how many bytes to send a blob of `size`; None: whole."""
        limit = min(self.chunk_bytes or size, self.largest_body or size)
        return min(limit, self.chunk_max or limit) if limit < size and self.chunks else None

    def smaller_piece(self, than: int) -> int | None:
        """The next smaller piece to try when `than` bytes were too large for one request; None: there is none."""
        sizes = (self.chunk_max or than, *_SMALLER_PIECES) if self.chunks else ()
        return next((size for size in sizes if (self.chunk_min or 0) <= size < than), None)


_SMALLER_PIECES: Final = (32 * MIB, 4 * MIB, MIB)  # 1 MiB is nginx's own limit, where nobody has raised it

DEFAULT: Final = Profile()

DISTRIBUTION_2_8: Final = Profile(
    "distribution-2.8",
    # v2.8.3 registry/handlers/blobupload.go:78: a stale _state offset cancels the upload, even on GET, and PATCH
    # ignores Content-Range. An upload whose connection broke is gone.
    resumes=False,
    broken_body="session-lost",
)

DISTRIBUTION_3: Final = Profile(
    "distribution-3",
    # main 0d6b721d registry/handlers/blobupload.go:40, :313: status without state, 416 for a wrong offset. :349: `0-0`
    # for no byte as well as for one.
)

GHCR: Final = Profile(
    "ghcr",
    # A PATCH of more than 4 MiB is 416 "request body is too large", a whole PUT is not (rust-oci-client#35, ocx#237).
    # Several PATCHes may overwrite each other (ocync docs; ocx and tart say no): so whole, and never resumed.
    chunk_max=4 * MIB,
    resumes=False,
    # "TOOMANYREQUESTS: retry-after: 10.305464ms, allowed: 2000/minute" (chainguard-images/images#173,
    # gardenlinux#2868).
    quotas=(Quota(EVERY_REQUEST, 2000, 60.0),),
    throttling=Throttling("text", "retry-after: {wait}, allowed: 2000/minute"),
    # 403 "You have exceeded a secondary rate limit" on push passes within minutes (refchecker#67); GitHub's documents
    # ask for a minute at least where no wait is told.
    throttling_403=("secondary rate limit",),
    untold_wait=60.0,
    # A tag right after its manifest can be 404 (NVIDIA/k8s-test-infra#390).
    tag_lag=0.5,
)

DOCKER_HUB: Final = Profile(
    "docker-hub",
    # The token service has a host of its own; its tokens live for 300 s (jib#691).
    realms=("auth.docker.io",),
    # The limiter against abuse says so in plain text, in lines that end with \n alone (hub-feedback#1907).
    throttling=Throttling("seconds", "Too Many Requests (HAP429).\n", code="", seconds=60.0),
)

ECR: Final = Profile(
    "ecr",
    # A mount needs a committed manifest that names the blob, and BLOB_MOUNTING=ENABLED (ocync engine.md).
    self_mount=False,
    mount="after-manifest",
    # Parts of 5 MiB at least except the last (sdk-container-builds#424), of 10 MiB at most (Amazon ECR service quotas).
    chunk_min=5 * MIB,
    chunk_max=10 * MIB,
    # PATCH answers 201 (tart#273, mise#11376), and Range stays at the first chunk (containers-roadmap#2831, chalk
    # v1.1.2).
    chunk_status=201,
    range_header="first-chunk",
    resumes=False,
    # PutImage 10/s, Initiate- and CompleteLayerUpload 100/s, UploadLayerPart 500/s (ocync ecr.md, containerd#10447).
    quotas=(
        Quota(frozenset({"manifest"}), 10),
        Quota(frozenset({"open"}), 100),
        Quota(frozenset({"close"}), 100),
        Quota(frozenset({"chunk"}), 500),
    ),
    # 429 "Rate exceeded" (or ThrottlingException), without a wait (Amazon ECR: "Troubleshooting error messages").
    throttling=Throttling("untold", "Rate exceeded"),
    # The check of a manifest lags a blob's 201 by hundreds of ms under load (ocync#104).
    blob_lag=0.5,
    # Where a repository is set so, a tag cannot be written twice, not even with what it holds (buildkit#3776).
    immutable_tags="any-digest",
    # aws/containers-roadmap#853
    creates_repositories=False,
)

ECR_PUBLIC: Final = replace(
    ECR,
    name="ecr-public",
    # GET of an upload's status is 404 (dotnet/sdk#33019).
    has_status=False,
    # CompleteLayerUpload 10/s, InitiateLayerUpload 200/s (Amazon ECR Public service quotas); PutImage as in ECR.
    quotas=(
        Quota(frozenset({"manifest"}), 10),
        Quota(frozenset({"open"}), 200),
        Quota(frozenset({"close"}), 10),
    ),
    immutable_tags="no",
)

GITLAB: Final = Profile(
    "gitlab",
    # The registry's tokens come from the main site (gitlab-ce#17890).
    realms=("gitlab.com",),
    # It is a fork of distribution. Its quotas are of the main site's API; none is published for the registry.
)

HARBOR: Final = replace(
    DISTRIBUTION_2_8,  # which Harbor 2 holds
    name="harbor",
    # `from` in a project that is missing: 401 instead of 202 (harbor#17097); without the right to it: 403 (oras#1924).
    mount_refusal=401,
)

GOOGLE: Final = Profile(
    "google",
    # No chunked uploads at all (Google's documents in sdk-container-builds#287; skopeo#1101).
    chunks=False,
    resumes=False,
    # 60,000 requests and 18,000 writes a minute per project and region (Artifact Registry: "Quotas and limits").
    quotas=(Quota(EVERY_REQUEST, 60_000, 60.0), Quota(WRITES, 18_000, 60.0)),
    throttling=Throttling("untold", "Quota exceeded"),  # its form has not been seen
)

QUAY: Final = Profile(
    "quay",
    # Nested `from` without rights has been answered by errors, and a mount without it too (quay#899).
    self_mount=False,
    mount_refusal=400,
    # The opening POST answers `Range: bytes=0--1` (log in helm#30987).
    range_header="unit",
    # "A few requests per second per IP, with some bursting": 429 "Too many requests" (Red Hat solution 6218921); no
    # number is published, so it is found out.
    throttling=Throttling("untold", "Too many requests", code=""),
    # One PUT takes 20 GB (oras-py#137).
    largest_body=20_000_000_000,
)

ARTIFACTORY: Final = Profile(
    "artifactory",
    # It refuses mounts, and shares content by itself once a manifest names it (rules_img registry-support.md); HEAD may
    # know a blob that GET does not (gardener/cc-utils#1752).
    self_mount=False,
    mount="never",
    # PATCH is answered 404 now and then (jib#3399): whole, and never resumed.
    resumes=False,
    # Overwriting where that is forbidden: 403 (kots#5940).
    immutable_tags="other-digest",
)

PROFILES: Final = (
    DEFAULT, DISTRIBUTION_2_8, DISTRIBUTION_3, GHCR, DOCKER_HUB, ECR, ECR_PUBLIC, GITLAB, HARBOR, GOOGLE, QUAY,
    ARTIFACTORY,
)  # fmt: skip
"""Every row."""

_BY_DOMAIN: Final[dict[str, Profile]] = {
    "ghcr.io": GHCR,
    "docker.io": DOCKER_HUB,
    "amazonaws.com": ECR,
    "amazonaws.com.cn": ECR,
    "public.ecr.aws": ECR_PUBLIC,
    "gitlab.com": GITLAB,
    "goharbor.io": HARBOR,
    "pkg.dev": GOOGLE,
    "gcr.io": GOOGLE,
    "quay.io": QUAY,
    "jfrog.io": ARTIFACTORY,
}


def profile_for(host: str) -> Profile:
    """The row for a `host[:port]`: its own, or that of the closest domain above it."""
    labels = host.rsplit(":", 1)[0].split(".")
    for start in range(len(labels) - 1):
        if (profile := _BY_DOMAIN.get(".".join(labels[start:]))) is not None:
            return profile
    return DEFAULT


def kind_of(method: str, url: str) -> RequestKind:
    """For which quotas a request to the registry counts, by its method and its URL."""
    match method:
        case "POST":
            return "open" if "/blobs/uploads" in url else "login"
        case "PATCH":
            return "chunk"
        case "PUT":
            return "manifest" if "/manifests/" in url and "/blobs/uploads/" not in url else "close"
        case "DELETE":
            return "cancel"
        case _:
            return "read"
