"""Pushes every tag of an image layout with oras-py, one request after the other; a program of its own.

python -m benchmarks.oras_push LAYOUT HOST
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import oras.provider  # type: ignore[import-not-found, unused-ignore]


def main() -> None:
    """Blobs, then manifest, tag by tag. oras-py does not hash what it sends."""
    layout, host = Path(sys.argv[1]), sys.argv[2]
    client = oras.provider.Registry(hostname=host, insecure=True)
    for entry in json.loads((layout / "index.json").read_text())["manifests"]:
        tag = entry["annotations"]["org.opencontainers.image.ref.name"]
        container = client.get_container(f"{host}/bench/oras:{tag}")
        manifest: dict[str, Any] = json.loads(_blob(layout, entry["digest"]).read_text())
        for blob in (manifest["config"], *manifest["layers"]):
            _check(client.upload_blob(str(_blob(layout, blob["digest"])), container, blob))
        _check(client.upload_manifest(manifest, container))


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _check(response: Any) -> None:
    if response.status_code not in {200, 201, 202}:
        raise SystemExit(f"oras-py: the registry answered {response.status_code}")


if __name__ == "__main__":
    main()
