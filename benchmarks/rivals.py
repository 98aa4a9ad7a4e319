"""The rivals, each with the command line that pushes the image layout that we wrote: the same blobs, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Program, python
from benchmarks.servers import Missing, Server, require

if TYPE_CHECKING:
    from collections.abc import Callable

_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True)
class Contender:
    """Who pushes a work, and how: `program` gives the command line for a server."""

    name: str
    program: Callable[[Server], Program]


def skopeo(layout: Path) -> Contender:
    """One process that copies all the images, by an index of them; raises Missing."""
    name = require("skopeo")
    source = f"oci:{_indexed(layout)}:all"

    def program(server: Server) -> Program:
        flags = ["--insecure-policy", "copy", "--quiet", "--multi-arch", "all", "--dest-tls-verify=false"]
        return Program([name, *flags, source, f"docker://{server.host}/bench/skopeo:all"])

    return Contender("skopeo", program)


def oras(layout: Path, interpreter: str) -> Contender:
    """One oras-py, one request after the other; raises Missing where `interpreter` has no oras."""
    found = subprocess.run([interpreter, "-c", "import oras.provider"], check=False, capture_output=True)
    if found.returncode != 0:
        raise Missing(f"{interpreter} has no oras (pip install oras, or --oras-python PATH)")
    here = {"PYTHONPATH": str(Path(__file__).parents[1])}

    def program(server: Server) -> Program:
        return Program([interpreter, "-m", "benchmarks.oras_push", str(layout), server.host], here)

    return Contender("oras-py", program)


def spack(root: Path | None, made: Path) -> Contender:
    """`spack buildcache push` of the store that `benchmarks.spack_store` made; raises Missing.

    `root` is a checkout of Spack. It is given a configuration of its own, and trusts the server's authority.
    """
    if root is None or not (root / "bin/spack").is_file():
        raise Missing("Spack is not there (--spack FOLDER, a checkout of it)")
    scope = made / "spack-configuration"
    scope.mkdir(exist_ok=True)
    caches = {name: str(made / "spack-caches" / name) for name in ("misc_cache", "source_cache")}
    config = {"config": {"install_tree": {"root": str(made / "store")}, **caches}}
    (scope / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    (scope / "repos.yaml").write_text(f"repos:: [{made / 'recipes'}]\n")
    flags = ["buildcache", "push", "--unsigned", "--without-build-dependencies"]
    environment = {"SPACK_DISABLE_LOCAL_CONFIG": "1", "SPACK_USER_CACHE_PATH": str(made / "spack-caches")}

    def program(server: Server) -> Program:
        command = [str(root / "bin/spack"), "-C", str(scope), *flags, f"oci://{server.host}/bench/spack"]
        trust = {} if server.ca_file is None else {"SSL_CERT_FILE": str(server.ca_file)}
        return Program([*command, *(made / "roots").read_text().split()], {**environment, **trust})

    return Contender("spack buildcache push", program)


def raw(layout: Path, connections: int = 16) -> Contender:
    """The same requests with nothing around them, one at a time on each connection."""

    def program(server: Server) -> Program:
        return Program(python("benchmarks.raw_push", layout, server.host, connections), tells=True)

    return Contender("raw requests", program)


def write_layout(graph: Path, layout: Path) -> None:
    """Push a graph of ready blobs to an image layout; its blobs become links to the files that it came from."""
    if (layout / "index.json").exists():
        return
    report = layout.with_suffix(".report.json")
    command = python("uploader", "push", graph, "--to", f"oci-layout:{layout}", "--state", "none", "--report", report)
    subprocess.run(command, check=True, capture_output=True)
    digests = {entry["id"]: entry["blob"]["digest"] for entry in json.loads(report.read_text())["packages"]}
    for package in json.loads(graph.read_text())["packages"]:
        blob = layout / "blobs" / digests[package["id"]].replace(":", "/")
        blob.unlink(missing_ok=True)  # two packages may have the same content
        os.link(graph.parent / package["blob"]["path"], blob)


def _indexed(layout: Path) -> Path:
    """The layout once more, with one tag, `all`, that points at an index of all its images."""
    indexed = layout.with_name(f"{layout.name}-indexed")
    if (indexed / "index.json").exists():
        return indexed
    shutil.copytree(layout, indexed, copy_function=os.link, dirs_exist_ok=True)
    platform = {"os": "linux", "architecture": "amd64"}
    images = [{**entry, "platform": platform} for entry in json.loads((layout / "index.json").read_text())["manifests"]]
    for image in images:
        del image["annotations"]
    index = _document({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": images})
    digest = hashlib.sha256(index).hexdigest()
    (indexed / "blobs" / "sha256" / digest).write_bytes(index)
    top: dict[str, Any] = {
        "mediaType": _INDEX_TYPE,
        "digest": f"sha256:{digest}",
        "size": len(index),
        "annotations": {"org.opencontainers.image.ref.name": "all"},
    }
    (indexed / "index.json").unlink()  # a link: the layout's own is not to be written to
    (indexed / "index.json").write_bytes(_document({"schemaVersion": 2, "manifests": [top]}))
    return indexed


def _document(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
