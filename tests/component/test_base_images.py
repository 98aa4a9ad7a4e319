"""Base images below packages: found, mounted or copied, for the right platform, and in one format."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import uploader
from tests.component.a_spack_store import push as push_store
from tests.component.a_spack_store import unpack_store
from uploader.errors import InputError
from uploader.testing import Answer, FakeRegistry, Fault, RefuseMount, Stall
from uploader.testing.packages import a_tar, manifest_at, write_packages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uploader.service.report import Report
    from uploader.testing import StoredRepository

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
SETTINGS = {"Env": ["BASE=1"], "Cmd": ["/bin/sh"]}


def add_image(
    repository: StoredRepository,
    *tags: str,
    layers: Sequence[str] = ("floor",),
    contents: Sequence[bytes] = (),
    docker: bool = False,
    settings: object = SETTINGS,
) -> str:
    """An image for linux/amd64, of plain tars, or of any `contents`; gives its digest."""
    kind = "vnd.docker.container.image" if docker else "vnd.oci.image.config"
    tar = "vnd.docker.image.rootfs.diff.tar" if docker else "vnd.oci.image.layer.v1.tar"
    digests = [repository.add_blob(content) for content in contents or map(a_tar, layers)]
    config: dict[str, Any] = {
        "os": "linux",
        "architecture": "amd64",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": digests},
        "history": [{"created_by": layer} for layer, _ in zip(layers, digests, strict=False)],
    }
    content = json.dumps(config).encode()
    described = {"mediaType": f"application/{kind}.v1+json", "digest": repository.add_blob(content)}
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER if docker else OCI,
        "config": {**described, "size": len(content)},
        "layers": [
            {"mediaType": f"application/{tar}", "digest": digest, "size": repository.size_of(digest)}
            for digest in digests
        ],
    }
    return repository.add_manifest(json.dumps(manifest).encode(), *tags, media_type=str(manifest["mediaType"]))


def add_index(repository: StoredRepository, tag: str, offered: dict[str, str]) -> None:
    entries = [
        {
            "mediaType": OCI,
            "digest": digest,
            "size": len(repository.manifests[digest][1]),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for architecture, digest in offered.items()
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    repository.add_manifest(json.dumps(index).encode(), tag, media_type=INDEX)


def config_at(repository: StoredRepository, tag: str) -> Any:
    blob = repository.blobs[manifest_at(repository, tag)["config"]["digest"]]
    assert isinstance(blob, bytes)
    return json.loads(blob)


def names_in(repository: StoredRepository, digest: str) -> list[str]:
    blob = repository.blobs[digest]
    assert isinstance(blob, bytes)
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        return archive.getnames()


async def push(registry: FakeRegistry, graph: Path, base: str, to: str = "mine") -> Report:
    options = uploader.PushOptions(base_image=base, jobs=4)
    return await uploader.push(str(graph), registry.destination(to), options)


@pytest.mark.asyncio
async def test_the_layers_of_a_base_in_the_same_registry_are_mounted_and_not_moved(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": []})
    async with FakeRegistry() as registry:
        add_image(registry.repository("base"), "1", layers=["floor", "wall"])
        report = await push(registry, graph, f"{registry.destination('base')}:1")
        assert report.totals.pushed == 1
        assert len(manifest_at(registry.repository("mine"), "app")["layers"]) == 3
        assert [request.repository for request in registry.requests_of("mount")] == ["mine", "mine"]
        assert [request.repository for request in registry.requests_of("get-blob")] == ["base"], "its config alone"


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [202, 404])
async def test_where_mounts_are_refused_the_layers_are_copied(tmp_path: Path, status: int) -> None:
    graph = write_packages(tmp_path, {"app": []})
    async with FakeRegistry(faults=[Fault(on="mount", then=RefuseMount(status))]) as registry:
        add_image(registry.repository("base"), "1")
        report = await push(registry, graph, f"{registry.destination('base')}:1")
        assert (report.totals.pushed, report.error) == (1, None)
        below = manifest_at(registry.repository("mine"), "app")["layers"][0]["digest"]
        assert registry.repository("mine").blobs[below] == a_tar("floor")


@pytest.mark.asyncio
async def test_a_base_in_another_registry_is_found_by_its_digest_and_copied(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": []})
    async with FakeRegistry() as other, FakeRegistry() as registry:
        digest = add_image(other.repository("base"))
        report = await push(registry, graph, f"{other.destination('base')}@{digest}")
        assert (report.totals.pushed, report.error) == (1, None)
        below = manifest_at(registry.repository("mine"), "app")["layers"][0]["digest"]
        assert registry.repository("mine").blobs[below] == a_tar("floor")


@pytest.mark.asyncio
async def test_a_large_layer_of_a_base_is_continued_by_the_next_push(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": []})
    size, part, stop = 65 * 1024 * 1024, 20_000_000, anyio.Event()
    async with FakeRegistry() as other, FakeRegistry() as registry:
        add_image(other.repository("base"), "1", contents=[bytes(size)])
        options = uploader.PushOptions(base_image=f"{other.destination('base')}:1", state=tmp_path / "record.db")
        registry.inject(Fault(on="patch", then=Stall(after_bytes=part)))
        sessions = registry.repository("mine").sessions
        async with anyio.create_task_group() as group:
            group.start_soon(partial(uploader.push, str(graph), registry.destination("mine"), options, stop=stop))
            await registry.wait_until(lambda: [one.size for one in sessions.values()] == [part])
            stop.set()
        registry.clear_faults()
        report = await uploader.push(str(graph), registry.destination("mine"), options)
        assert (report.totals.pushed, report.error) == (1, None)
        assert [one.headers["content-range"] for one in registry.requests_of("patch")] == [
            f"0-{size - 1}",
            f"{part}-{size - 1}",
        ]


@pytest.mark.asyncio
async def test_a_layer_that_is_there_is_neither_mounted_nor_copied(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        add_image(registry.repository("base"), "1")
        base = f"{registry.destination('base')}:1"
        await push(registry, write_packages(tmp_path / "one", {"app": []}), base)
        moved = len(registry.requests_of("mount", "put-blob"))
        report = await push(registry, write_packages(tmp_path / "one", {"app": []}), base)
        assert report.totals.present == 1
        assert len(registry.requests_of("mount", "put-blob")) == moved


@pytest.mark.asyncio
async def test_the_platform_is_picked_from_an_index(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": []})
    async with FakeRegistry() as registry:
        repository = registry.repository("base")
        ours = add_image(repository, layers=["for amd64"])
        add_index(repository, "1", {"arm64": add_image(repository, layers=["for arm64"]), "amd64": ours})
        await push(registry, graph, f"{registry.destination('base')}:1")
        below = manifest_at(registry.repository("mine"), "app")["layers"][0]["digest"]
        assert below == json.loads(repository.manifests[ours][1])["layers"][0]["digest"]


@pytest.mark.asyncio
async def test_what_cannot_be_a_base_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": []})
    async with FakeRegistry() as registry:
        repository = registry.repository("base")
        add_index(repository, "arm", {"arm64": add_image(repository)})
        for tag, complaint in (("arm", "nothing for linux/amd64.*linux/arm64"), ("none", "it is not there")):
            with pytest.raises(InputError, match=complaint):
                await push(registry, graph, f"{registry.destination('base')}:{tag}")
        assert registry.requests_of("open", "mount", "put-manifest") == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "settings",
    [[1], "x", 1, {"Env": "PATH=x"}, {"Env": [1]}, {"Env": {"PATH": "x"}}, {"Labels": [1]}, {"Labels": "x"}],
)
async def test_a_base_whose_settings_make_no_sense_is_refused(tmp_path: Path, settings: object) -> None:
    graph = write_packages(tmp_path, {"app": []})
    async with FakeRegistry() as registry:
        add_image(registry.repository("base"), "1", settings=settings)
        with pytest.raises(InputError, match="its config is not the config of an image"):
            await push(registry, graph, f"{registry.destination('base')}:1")
        assert registry.requests_of("open", "mount", "put-manifest") == []


@pytest.mark.asyncio
@pytest.mark.parametrize("settings", [None, {}, {"Env": None, "Labels": None}])
async def test_a_base_may_have_no_settings(tmp_path: Path, settings: object) -> None:
    graph = write_packages(tmp_path, {"app": []})
    async with FakeRegistry() as registry:
        add_image(registry.repository("base"), "1", settings=settings)
        report = await push(registry, graph, f"{registry.destination('base')}:1")
        assert (report.totals.pushed, report.error) == (1, None)


@pytest.mark.asyncio
async def test_a_base_whose_layer_is_gone_ends_the_push_with_its_reason(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": []})
    async with FakeRegistry() as registry:
        add_image(registry.repository("base"), "1")
        registry.inject(Fault(on="mount", then=Answer(403)))
        registry.repository("base").blobs.pop(manifest_at(registry.repository("base"), "1")["layers"][0]["digest"])
        report = await push(registry, graph, f"{registry.destination('base')}:1")
        assert "base image" in str(report.error)
        assert registry.requests_of("put-manifest") == []


@pytest.mark.asyncio
async def test_a_temporary_folder_that_takes_no_layer_of_a_base_is_named(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": []})
    async with FakeRegistry(faults=[Fault(on="mount", then=RefuseMount(202))]) as registry:
        add_image(registry.repository("base"), "1")
        options = uploader.PushOptions(base_image=f"{registry.destination('base')}:1", temp_dir=Path("/proc"))
        report = await uploader.push(str(graph), registry.destination("mine"), options)
        assert "--temp-dir" in str(report.error)
        assert registry.requests_of("put-manifest") == []


@pytest.mark.asyncio
async def test_history_and_settings_of_the_base_are_kept_and_extended(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"lib": [], "app": ["lib"]})
    async with FakeRegistry() as registry:
        add_image(registry.repository("base"), "1", layers=["floor", "wall"])
        await push(registry, graph, f"{registry.destination('base')}:1")
        config = config_at(registry.repository("mine"), "app")
        assert config["config"]["Cmd"] == ["/bin/sh"]
        assert "BASE=1" in config["config"]["Env"]
        assert len(config["history"]) == len(config["rootfs"]["diff_ids"]) == 4
        assert [entry["created_by"] for entry in config["history"][:2]] == ["floor", "wall"]


@pytest.mark.asyncio
async def test_spack_layers_on_a_docker_base_are_in_dockers_format_and_bring_no_parent_folders(
    tmp_path: Path,
) -> None:
    store = unpack_store(tmp_path)
    async with FakeRegistry() as registry:
        add_image(registry.repository("base"), "1", docker=True)
        _, entries = await push_store(registry, store, base_image=f"{registry.destination('base')}:1")
        manifest = manifest_at(registry.repository("cache"), entries["mpileaks"].tag)
        kinds = [entry["mediaType"] for entry in (manifest, manifest["config"], *manifest["layers"])]
        assert all("docker" in kind for kind in kinds)
        assert len(manifest["layers"]) == 7
        assert "annotations" not in manifest
        assert {"opt", "opt/software"}.isdisjoint(
            names_in(registry.repository("cache"), manifest["layers"][-1]["digest"])
        )
        config = config_at(registry.repository("cache"), entries["mpileaks"].tag)
        assert config["binary_cache_checksum"]["hash"] == manifest["layers"][-1]["digest"].removeprefix("sha256:")


@pytest.mark.asyncio
async def test_images_too_deep_to_run_are_pushed_and_said(tmp_path: Path) -> None:
    chain = {"p0": [], **{f"p{n}": [f"p{n - 1}"] for n in range(1, 4)}}
    async with FakeRegistry() as registry:
        add_image(registry.repository("base"), "1", layers=[f"floor {n}" for n in range(125)])
        report = await push(registry, write_packages(tmp_path, chain), f"{registry.destination('base')}:1")
        assert report.totals.pushed == 4
        assert any("more than 127 layers: 2;" in note for note in report.notes)
