"""Packs the folders of work C with `tarfile` and zlib 6, one process per core: what packing costs by the plain means.

    python -m benchmarks.tar_zlib STORE

Hashes the tar and the tar.gz, as a layer needs; the tar.gz goes nowhere. Prints, as JSON, how many bytes it had.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
import tarfile
from multiprocessing import Pool
from pathlib import Path
from typing import IO, cast


class _Hashing:
    """A file that hashes what is written, and passes it on. Mutable: the hash, and how many bytes there were."""

    def __init__(self, below: IO[bytes] | None) -> None:
        self._below = below
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        if self._below is not None:
            self._below.write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""


def pack(folder: Path) -> int:
    """The size of its tar.gz."""
    blob = _Hashing(None)
    with gzip.GzipFile(fileobj=cast("IO[bytes]", blob), mode="wb", compresslevel=6, mtime=0) as compressed:
        tar = _Hashing(cast("IO[bytes]", compressed))
        with tarfile.open(fileobj=cast("IO[bytes]", tar), mode="w|", format=tarfile.PAX_FORMAT) as archive:
            archive.add(folder, arcname=folder.name)
    return blob.size


def main() -> None:
    """All folders, on all cores."""
    with Pool(os.cpu_count()) as pool:
        sizes = pool.map(pack, sorted(Path(sys.argv[1]).iterdir()), chunksize=1)
    print(json.dumps({"packed": sum(sizes)}))


if __name__ == "__main__":
    main()
