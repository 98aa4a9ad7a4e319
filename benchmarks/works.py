"""The works A to D: what is pushed. The same arguments give the same files; a program of its own, since it needs room.

    python -m benchmarks.works NAME FOLDER [--share SHARE]

A: 200 packages with a layer of 64 KiB; ten have no dependencies, each other one needs these ten.
B: 20 packages of 81 MB that do not compress, as plain tars (`graph.json`) and as tar.gz (`graph-gz.json`).
C: 330 folders, 1.5 GB in 29,000 files: most below 1 MB, ten above 40 MB; dependencies up to 150 deep.
D: 100,000 packages with blobs of 4 KiB, 30 layers each on average (`graph-N.jsonl` has the first N of them).
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import tarfile
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION: Final = 1
"""Counted up whenever a work changes, so that nothing old is used again."""

_HEADER: Final = {"schema": "uploader/graph/v1", "platform": {"os": "linux", "architecture": "amd64"}}
_BOTTOM: Final = 10
_FAMILY: Final = 43
_POOL_BYTES: Final = 8 << 20
_PIECE_BYTES: Final = 1 << 20


def make_a(folder: Path, share: float) -> None:
    """Work A."""
    random = Random("A")
    bottom = [f"base-{n:02}" for n in range(10)]
    packages = []
    for n in range(max(20, int(200 * share))):
        key = bottom[n] if n < len(bottom) else f"package-{n:03}"
        path = folder / f"{key}.tar.gz"
        path.write_bytes(gzip.compress(_tar(key, random.randbytes(65_536)), compresslevel=1, mtime=0))
        packages.append(_package(key, {"blob": {"path": path.name}}, bottom if n >= len(bottom) else []))
    _write_graph(folder / "graph.json", packages)


def make_b(folder: Path, share: float) -> None:
    """Work B."""
    random = Random("B")
    keys = [f"package-{n:02}" for n in range(max(4, int(20 * share)))]
    for key in keys:
        content = _tar(key, random.randbytes(81_000_000))
        (folder / f"{key}.tar").write_bytes(content)
        with gzip.open(folder / f"{key}.tar.gz", "wb", compresslevel=1) as file:
            file.write(content)
    for name, suffix in (("graph.json", "tar"), ("graph-gz.json", "tar.gz")):
        _write_graph(folder / name, [_package(key, {"blob": {"path": f"{key}.{suffix}"}}, []) for key in keys])


def make_c(folder: Path, share: float) -> None:
    """Work C."""
    random = Random("C")
    pools = (_text(random), _code(random))
    count, large = max(20, int(330 * share)), max(1, int(10 * share))
    small = [int(random.lognormvariate(13.1, 1.7)) for _ in range(count - large)]
    scale = 780_000_000 * share / sum(small)
    sizes = [max(2_000, min(int(size * scale), 39_000_000)) for size in small]
    for n in range(large):
        sizes.insert(random.randrange(len(sizes)), 50_000_000 + n * 5_000_000)
    files = _spread([size**0.5 for size in sizes], int(29_000 * share))
    packages = []
    for n, (size, file_count) in enumerate(zip(sizes, files, strict=True)):
        key = f"package-{n:03}"
        _write_prefix(folder / "store" / key, size, file_count, pools, random)
        below = {n - 1} if 0 < n < 150 else set()
        below |= {random.randrange(n) for _ in range(random.randint(0, 3)) if n}
        needs = [f"package-{m:03}" for m in sorted(below)]
        packages.append(_package(key, {"prefix": f"store/{key}", "at": f"/opt/store/{key}"}, needs))
    _write_graph(folder / "graph.json", packages)
    (folder / "bytes").write_text(str(sum(sizes)))


def make_d(folder: Path, share: float) -> None:
    """Work D."""
    random = Random("D")
    sizes = d_sizes(share)
    lines: list[str] = []
    for n, needs in enumerate(d_needs(sizes[-1])):
        path = folder / "blobs" / f"{n // 1000:03}" / f"{n:06}.tar"
        if n % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(_tar(f"{n:06}", random.randbytes(2_560)))
        blob = {"blob": {"path": str(path.relative_to(folder))}}
        lines.append(json.dumps(_package(f"p{n:06}", blob, [f"p{m:06}" for m in needs])))
    for size in sizes:
        text = "\n".join([json.dumps(_HEADER), *lines[:size]])
        (folder / f"graph-{size}.jsonl").write_text(text + "\n")


def d_sizes(share: float) -> list[int]:
    """How many packages the graphs of work D have."""
    return [n for n in (100, 1_000, 10_000, 100_000) if n <= max(1_000, 100_000 * share)]


def d_needs(count: int) -> Iterator[list[int]]:
    """What each package of work D needs: the one before it in its family, and one of ten that everybody shares."""
    random = Random("needs of D")
    for n in range(count):
        if n < _BOTTOM:
            yield []
        else:
            before = [n - 1] if (n - _BOTTOM) % _FAMILY else []
            yield [random.randrange(_BOTTOM), *before]


_MAKERS: Final[dict[str, Callable[[Path, float], None]]] = {"A": make_a, "B": make_b, "C": make_c, "D": make_d}


# -- graphs


def _package(key: str, content: dict[str, Any], needs: list[str]) -> dict[str, Any]:
    return {"id": key, "name": key, "version": "1", "tag": key, **content, "dependencies": needs}


def _write_graph(path: Path, packages: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({**_HEADER, "packages": packages}, indent=1))


# -- content


def _tar(key: str, content: bytes) -> bytes:
    """A tar with one file, and no more than it needs."""
    raw = io.BytesIO()
    file = tarfile.TarInfo(f"opt/{key}/data")
    file.size = len(content)
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(file, io.BytesIO(content))
    return raw.getvalue()[: 512 + -(-len(content) // 512) * 512 + 1024]


def _spread(weights: list[float], whole: int) -> list[int]:
    """`whole` in parts that are as the weights are to each other; none is 0."""
    scale = whole / sum(weights)
    edges = [0, *(round(edge * scale) for edge in accumulate(weights))]
    return [max(1, after - before) for before, after in pairwise(edges)]


def _write_prefix(root: Path, size: int, file_count: int, pools: tuple[bytes, bytes], random: Random) -> None:
    """A folder as of an installed package: programs and text, some links."""
    weights = [random.lognormvariate(0, 1.5) for _ in range(file_count)]
    for n, file_size in enumerate(_spread(weights, size)):
        kind, folder = ("lib", f"lib/part{n // 40}") if random.random() < 0.4 else ("doc", f"share/part{n // 40}")
        path = root / folder / f"{kind}-{n:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_file(path, file_size, pools[kind == "lib"], random)
        if kind == "lib":
            path.chmod(0o755)
        if n % 25 == 0:
            (path.parent / f"link-{n}").symlink_to(path.name)
        if n % 100 == 1:
            os.link(path, path.parent / f"hard-{n}")


def _write_file(path: Path, size: int, pool: bytes, random: Random) -> None:
    with path.open("wb") as file:
        while size > 0:
            length = min(size, _PIECE_BYTES)
            start = random.randrange(len(pool) - length)
            file.write(pool[start : start + length])
            size -= length


def _text(random: Random) -> bytes:
    """Lines of words, few of both frequent: it compresses about as well as source code does."""
    words = ["".join(random.choices("etaoinshrdlucmfw_", k=random.randint(2, 11))) for _ in range(6_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    lines = [" ".join(random.choices(words, weights, k=random.randint(1, 9))) for _ in range(20_000)]
    weights = [1 / (rank + 30) for rank in range(len(lines))]
    return "\n".join(random.choices(lines, weights, k=_POOL_BYTES // 20)).encode()[:_POOL_BYTES]


def _code(random: Random) -> bytes:
    """Short words of machine code with random operands: it compresses about as well as a library does."""
    instructions = [random.randbytes(random.randint(2, 6)) for _ in range(1_000)]
    weights = [1 / (rank + 2) for rank in range(len(instructions))]
    chosen = random.choices(instructions, weights, k=_POOL_BYTES // 3)
    return b"".join(code + random.randbytes(n % 20 == 0) for n, code in enumerate(chosen))[:_POOL_BYTES]


def main() -> None:
    """Make a work, whole or not at all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(_MAKERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    _MAKERS[given.name](given.folder, given.share)


if __name__ == "__main__":
    main()
