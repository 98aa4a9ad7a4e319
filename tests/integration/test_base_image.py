"""Packages on a base image, in both formats: made by umoci and skopeo, and unpacked by umoci again."""

from __future__ import annotations

import json
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import uploader
from uploader.testing import FakeRegistry
from uploader.testing.packages import write_packages
from uploader.testing.parts import find_program

if TYPE_CHECKING:
    from pathlib import Path


MODES = {"root": 0o700, "tmp": 0o1777}
"""Folders of the base image, of modes that no layer of ours may bring along."""


def run(*line: object) -> str:
    return subprocess.run([str(word) for word in line], check=True, capture_output=True, text=True).stdout


def make_base(folder: Path) -> Path:
    """An image with the folders of `MODES`."""
    umoci, layout = find_program("umoci"), folder / "base"
    run(umoci, "init", "--layout", layout)
    run(umoci, "new", "--image", f"{layout}:base")
    run(umoci, "unpack", "--rootless", "--image", f"{layout}:base", folder / "bundle")
    for name, mode in MODES.items():
        (folder / "bundle" / "rootfs" / name).mkdir()
        (folder / "bundle" / "rootfs" / name).chmod(mode)
    run(umoci, "repack", "--image", f"{layout}:base", folder / "bundle")
    run(umoci, "config", "--image", f"{layout}:base", "--config.env", "PATH=/base/bin", "--config.env", "BASE=1")
    return layout


def inspect(where: str, *more: str) -> Any:
    return json.loads(run(find_program("skopeo"), "inspect", *more, "--tls-verify=false", where))


def graph_with_prefix(folder: Path) -> Path:
    """A package in each of the folders of `MODES`, the second one needing the first."""
    packages: list[dict[str, Any]] = []
    for name, above in zip(("one", "two"), MODES, strict=True):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text(name)
        needs = [package["id"] for package in packages]
        package = {"id": name, "name": name, "version": "1", "tag": name, "prefix": name, "at": f"/{above}/{name}"}
        packages.append({**package, "dependencies": needs})
    path = folder / "graph.json"
    path.write_text(json.dumps({"schema": "uploader/graph/v1", "packages": packages}))
    return path


@pytest.mark.asyncio
@pytest.mark.parametrize("image_format", ["oci", "v2s2"])
async def test_the_result_unpacks_over_the_base_and_keeps_its_modes(
    docker_registry_host: str, tmp_path: Path, image_format: str
) -> None:
    layout, base = make_base(tmp_path), f"{docker_registry_host}/base/{image_format}:1"
    skopeo = find_program("skopeo")
    run(skopeo, "copy", "--dest-tls-verify=false", "--format", image_format, f"oci:{layout}:base", f"docker://{base}")
    target = f"{docker_registry_host}/on/{image_format}"
    options = uploader.PushOptions(base_image=f"oci+http://{base}")
    report = await uploader.push(str(graph_with_prefix(tmp_path / "graph")), f"oci+http://{target}", options)
    assert (report.totals.pushed, report.error) == (2, None)

    manifest, below = inspect(f"docker://{target}:two", "--raw"), inspect(f"docker://{base}", "--raw")
    assert manifest["mediaType"] == below.get("mediaType", manifest["mediaType"])
    assert manifest["layers"][: len(below["layers"])] == [
        {**layer, "digest": layer["digest"]} for layer in below["layers"]
    ]
    assert len(manifest["layers"]) == len(below["layers"]) + 2
    kinds = {"docker" in entry["mediaType"] for entry in [manifest, manifest["config"], *manifest["layers"]]}
    assert kinds == {image_format == "v2s2"}
    config = inspect(f"docker://{target}:two", "--config")
    assert {"BASE=1", "PATH=/base/bin"} <= set(config["config"]["Env"])
    assert len(config["history"]) == len(inspect(f"docker://{base}", "--config")["history"]) + 2

    run(skopeo, "copy", "--src-tls-verify=false", "--format", "oci", f"docker://{target}:two", f"oci:{layout}:two")
    run(find_program("umoci"), "unpack", "--rootless", "--image", f"{layout}:two", tmp_path / "out")
    root = tmp_path / "out" / "rootfs"
    assert (root / "tmp/two/file").read_text() + (root / "root/one/file").read_text() == "twoone"
    assert {name: stat.S_IMODE((root / name).stat().st_mode) for name in MODES} == MODES

    again = await uploader.push(str(tmp_path / "graph" / "graph.json"), f"oci+http://{target}", options)
    assert again.totals.present == 2


@pytest.mark.asyncio
async def test_a_base_image_elsewhere_is_copied_and_gets_no_login_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPLOADER_USERNAME", "me")
    monkeypatch.setenv("UPLOADER_PASSWORD", "sesame")
    graph = write_packages(tmp_path / "graph", {"app": []})
    async with FakeRegistry() as other, FakeRegistry() as registry:
        await uploader.push(str(graph), other.destination("base"))
        options = uploader.PushOptions(base_image=f"{other.destination('base')}:app")
        report = await uploader.push(
            str(write_packages(tmp_path / "more", {"tool": []})), registry.destination("x"), options
        )
        assert report.totals.pushed == 1
        assert set(registry.repository("x").blobs) >= {*report.packages[0].blob.digest.split()}  # type: ignore[union-attr]
        assert len(registry.repository("x").blobs) == 3, "the base's layer, our own, and our config"
        assert not any("authorization" in request.headers for request in other.requests)
