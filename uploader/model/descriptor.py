"""Descriptors: typed, sized pointers to content (OCI image-spec, descriptor.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uploader.model.digest import Digest


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Media type, digest, and size in bytes."""

    media_type: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer blob, and the digest of the tar inside it (image-spec, config.md, "rootfs.diff_ids")."""

    descriptor: Descriptor
    diff_id: Digest
