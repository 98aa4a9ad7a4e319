"""A repository to be damaged: the fake registry's or a layout folder's, changed behind everybody's back."""

from __future__ import annotations

import gzip
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import uploader
from uploader import PushOptions
from uploader.model.digest import Digest
from uploader.oci.media_types import OCI_MANIFEST
from uploader.testing import FakeRegistry
from uploader.testing.packages import a_tar, write_packages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from uploader.testing import StoredRepository

PACKAGES: dict[str, list[str]] = {"app": ["lib"], "lib": ["libc"], "libc": [], "solo": []}


def packed(key: str) -> bytes:
    """The layer of a package of `a_graph`."""
    return gzip.compress(a_tar(key), mtime=0)


def layer_of(key: str) -> str:
    return str(Digest.of(packed(key)))


def a_graph(folder: Path, needs: Mapping[str, Iterable[str]] = PACKAGES, *, digests: bool = False) -> Path:
    """Packages whose layers are compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {}
    for key in needs:
        (folder / f"{key}.tar.gz").write_bytes(packed(key))
        keys[key] = {"blob": {"path": f"{key}.tar.gz", **({"digest": layer_of(key)} if digests else {})}}
    return write_packages(folder, needs, keys=keys)


class Place(Protocol):
    """A repository, from behind. `address` is how users write it."""

    address: str

    def manifest(self, tag: str) -> bytes: ...
    def blob(self, digest: str) -> bytes: ...
    def set(self, digest: str, content: bytes | None) -> None:
        """Change the bytes of a blob or manifest, or take it away."""

    def point(self, tag: str, content: bytes | None) -> None:
        """Point the tag at a manifest of these bytes, or at nothing."""

    def everything(self) -> object:
        """All that it holds, and how often something was written, if that is known."""


def document(place: Place, tag: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(place.manifest(tag))
    return manifest


def config_of(place: Place, tag: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(place.blob(document(place, tag)["config"]["digest"]))
    return config


def give_config(place: Place, tag: str, config: bytes) -> None:
    """Let the manifest at the tag name another config."""
    manifest = document(place, tag)
    digest = str(Digest.of(config))
    place.set(digest, config)
    manifest["config"] |= {"digest": digest, "size": len(config)}
    place.point(tag, json.dumps(manifest, separators=(",", ":")).encode())


class FakePlace:
    def __init__(self, registry: FakeRegistry, name: str) -> None:
        self.address = registry.destination(name)
        self.registry = registry
        self.repository: StoredRepository = registry.repository(name)

    def manifest(self, tag: str) -> bytes:
        return self.repository.manifests[self.repository.tags[tag]][1]

    def blob(self, digest: str) -> bytes:
        return self.repository.blobs[digest]

    def set(self, digest: str, content: bytes | None) -> None:
        if digest in self.repository.manifests:
            kind, _ = self.repository.manifests.pop(digest)
            if content is not None:
                self.repository.manifests[digest] = (kind, content)
        elif content is None:
            del self.repository.blobs[digest]
        else:
            self.repository.store(digest, content, len(content))

    def point(self, tag: str, content: bytes | None) -> None:
        if content is None:
            del self.repository.tags[tag]
        else:
            self.repository.add_manifest(content, tag)

    def everything(self) -> object:
        writes = self.registry.requests_of("open", "patch", "put-blob", "put-manifest")
        held = self.repository
        return len(writes), dict(held.tags), dict(held.manifests), dict(held.blobs)


class LayoutPlace:
    def __init__(self, path: Path) -> None:
        self.address = f"oci-layout:{path}"
        self._path = path

    def manifest(self, tag: str) -> bytes:
        return self.blob(self._tags()[tag])

    def blob(self, digest: str) -> bytes:
        return self._file(digest).read_bytes()

    def set(self, digest: str, content: bytes | None) -> None:
        if content is None:
            self._file(digest).unlink()
        else:
            self._file(digest).write_bytes(content)

    def point(self, tag: str, content: bytes | None) -> None:
        index = json.loads((self._path / "index.json").read_text())
        index["manifests"] = [entry for entry in index["manifests"] if self._name(entry) != tag]
        if content is not None:
            digest = str(Digest.of(content))
            self.set(digest, content)
            entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(content)}
            index["manifests"].append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        (self._path / "index.json").write_text(json.dumps(index))

    def everything(self) -> object:
        files = [path for path in self._path.rglob("*") if path.is_file()]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in files}

    def _tags(self) -> dict[str, str]:
        index = json.loads((self._path / "index.json").read_text())
        return {self._name(entry): entry["digest"] for entry in index["manifests"]}

    @staticmethod
    def _name(entry: dict[str, Any]) -> str:
        return str(entry["annotations"]["org.opencontainers.image.ref.name"])

    def _file(self, digest: str) -> Path:
        return self._path / "blobs" / digest.replace(":", "/")


@asynccontextmanager
async def a_place(kind: str, folder: Path, graph: Path, **options: Any) -> AsyncIterator[Place]:
    """A repository of that kind (`registry`, `layout`), filled from the graph."""
    async with FakeRegistry() as registry:
        place: Place = FakePlace(registry, "cache") if kind == "registry" else LayoutPlace(folder / "layout")
        await uploader.push(str(graph), place.address, PushOptions(**options))
        yield place


def flipped(content: bytes, at: int = 20) -> bytes:
    """The same but for one bit."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
