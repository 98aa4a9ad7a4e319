"""Package graphs on disk for tests and benchmarks: the same arguments give the same bytes."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_MOST_DEPENDENCIES = 4
_SHARED = 8
"""How many low packages (a libc, a compiler's runtime) most others need."""


def write_graph(
    folder: Path,
    count: int,
    *,
    seed: int,
    prefixes_share: float = 0.33,
    blob_bytes: tuple[int, int] = (200, 4_000),
) -> Path:
    """Write `graph.json` with `count` packages, and their content beside it; gives its path.

    About `prefixes_share` of them are folders to be packed, the others ready tar.gz blobs. `blob_bytes` is
    the least and the most content of one; it hardly compresses.
    """
    random = Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    packages: list[dict[str, Any]] = []
    for number in range(count):
        name = f"package-{number:05d}"
        version = f"{random.randint(0, 9)}.{random.randint(0, 20)}"
        package: dict[str, Any] = {
            "id": f"{name}-{random.getrandbits(32):08x}",
            "name": name,
            "version": version,
            "dependencies": _dependencies(packages, random),
        }
        content = random.randbytes(random.randint(*blob_bytes))
        if random.random() < prefixes_share:
            package |= _write_prefix(folder, f"{name}-{version}", content)
        else:
            package |= _write_blob(folder, f"{name}-{version}", content)
        packages.append(package)
    path = folder / "graph.json"
    document = {
        "schema": "uploader/graph/v1",
        "platform": {"os": "linux", "architecture": "amd64"},
        "packages": packages,
    }
    path.write_text(json.dumps(document, indent=1))
    return path


def _dependencies(earlier: list[dict[str, Any]], random: Random) -> list[str]:
    """Some of the packages before it: a few from the shared bottom, a few from anywhere."""
    wanted = random.randint(0, min(_MOST_DEPENDENCIES, len(earlier)))
    shared = random.sample(earlier[:_SHARED], min(wanted // 2, len(earlier[:_SHARED])))
    anywhere = random.sample(earlier, wanted - len(shared))
    return sorted({str(package["id"]) for package in shared + anywhere})


def _write_prefix(folder: Path, name: str, content: bytes) -> dict[str, str]:
    """A folder with a program, a data file and a symbolic link, as installed packages have."""
    prefix = folder / "store" / name
    (prefix / "bin").mkdir(parents=True)
    (prefix / "share").mkdir()
    program = prefix / "bin" / "run"
    program.write_bytes(b"#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    (prefix / "bin" / "start").symlink_to("run")
    (prefix / "share" / "data").write_bytes(content)
    return {"prefix": f"store/{name}", "at": f"/opt/{name}"}


def _write_blob(folder: Path, name: str, content: bytes) -> dict[str, dict[str, str]]:
    path = folder / "blobs" / f"{name}.tar.gz"
    path.parent.mkdir(exist_ok=True)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        file = tarfile.TarInfo(f"opt/{name}/share/data")
        file.size = len(content)
        archive.addfile(file, io.BytesIO(content))
    path.write_bytes(gzip.compress(raw.getvalue(), compresslevel=1, mtime=0))
    return {"blob": {"path": f"blobs/{path.name}"}}
