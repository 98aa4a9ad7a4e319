"""Plan and engine alone, on the graph of work D, with a pusher that returns at once; a program of its own.

    python -m benchmarks.bare_engine COUNT

Prints, as JSON, the seconds that ranking, plan and engine took together.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from benchmarks.works import d_needs
from uploader.graph import engine
from uploader.graph.plan import Plan
from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.model.outcome import Done, Tagged
from uploader.model.package import Blob, Package, PackageGraph, PackageId
from uploader.model.reference import Tag

if TYPE_CHECKING:
    from uploader.graph.plan import Closure

_JOBS = 32
_DIGEST = Digest("sha256", "0" * 64)
_DESCRIPTOR = Descriptor("application/vnd.oci.image.layer.v1.tar", _DIGEST, 4096)


class Instant:
    """Fits the engine's Pusher: everything is done at once, and never waits."""

    async def push_layer(self, _: Package) -> Done:
        """Done."""
        return Done(Layer(_DESCRIPTOR, _DIGEST), "uploaded")

    async def push_manifest(self, _: Package, closure: Closure) -> Tagged:
        """Done."""
        return Tagged(_DESCRIPTOR, pushed=True, missing=closure.missing)

    async def confirm_manifest(self, _: Package) -> Tagged | None:
        """Never asked for."""
        return None


def make_graph(count: int) -> PackageGraph:
    """The graph of work D, without files."""
    packages = []
    for number, needs in enumerate(d_needs(count)):
        key = f"p{number:06}"
        needed = tuple(PackageId(f"p{other:06}") for other in needs)
        content = Blob(Path(key), size=4096)
        packages.append(Package(PackageId(key), key, "1", Tag(key), content, needed))
    return PackageGraph(packages)


async def _main(count: int) -> None:
    graph = make_graph(count)
    began = time.perf_counter()
    plan = Plan(graph, frozenset(package.id for package in graph.packages))
    await engine.run(plan, Instant(), jobs=_JOBS, emit=lambda _: None, stop=anyio.Event())
    print(json.dumps({"engine": time.perf_counter() - began}))


if __name__ == "__main__":
    anyio.run(_main, int(sys.argv[1]))
