"""Digests: the names of content (OCI image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from uploader.errors import InputError

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
ALGORITHMS = tuple(_HEX_LENGTH)
_DIGEST = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):([a-f0-9]+)")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """`algorithm:hex`, with sha256 or sha512."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def short(self) -> str:
        """Enough of it for a message: `sha256:0123456789ab`."""
        return f"{self.algorithm}:{self.hex[:12]}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `algorithm:hex`; raises InputError."""
        match = _DIGEST.fullmatch(text)
        if match is None or _HEX_LENGTH.get(match[1]) != len(match[2]):
            raise InputError(f"not a digest: {text[:150]!r} (expected sha256: and 64 hex digits)")
        return cls(match[1], match[2])

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The sha256 digest of `content`."""
        return cls("sha256", hashlib.sha256(content).hexdigest())
