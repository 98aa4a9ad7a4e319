"""Small content that is held in memory until it is sent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Memory:
    """A body in memory (`oci.http.Body`)."""

    content: bytes

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`."""
        return self.content[offset : offset + length]
