"""The recorded store of Spack 0.23, pushed by us and as Spack pushed it, for tests of what comes of that."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uploader

if TYPE_CHECKING:
    from uploader.service.report import PackageEntry, Report
    from uploader.testing import FakeRegistry

GOLDEN = Path(__file__).parent.parent / "golden" / "spack-0.23"
MPILEAKS = {"callpath", "dyninst", "libdwarf", "libelf", "mpich", "mpileaks"}
DTTOP = {"dttop", *(f"dtbuild{n}" for n in (1, 2, 3)), *(f"dtlink{n}" for n in (1, 2, 3, 4, 5))}
DTTOP |= {f"dtrun{n}" for n in (1, 2, 3)}


def unpack_store(folder: Path) -> Path:
    """Not where it was recorded."""
    subprocess.run(["tar", "-xzf", GOLDEN / "store.tar.gz", "-C", folder], check=True)
    return (folder / "opt" / "software").rename(folder / "elsewhere")


def prefix_of(store: Path, name: str) -> Path:
    return next(path.parent.parent for path in store.glob(f"*/*/{name}-*/.spack/spec.json"))


async def push(
    registry: FakeRegistry, store: Path, specs: str = "mpileaks", **options: Any
) -> tuple[Report, dict[str, PackageEntry]]:
    """The report, and its entries by name."""
    chosen = uploader.PushOptions(update_index=True, **options)
    report = await uploader.push(f"spack:{store}#{specs}", registry.destination("cache"), chosen)
    return report, {entry.name: entry for entry in report.packages}


def listed(registry: FakeRegistry) -> set[str]:
    """The names of the specs that the index says are in the build cache."""
    installs = json.loads(index_at(registry))["database"]["installs"]
    return {entry["spec"]["name"] for entry in installs.values() if entry["in_buildcache"]}


def index_at(registry: FakeRegistry) -> bytes:
    repository = registry.repository("cache")
    _, manifest = repository.manifests[repository.tags["index.spack"]]
    blob = repository.blobs[json.loads(manifest)["layers"][0]["digest"]]
    assert isinstance(blob, bytes)
    return blob


def layers_at(registry: FakeRegistry, entry: PackageEntry) -> int:
    repository = registry.repository("cache")
    return len(json.loads(repository.manifests[repository.tags[entry.tag]][1])["layers"])


def pushed_by_spack(registry: FakeRegistry, push: str = "mpileaks", *, without: str = "-") -> None:
    """Fill the repository with what Spack was recorded to push; `without` the package of which it failed to."""
    recorded, repository = GOLDEN / push, registry.repository("cache")
    manifests = {path.stem: json.loads(path.read_bytes()) for path in (recorded / "manifests").iterdir()}
    lost = {manifest["layers"][-1]["digest"] for tag, manifest in manifests.items() if tag.startswith(without)}
    for tag, manifest in manifests.items():
        if manifest["layers"][-1]["digest"] in lost:
            continue
        config = json.loads((recorded / "configs" / f"{tag}.json").read_bytes())
        pairs = zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
        kept = [(layer, diff_id) for layer, diff_id in pairs if layer["digest"] not in lost]
        manifest["layers"], config["rootfs"]["diff_ids"] = map(list, zip(*kept, strict=True))
        content = json.dumps(config, separators=(",", ":")).encode()
        manifest["config"] |= {"digest": repository.add_blob(content), "size": len(content)}
        for layer in manifest["layers"]:
            repository.store(layer["digest"], b"", layer["size"])
        repository.add_manifest(json.dumps(manifest, separators=(",", ":")).encode(), tag)
