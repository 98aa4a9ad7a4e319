"""The layout folder against skopeo: each reads what the other wrote."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from uploader.layout.folder import LayoutDestination
from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.model.reference import Tag
from uploader.oci.media_types import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real


@pytest.fixture
def skopeo() -> str:
    found = shutil.which("skopeo")
    if found is None:
        if os.environ.get("UPLOADER_REQUIRE_PARTS") == "1":
            pytest.fail("skopeo is not installed, and UPLOADER_REQUIRE_PARTS=1 asks for it")
        pytest.skip("skopeo is not installed")
    return found


@dataclass(frozen=True, slots=True)
class Bytes:
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


def a_tar(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(name)
        tar.addfile(entry, io.BytesIO(name.encode()))
    return file.getvalue()


async def push_image(destination: LayoutDestination, tag: str) -> bytes:
    """Push an image of one layer; give its manifest."""
    tar = a_tar(tag)
    layer = gzip.compress(tar, mtime=0)
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    described = [
        Descriptor(kind, Digest.of(blob), len(blob)) for kind, blob in ((OCI_CONFIG, config), (OCI_LAYER_GZIP, layer))
    ]
    for descriptor, blob in zip(described, (config, layer), strict=True):
        await destination.push_blob(descriptor, Bytes(blob), expected=False)
    of_config, of_layer = ({"mediaType": d.media_type, "digest": str(d.digest), "size": d.size} for d in described)
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": of_config, "layers": [of_layer]}
    manifest = json.dumps(document).encode()
    await destination.push_manifest(Tag(tag), manifest, OCI_MANIFEST)
    return manifest


def copy(skopeo: str, source: str, target: str) -> None:
    done = subprocess.run(
        [skopeo, "--insecure-policy", "copy", "--quiet", source, target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.asyncio
async def test_skopeo_reads_every_tag(skopeo: str, tmp_path: Path) -> None:
    async with LayoutDestination(tmp_path / "layout") as destination:
        manifests = {tag: await push_image(destination, tag) for tag in ("zlib-1.3.1", "curl-8.9.0")}
    for tag, manifest in manifests.items():
        copy(skopeo, f"oci:{tmp_path}/layout:{tag}", f"dir:{tmp_path}/{tag}")
        assert (tmp_path / tag / "manifest.json").read_bytes() == manifest


@pytest.mark.asyncio
async def test_both_write_into_one_folder(skopeo: str, tmp_path: Path) -> None:
    """skopeo makes a layout, we add to it, and skopeo adds to that again."""
    async with LayoutDestination(tmp_path / "ours") as destination:
        manifest = await push_image(destination, "zlib")
    copy(skopeo, f"oci:{tmp_path}/ours:zlib", f"oci:{tmp_path}/both:theirs")
    async with LayoutDestination(tmp_path / "both") as destination:
        await push_image(destination, "ours")
    copy(skopeo, f"oci:{tmp_path}/ours:zlib", f"oci:{tmp_path}/both:theirs-again")

    async with LayoutDestination(tmp_path / "both") as destination:
        assert [tag async for tag in destination.tags()] == ["ours", "theirs", "theirs-again"]
        stored = await destination.read_manifest(Tag("theirs"))
    assert stored is not None
    assert (stored.content, stored.media_type) == (manifest, OCI_MANIFEST)
