"""Whole pushes, through the library's front door, against a registry that fails on demand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import uploader
from uploader import PushOptions, Report
from uploader.errors import InputError
from uploader.model.digest import Digest
from uploader.oci.media_types import OCI_CONFIG
from uploader.testing import Answer, FakeRegistry, Fault, Hold, Recorded, StoredRepository, write_graph
from uploader.testing.packages import a_tar, layers_at, manifest_at, write_packages

if TYPE_CHECKING:
    from uploader.service.report import PackageEntry

NAME = "org/cache"
CHAIN = {"app": ["lib"], "lib": ["libc"], "libc": []}


async def push(registry: FakeRegistry, graph: Path, stop: anyio.Event | None = None, **options: Any) -> Report:
    return await uploader.push(str(graph), registry.destination(NAME), PushOptions(**options), stop=stop)


def digest_of(key: str) -> str:
    return str(Digest.of(a_tar(key)))


def about(key: str) -> str:
    """For `Fault(match=…)`: the blob of a package."""
    return f" {digest_of(key)}$"


def outcomes(report: Report) -> dict[str, str]:
    return {entry.id: entry.outcome for entry in report.packages}


def entry_of(report: Report, key: str) -> PackageEntry:
    return next(entry for entry in report.packages if entry.id == key)


def holdings(repository: StoredRepository) -> dict[str, bytes]:
    """The manifest at each tag, byte for byte."""
    return {tag: repository.manifests[digest][1] for tag, digest in repository.tags.items()}


async def holdings_of_clean_push(graph: Path, **options: Any) -> dict[str, bytes]:
    async with FakeRegistry() as registry:
        await push(registry, graph, **options)
        return holdings(registry.repository(NAME))


def wipe(repository: StoredRepository) -> None:
    for held in (repository.blobs, repository.manifests, repository.tags, repository.sizes):
        held.clear()
    repository.had_manifest = False


def sent(requests: list[Recorded]) -> list[str]:
    """The digests of blobs that were sent and taken."""
    return [one.reference for one in requests if one.kind == "put-blob" and one.status == 201]


# -- the order of layers, and best effort


@pytest.mark.asyncio
async def test_layers_go_dependencies_first_and_the_own_last(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": ["z", "b"], "z": ["a"], "b": ["a"], "a": []})
    async with FakeRegistry() as registry:
        report = await push(registry, graph)
        assert layers_at(registry.repository(NAME), "app", ["a", "app", "b", "z"]) == ["a", "b", "z", "app"]
        assert set(outcomes(report).values()) == {"pushed"}


@pytest.mark.asyncio
async def test_best_effort_and_its_repair(tmp_path: Path) -> None:
    """Two of 45 packages are refused for good; the next push, without the faults, leaves what a clean one does."""
    graph = write_graph(tmp_path, 45, seed=7)
    packages = json.loads(graph.read_text())["packages"]
    blob, manifest = _much_needed(packages)
    digest = str(Digest.of((tmp_path / blob["blob"]["path"]).read_bytes()))
    refusals = [
        Fault(on="put-blob", match=f" {digest}$", then=Answer(403)),
        Fault(on="put-manifest", match=f" {manifest['name']}-", then=Answer(400)),
    ]
    async with FakeRegistry(faults=refusals) as registry:
        repository = registry.repository(NAME)
        report = await push(registry, graph)
        _check_two_failures(report, blob["id"], manifest["id"])
        _check_dependents(report, repository, packages, blob["id"], digest)
        before = registry.requests

        registry.clear_faults()
        repaired = await push(registry, graph)
        after = registry.requests[len(before) :]
        assert repaired.totals.failed == repaired.totals.incomplete == 0
        assert not {*sent(before)} & {*sent(after)}
        assert holdings(repository) == await holdings_of_clean_push(graph)
        touched = {entry.id for entry in repaired.packages if entry.outcome == "pushed"}
        assert touched == {blob["id"], manifest["id"], *_dependents(packages, blob["id"])}


def _much_needed(packages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two ready blobs with many dependents, neither of which needs the other."""
    ready = [package for package in packages if "blob" in package]
    ready.sort(key=lambda package: -len(_dependents(packages, package["id"])))
    first = ready[0]
    second = next(one for one in ready[1:] if one["id"] not in _dependents(packages, first["id"]))
    assert len(_dependents(packages, second["id"])) >= 2
    return [first, second]


def _dependents(packages: list[dict[str, Any]], key: str) -> set[str]:
    found = {key}
    for package in packages:  # each comes after what it needs
        if found & {*package["dependencies"]}:
            found.add(package["id"])
    return found - {key}


def _check_two_failures(report: Report, blob: str, manifest: str) -> None:
    errors = {entry.id: entry.error for entry in report.packages if entry.error}
    assert {key: (error.stage, error.kind, error.status, error.attempts) for key, error in errors.items()} == {
        blob: ("blob", "auth", 403, 1),
        manifest: ("manifest", "registry", 400, 1),
    }
    assert report.totals.failed == 2
    assert report.totals.pushed == len(report.packages) - 2


def _check_dependents(
    report: Report, repository: StoredRepository, packages: list[dict[str, Any]], blob: str, digest: str
) -> None:
    """Those that have a manifest name every layer of their closure, or say that it is missing; and only one is."""
    dependents = _dependents(packages, blob)
    digests = {entry.id: entry.blob.digest for entry in report.packages if entry.blob}
    for entry in report.packages:
        if entry.outcome == "failed":
            continue
        document = manifest_at(repository, entry.tag)
        named = [layer["digest"] for layer in document["layers"]]
        needed = {p["id"] for p in packages if entry.id in _dependents(packages, p["id"])} - {blob}
        assert {*named} == {digests[key] for key in needed} | {digests[entry.id]}
        assert named[-1] == digests[entry.id]
        assert digest not in named
        said = json.loads(document["annotations"].get("dev.uploader.missing", "[]"))
        wanted = [(blob, "failed")] if entry.id in dependents else []
        assert [(one["id"], one["why"]) for one in said] == wanted
        assert [(one.id, one.why) for one in entry.missing] == wanted


@pytest.mark.asyncio
async def test_there_is_no_barrier(tmp_path: Path) -> None:
    """While one blob is held back, all that do not need it get their manifests."""
    graph = write_packages(tmp_path, {**CHAIN, "slow": [], "needs-slow": ["slow"], "lone": []})
    release = anyio.Event()
    held = Fault(on="put-blob", match=about("slow"), then=Hold(release))
    async with FakeRegistry(faults=[held]) as registry, anyio.create_task_group() as group:
        group.start_soon(push, registry, graph)
        tags = registry.repository(NAME).tags
        await registry.wait_until(lambda: {*tags} == {"app", "lib", "libc", "lone"})
        release.set()
        await registry.wait_until(lambda: len(tags) == 6)


@pytest.mark.asyncio
async def test_a_dependency_of_another_platform_is_left_out(tmp_path: Path) -> None:
    arm = {"platform": {"os": "linux", "architecture": "arm64"}}
    graph = write_packages(tmp_path, CHAIN, keys={"lib": arm})
    async with FakeRegistry() as registry:
        report = await push(registry, graph)
        assert layers_at(registry.repository(NAME), "app", CHAIN) == ["libc", "app"]
        assert layers_at(registry.repository(NAME), "lib", CHAIN) == ["lib"]
        assert [(one.id, one.why) for one in entry_of(report, "app").gaps] == [("lib", "other-platform")]
        config = manifest_at(registry.repository(NAME), "lib")["config"]["digest"]
        assert json.loads(registry.repository(NAME).blobs[config])["architecture"] == "arm64"


@pytest.mark.asyncio
async def test_an_unknown_id_is_a_gap_in_its_place(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": ["lib", "gone", "a"], "lib": [], "a": []})
    async with FakeRegistry() as registry:
        report = await push(registry, graph)
        annotations = manifest_at(registry.repository(NAME), "app")["annotations"]
        missing = json.loads(annotations["dev.uploader.missing"])
        assert missing == [{"id": "gone", "tag": None, "why": "unknown-id", "index": 1}]
        assert report.totals.incomplete == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("options", [{}, {"select": ("app",), "only": ("package",)}])
async def test_strict_refuses_unknown_ids_anywhere_below_before_anything_is_sent(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    graph = write_packages(tmp_path, {"app": ["lib"], "lib": ["gone"]})
    async with FakeRegistry() as registry:
        with pytest.raises(InputError, match="'lib' depends on 'gone', which is not in the graph"):
            await push(registry, graph, strict=True, **options)
        assert registry.requests == []


@pytest.mark.asyncio
async def test_strict_does_not_mind_unknown_ids_of_what_nobody_asked_for(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": [], "other": ["gone"]})
    async with FakeRegistry() as registry:
        report = await push(registry, graph, strict=True, select=("app",))
        assert outcomes(report) == {"app": "pushed", "other": "left-out"}


# -- what is there already


@pytest.mark.asyncio
async def test_an_empty_repository_is_asked_for_no_tag(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        await push(registry, write_packages(tmp_path, CHAIN))
        assert {one.kind for one in registry.requests} == {"tags", "open", "put-blob", "put-manifest"}
        assert len(registry.requests_of("tags")) == 1


@pytest.mark.asyncio
async def test_a_second_push_costs_one_head_for_each_package(tmp_path: Path) -> None:
    graph, state = write_packages(tmp_path, CHAIN), tmp_path / "state.sqlite"
    async with FakeRegistry() as registry:
        await push(registry, graph, state=state)
        before = len(registry.requests)
        report = await push(registry, graph, state=state)
        again = sorted((one.kind, one.reference) for one in registry.requests[before:])
        assert again == [*(("head-manifest", key) for key in sorted(CHAIN)), ("tags", "")]
        assert set(outcomes(report).values()) == {"present"}
        assert report.totals.requests == len(again)


@pytest.mark.asyncio
async def test_without_a_record_a_second_push_sends_nothing_either(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        await push(registry, graph)
        before = len(registry.requests)
        report = await push(registry, graph)
        assert {one.method for one in registry.requests[before:]} == {"GET", "HEAD"}
        assert set(outcomes(report).values()) == {"present"}


@pytest.mark.asyncio
async def test_a_wiped_repository_is_filled_again(tmp_path: Path) -> None:
    graph, state = write_packages(tmp_path, CHAIN), tmp_path / "state.sqlite"
    async with FakeRegistry() as registry:
        repository = registry.repository(NAME)
        await push(registry, graph, state=state)
        full = holdings(repository)
        wipe(repository)
        report = await push(registry, graph, state=state)
        assert holdings(repository) == full
        assert {(entry.outcome, entry.blob.how) for entry in report.packages if entry.blob} == {("pushed", "uploaded")}


@pytest.mark.asyncio
async def test_a_blob_on_record_that_is_gone_is_asked_for_once(tmp_path: Path) -> None:
    """The prefix has been at rest for long, so its layer is on record; the repository knows nothing of it any more."""
    old = {"blob": None, "prefix": str(Path(json.__file__).parent), "at": "/opt/json"}
    graph, state = write_packages(tmp_path, {"app": []}, keys={"app": old}), tmp_path / "state.sqlite"
    async with FakeRegistry() as registry:
        repository = registry.repository(NAME)
        await push(registry, graph, state=state)
        layer = manifest_at(repository, "app")["layers"][0]["digest"]
        wipe(repository)
        before = len(registry.requests)
        await push(registry, graph, state=state)
        kinds = [one.kind for one in registry.requests[before:] if one.reference == layer]
        assert kinds == ["head-blob", "put-blob"]


@pytest.mark.asyncio
async def test_a_layer_is_found_in_another_compression(tmp_path: Path) -> None:
    (tmp_path / "old.tar.gz").write_bytes(gzip.compress(a_tar("lib")))
    old = write_packages(tmp_path, {"lib": []}, keys={"lib": {"blob": {"path": "old.tar.gz"}}})
    async with FakeRegistry() as registry:
        await push(registry, old)
        compressed = manifest_at(registry.repository(NAME), "lib")["layers"][0]
        before = len(registry.requests)
        report = await push(registry, write_packages(tmp_path, {"app": ["lib"], "lib": []}))
        assert digest_of("lib") not in sent(registry.requests[before:])
        assert manifest_at(registry.repository(NAME), "app")["layers"][0] == compressed
        assert outcomes(report) == {"app": "pushed", "lib": "present"}


@pytest.mark.asyncio
async def test_a_manifest_that_names_a_layer_in_another_compression_is_kept(tmp_path: Path) -> None:
    """The incomplete push could name two layers; what is there names three, one of them compressed."""
    needs = {"app": ["lib", "x"], "lib": [], "x": []}
    (tmp_path / "old.tar.gz").write_bytes(gzip.compress(a_tar("lib")))
    old = write_packages(tmp_path, needs, keys={"lib": {"blob": {"path": "old.tar.gz"}}})
    async with FakeRegistry() as registry:
        await push(registry, old)
        graph = write_packages(tmp_path, needs)
        await push(registry, graph, force=True, select=("lib",))
        there = holdings(registry.repository(NAME))["app"]
        (tmp_path / "x.tar").unlink()
        report = await push(registry, graph)
        assert outcomes(report) == {"app": "present", "lib": "present", "x": "failed"}
        assert holdings(registry.repository(NAME))["app"] == there


@pytest.mark.asyncio
async def test_what_a_kept_manifest_lacks_is_reported_by_name(tmp_path: Path) -> None:
    """`x` was missing then; `x` and `y` are now, so what is there is kept, and lacks `x` alone."""
    needs = {"app": ["x", "y"], "x": [], "y": []}
    graph = write_packages(tmp_path, needs, keys={"x": {"name": "xylophone"}})
    (tmp_path / "x.tar").unlink()
    async with FakeRegistry() as registry:
        await push(registry, graph)
        (tmp_path / "y.tar").unlink()
        app = entry_of(await push(registry, graph), "app")
        assert app.outcome == "present"
        assert [(one.id, one.name, one.why) for one in app.missing] == [("x", "xylophone", "failed")]


# -- no harm


@pytest.mark.asyncio
async def test_no_push_takes_layers_away(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        await push(registry, graph)
        full = holdings(registry.repository(NAME))
        report = await push(registry, graph, select=("app", "lib"), only=("package",))
        assert outcomes(report) == {"app": "present", "lib": "present", "libc": "left-out"}
        (tmp_path / "lib.tar").unlink()
        report = await push(registry, graph)
        assert outcomes(report) == {"app": "present", "lib": "failed", "libc": "present"}
        assert entry_of(report, "lib").error.stage == "read"  # type: ignore[union-attr]
        assert holdings(registry.repository(NAME)) == full


@pytest.mark.asyncio
async def test_what_was_left_out_by_choice_is_named_after_the_next_full_push(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        report = await push(registry, graph, only=("package",))
        assert layers_at(registry.repository(NAME), "app", CHAIN) == ["app"]
        assert [(one.id, one.why) for one in entry_of(report, "app").missing] == [
            ("libc", "not-selected"),
            ("lib", "not-selected"),
        ]
        assert report.totals.incomplete == 0
        await push(registry, graph)
        assert holdings(registry.repository(NAME)) == await holdings_of_clean_push(graph)


@pytest.mark.asyncio
async def test_a_choice_that_is_a_gap_now_is_said_to_be_one(tmp_path: Path) -> None:
    """Found by the torture: what an earlier push had excluded hid that it may not be pushed at all."""
    graph = write_packages(tmp_path, {"app": ["lib"], "lib": []}, keys={"lib": {"push": False}})
    async with FakeRegistry() as registry:
        assert (await push(registry, graph, exclude=("lib",))).totals.incomplete == 0
        app = entry_of(await push(registry, graph), "app")
        assert [(one.id, one.why) for one in app.missing] == [("lib", "not-redistributable")]
        assert holdings(registry.repository(NAME)) == await holdings_of_clean_push(graph)
        again = await push(registry, graph, exclude=("lib",))
        assert [one.why for one in entry_of(again, "app").missing] == ["not-redistributable"], "never back"


@pytest.mark.asyncio
async def test_only_package_asks_nothing_about_dependencies(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {**CHAIN, "other": []})
    async with FakeRegistry() as registry:
        await push(registry, graph, select=("other",))
        before = len(registry.requests)
        await push(registry, graph, select=("app",), only=("package",))
        config = manifest_at(registry.repository(NAME), "app")["config"]["digest"]
        asked = sorted((one.kind, one.reference) for one in registry.requests[before:])
        assert asked == sorted(
            [
                ("tags", ""),
                ("head-manifest", "app"),
                ("head-manifest", "app"),  # once more before it is written: it may name more by now
                ("mount", digest_of("app")),
                ("put-blob", digest_of("app")),
                ("mount", config),
                ("put-blob", config),
                ("put-manifest", "app"),
            ]
        )


@pytest.mark.asyncio
async def test_an_incomplete_manifest_never_replaces_one_with_more_layers_save_by_force(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        await push(registry, graph)
        full = holdings(registry.repository(NAME))["app"]
        (tmp_path / "libc.tar").write_bytes(a_tar("another"))
        (tmp_path / "lib.tar").unlink()

        report = await push(registry, graph)
        assert outcomes(report) == {"app": "failed", "lib": "failed", "libc": "pushed"}
        assert "a manifest of 3 layers, and this push could name only 2" in entry_of(report, "app").error.message  # type: ignore[union-attr]
        assert holdings(registry.repository(NAME))["app"] == full

        report = await push(registry, graph, force=True)
        assert outcomes(report) == {"app": "pushed", "lib": "failed", "libc": "pushed"}
        assert layers_at(registry.repository(NAME), "app", ["another", "app"]) == ["another", "app"]


@pytest.mark.asyncio
@pytest.mark.parametrize("before", ["empty", "filled"])
async def test_a_fuller_manifest_that_somebody_else_wrote_meanwhile_is_kept(tmp_path: Path, before: str) -> None:
    """The tag is not there yet, and then somebody writes it while the only blob of ours is on its way."""
    graph = write_packages(tmp_path, {**CHAIN, "other": []})
    full = await holdings_of_clean_push(graph)
    release = anyio.Event()
    held = Fault(on="put-blob", match=about("app"), then=Hold(release), times=1)
    async with FakeRegistry(faults=[held]) as registry, anyio.create_task_group() as group:
        if before == "filled":
            await push(registry, graph, select=("other",))
        sent_before = len(registry.requests_of("put-blob"))
        group.start_soon(_push_app_alone, registry, graph)
        await registry.wait_started("put-blob", sent_before + 1)
        registry.repository(NAME).add_manifest(full["app"], "app")
        release.set()
    assert holdings(registry.repository(NAME))["app"] == full["app"]


async def _push_app_alone(registry: FakeRegistry, graph: Path) -> None:
    report = await push(registry, graph, select=("app",), only=("package",))
    assert outcomes(report)["app"] == "present"


@pytest.mark.asyncio
async def test_a_tag_that_is_not_ours_is_left_alone_save_by_force(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"app": ["lib"], "lib": []})
    async with FakeRegistry() as registry:
        repository = registry.repository(NAME)
        config = {"mediaType": OCI_CONFIG, "digest": repository.add_blob(b"{}"), "size": 2}
        content = json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()
        repository.add_manifest(content, "lib")

        report = await push(registry, graph)
        assert outcomes(report) == {"app": "pushed", "lib": "failed"}
        error = entry_of(report, "lib").error
        assert error is not None
        assert (error.stage, error.kind) == ("manifest", "registry")
        assert "neither uploader nor Spack made; use --force" in error.message
        assert holdings(repository)["lib"] == content
        assert layers_at(repository, "app", ["app", "lib"]) == ["lib", "app"]

        report = await push(registry, graph, force=True)
        assert outcomes(report) == {"app": "pushed", "lib": "pushed"}
        assert holdings(repository) == await holdings_of_clean_push(graph)


@pytest.mark.asyncio
async def test_force_sends_no_blob_again(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, CHAIN)
    async with FakeRegistry() as registry:
        await push(registry, graph)
        before = len(registry.requests)
        report = await push(registry, graph, force=True)
        again = registry.requests[before:]
        assert sent(again) == []
        assert [one.kind for one in again].count("put-manifest") == 3
        assert not {"head-manifest", "get-manifest"} & {one.kind for one in again}
        assert {entry.blob.how for entry in report.packages if entry.blob} == {"present"}


@pytest.mark.asyncio
async def test_a_kept_tag_that_would_be_made_otherwise_is_said(tmp_path: Path) -> None:
    """Its layers are right, so it is present; that its environment is another is for the user to know."""
    graph = write_packages(tmp_path, {"app": []})
    async with FakeRegistry() as registry:
        await uploader.push(str(graph), registry.destination("cache"))
        document = json.loads(graph.read_text())
        document["packages"][0]["env"] = {"NEW": "1"}
        graph.write_text(json.dumps(document))
        report = await uploader.push(str(graph), registry.destination("cache"))
        assert report.totals.present == 1
        assert any("--force" in note for note in report.notes)
        await uploader.push(str(graph), registry.destination("cache"), uploader.PushOptions(force=True))
        assert (await uploader.push(str(graph), registry.destination("cache"))).notes == ()
