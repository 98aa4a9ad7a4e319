"""A real registry: everything that was pushed is read back by skopeo, unpacked, and compared."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import uploader
from uploader.testing import PartMissing
from uploader.testing.graphs import write_graph

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = 500


def skopeo() -> str:
    program = shutil.which("skopeo")
    if program is None:
        raise PartMissing("skopeo is not installed")
    return program


def read_all_tags(host: str, folder: Path) -> None:
    """One `skopeo sync` reads every tag of the repository into a folder of its own."""
    line = [skopeo(), "sync", "--src", "docker", "--dest", "dir", "--src-tls-verify=false"]
    line += [f"{host}/team/cache", str(folder)]
    subprocess.run(line, check=True, capture_output=True, timeout=300)


def tar_digest(blob: bytes) -> str:
    tar = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
    return f"sha256:{hashlib.sha256(tar).hexdigest()}"


def post_order(packages: dict[str, Any], root: str) -> list[str]:
    """Rule 5, by its plainest definition."""
    order: list[str] = []

    def visit(key: str) -> None:
        if key not in order:
            for child in sorted(packages[key].get("dependencies", ()), key=lambda k: (packages[k]["name"], k)):
                visit(child)
            order.append(key)

    visit(root)
    return order


@pytest.mark.asyncio
@pytest.mark.timeout(300)
async def test_skopeo_reads_every_tag_and_the_layers_are_right(docker_registry_host: str, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "graph", PACKAGES, seed=11)
    report = await uploader.push(str(graph), f"oci+http://{docker_registry_host}/team/cache")
    assert (report.totals.pushed, report.totals.failed) == (PACKAGES, 0)

    read_all_tags(docker_registry_host, tmp_path / "read")
    packages = {package["id"]: package for package in json.loads(graph.read_text())["packages"]}
    entries = {entry.id: entry for entry in report.packages}
    tars: dict[str, str] = {}
    for key, entry in entries.items():
        folder = tmp_path / "read" / f"cache:{entry.tag}"
        manifest = json.loads((folder / "manifest.json").read_text())
        layers = [layer["digest"] for layer in manifest["layers"]]
        blobs = [entries[member].blob for member in post_order(packages, key)]
        assert layers == [blob.digest for blob in blobs if blob]
        config = json.loads((folder / manifest["config"]["digest"].partition(":")[2]).read_bytes())
        for digest in layers:
            if digest not in tars:
                tars[digest] = tar_digest((folder / digest.partition(":")[2]).read_bytes())
        assert config["rootfs"]["diff_ids"] == [tars[digest] for digest in layers]

    again = await uploader.push(str(graph), f"oci+http://{docker_registry_host}/team/cache")
    assert (again.totals.present, again.totals.bytes_sent) == (PACKAGES, 0)
