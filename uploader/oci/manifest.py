"""Manifests: descriptors to bytes and back (OCI image-spec, manifest.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uploader.model.digest import Digest


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as a repository holds it."""

    content: bytes
    media_type: str
    digest: Digest
