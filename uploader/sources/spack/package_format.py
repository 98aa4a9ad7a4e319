"""What makes a package one that Spack can install: its layer's inspector and the keys of its config."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal

from uploader.errors import SourceError
from uploader.oci.media_types import LAYER_TYPE
from uploader.sources.base import OpenFile, open_any
from uploader.sources.spack.layer import NewInspector, OldInspector, stale_trailer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from uploader.model.descriptor import Layer
    from uploader.sources.base import LayerInspector
    from uploader.sources.spack.database import Database, DatabaseVersion, Record
    from uploader.sources.spack.installation import Installation, Installations

BINARY_FORMAT: Final = 1
"""Counts up whenever the bytes that we make of the same prefix change."""

_LAYOUT: Final[Mapping[DatabaseVersion, int]] = {"7": 2, "8": 3}
_LARGEST_SPEC: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class SpackFormat:
    """The format of one installed spec (`sources.base.Format`).

    `root` is where its prefix lies now. `fault` says why Spack could never install what would be pushed.
    """

    record: Record
    root: Path
    installations: Installations
    created: str
    fault: str = ""
    open_file: OpenFile = open_any
    name: Literal["Spack"] = "Spack"
    codecs: frozenset[str] = frozenset({"gzip", "gzip-zlib", "none"})
    tag_proves_content: bool = True

    @property
    def database(self) -> Database:
        """That of its store."""
        return self.installations.database

    @property
    def installation(self) -> Installation:
        """What its layer says beside its files."""
        return self.installations.of(self.record)

    @property
    def library(self) -> str:
        """All that the trailer says which does not lie in the prefix: its place, and whom it may name."""
        installation = self.installation
        texts = (*_flat(installation.hash_to_prefix), *installation.sought, installation.store, installation.spack)
        named = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()
        return f"spack-{BINARY_FORMAT}-{self.database.version}-{named}"

    def inspector(self) -> LayerInspector:
        """A new one for its prefix; raises SourceError where the package could not be installed anyway."""
        self._read_spec()
        kind = OldInspector if self.database.version == "7" else NewInspector
        return kind(self.installation, stale_trailer(self.root))

    def config(self, layer: Layer, /) -> Mapping[str, object]:
        """The spec with all its dependencies, and how to check the layer."""
        keys: dict[str, object] = {
            "spec": self._read_spec(),
            "buildcache_layout_version": _LAYOUT[self.database.version],
            "binary_cache_checksum": {"hash_algorithm": "sha256", "hash": layer.descriptor.digest.hex},
        }
        if self.database.version == "8":
            is_plain = layer.descriptor.media_type == LAYER_TYPE["none"]
            keys |= {
                "archive_size": layer.descriptor.size,
                "archive_timestamp": self.created,
                "archive_compression": "none" if is_plain else "gzip",
            }
        return keys

    def _read_spec(self) -> dict[str, Any]:
        if self.fault:
            raise SourceError(self.fault)
        path = self.root / ".spack" / "spec.json"
        try:
            with self.open_file(path) as stream:
                content = stream.read(_LARGEST_SPEC + 1)
        except OSError as error:
            if not self.root.exists():
                raise SourceError(
                    f"read {str(self.root)!r}: the database says that a package is installed there, but the folder is "
                    "gone; install it anew, or let `spack reindex` forget it"
                ) from error
            if isinstance(error, PermissionError):
                raise SourceError(f"read {str(path)!r}: permission denied; run as a user who may read it") from error
            raise _damaged(path, error.strerror or str(error)) from error
        try:
            spec = json.loads(content)["spec"]
            hash_ = spec["nodes"][0]["hash"]
        except (ValueError, KeyError, TypeError, LookupError, RecursionError) as error:
            raise _damaged(path, f"it does not hold a spec ({type(error).__name__}: {error})") from None
        if hash_ != self.record.hash:
            raise _damaged(path, f"it is of another spec, with the hash {hash_!r} instead of {self.record.hash!r}")
        return dict(spec)


def _flat(texts: Mapping[str, str]) -> Iterator[str]:
    return chain.from_iterable(texts.items())


def _damaged(path: Path, reason: str) -> SourceError:
    return SourceError(f"read {str(path)!r}: {reason}; without it Spack cannot install the package: install it anew")
