"""What a registry does differently, as values in a table by host.

The default suits every registry that follows the specification. A row exists only for what has been seen; its source
stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Profile:
    """How to treat one kind of registry.

    `self_mount`: `POST ?mount=D&from=THIS` answers 201 where the blob is there and otherwise opens the session, so
    asking and opening are one request. `chunk_bytes`: send blobs above this size by PATCH in pieces of it; None sends
    them whole. `resumes`: the offset that an upload session reports may be trusted after a broken chunk.
    `throttling_403`: texts that tell a rate limit from a refusal. `realms`: hosts, beside the registry's own domain,
    whose token service may see the credentials.
    """

    name: str = "default"
    self_mount: bool = True
    chunk_bytes: int | None = None
    resumes: bool = True
    throttling_403: tuple[str, ...] = ()
    realms: tuple[str, ...] = ()


_BY_DOMAIN: Final[dict[str, Profile]] = {
    # 403 "You have exceeded a secondary rate limit" on push passes within minutes (refchecker#67).
    "ghcr.io": Profile("ghcr", throttling_403=("secondary rate limit",)),
    # The token service has a host of its own.
    "docker.io": Profile("docker-hub", realms=("auth.docker.io",)),
    # A mount needs a committed manifest that names the blob, and a setting of the account (ocync engine.md).
    "amazonaws.com": Profile("ecr", self_mount=False),
    "public.ecr.aws": Profile("ecr-public", self_mount=False, resumes=False),
    # The registry's tokens come from the main site (gitlab-ce#17890).
    "gitlab.com": Profile("gitlab", realms=("gitlab.com",)),
    # Nested `from` without rights has been answered by errors (quay#899); HEAD is the safe way to ask.
    "quay.io": Profile("quay", self_mount=False),
}

DEFAULT: Final = Profile()


def profile_for(host: str) -> Profile:
    """The row for a `host[:port]`: its own, or that of the closest domain above it."""
    labels = host.rsplit(":", 1)[0].split(".")
    for start in range(len(labels) - 1):
        if (profile := _BY_DOMAIN.get(".".join(labels[start:]))) is not None:
            return profile
    return DEFAULT
