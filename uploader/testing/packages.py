"""Packages, layers and graph files of a line or two, for tests of what is done with them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.model.package import Absence, Blob, Package, PackageId, Platform
from uploader.model.reference import Tag
from uploader.oci.media_types import OCI_LAYER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from uploader.testing.fake.storage import StoredRepository


def a_package(
    key: str, *needs: str, name: str = "", platform: Platform | None = None, absence: Absence | None = None
) -> Package:
    """A package whose tag, and by default whose name, is its id."""
    return Package(
        id=PackageId(key),
        name=name or key,
        version="1",
        tag=Tag(key),
        content=Blob(Path(key)),
        dependencies=tuple(PackageId(needed) for needed in needs),
        platform=platform or Platform(),
        absence=absence,
    )


def a_layer(key: str) -> Layer:
    """The layer that a package might have; another one for another key."""
    return Layer(Descriptor(OCI_LAYER, Digest.of(key.encode()), len(key)), Digest.of(f"tar of {key}".encode()))


def a_tar(key: str) -> bytes:
    """A tar with one small file: the same bytes for the same key."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        file = tarfile.TarInfo(f"opt/{key}")
        file.size = len(key)
        archive.addfile(file, io.BytesIO(key.encode()))
    return raw.getvalue()


def write_packages(
    folder: Path, needs: Mapping[str, Iterable[str]], *, keys: Mapping[str, Mapping[str, Any]] | None = None
) -> Path:
    """Write `graph.json` and a ready blob `KEY.tar` for each package; gives the path of the graph file.

    `needs` gives the dependencies of each package; `keys` are further keys of its entry, or others in place of those
    that it has by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packages = []
    for key, dependencies in needs.items():
        blob = folder / f"{key}.tar"
        blob.write_bytes(a_tar(key))
        entry = {"id": key, "name": key, "version": "1", "tag": key, "blob": {"path": blob.name}}
        entry |= {"dependencies": list(dependencies), **(keys or {}).get(key, {})}
        packages.append({name: value for name, value in entry.items() if value is not None})
    path = folder / "graph.json"
    path.write_text(json.dumps({"schema": "uploader/graph/v1", "packages": packages}))
    return path


def manifest_at(repository: StoredRepository, tag: str) -> dict[str, Any]:
    """The manifest that a tag of the fake registry points at, as JSON."""
    document: dict[str, Any] = json.loads(repository.manifests[repository.tags[tag]][1])
    return document


def layers_at(repository: StoredRepository, tag: str, keys: Iterable[str]) -> list[str]:
    """Whose layers the manifest at the tag names, in order; the packages `keys` have their `a_tar` for content."""
    owner = {str(Digest.of(a_tar(key))): key for key in keys}
    return [owner.get(layer["digest"], layer["digest"]) for layer in manifest_at(repository, tag)["layers"]]
