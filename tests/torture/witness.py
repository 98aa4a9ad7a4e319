"""The witness: looks into a registry's storage, by its own reading of the rule, and believes no word of the client."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import zstandard

from uploader.testing import StoredRepository

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SENT = ("pushed", "present")


@dataclass(slots=True)
class WatchedRepository(StoredRepository):
    """A repository that notes what nobody can see afterwards.

    `too_early`: manifests that came when a blob they name was not there. `narrowed`: manifests that took the place of
    one with more layers.
    """

    too_early: list[str] = field(default_factory=list)
    narrowed: list[str] = field(default_factory=list)

    def add_manifest(self, content: bytes, *tags: str, media_type: str = "") -> str:
        named = _descriptors(json.loads(content))
        absent = [descriptor["digest"] for descriptor in named if descriptor["digest"] not in self.blobs]
        if absent:
            self.too_early.append(f"manifest at {tags} came before {absent}")
        for tag in tags:
            before = len(json.loads(self.manifests[self.tags[tag]][1])["layers"]) if tag in self.tags else 0
            if before >= len(named):  # one of those is the config
                self.narrowed.append(f"{tag}: {len(named) - 1} layers in place of {before}")
        return StoredRepository.add_manifest(self, content, *tags, media_type=media_type)


def problems_of(repository: StoredRepository, graph: Mapping[str, Any]) -> list[str]:
    """What is wrong with what the repository holds, whatever was reported of it."""
    found = list(repository.too_early) if isinstance(repository, WatchedRepository) else []
    for digest, content in repository.blobs.items():
        if digest != sha256(content):
            found.append(f"blob {digest} is not what it is called")
    for digest, (_, content) in repository.manifests.items():
        if digest != sha256(content):
            found.append(f"manifest {digest} is not what it is called")
        found += [f"manifest {digest}: {problem}" for problem in _problems_inside(content, repository)]
    for tag, digest in repository.tags.items():
        if digest not in repository.manifests:
            found.append(f"tag {tag} points at nothing")
            continue
        found += [f"tag {tag}: {problem}" for problem in _problems_of_order(tag, digest, repository, graph)]
    return found


def untruths(report: Mapping[str, Any], repository: StoredRepository, graph: Mapping[str, Any]) -> list[str]:
    """What a report says that the registry's storage does not bear out."""
    found = []
    entries = report["packages"]
    if sorted(entry["id"] for entry in entries) != sorted(package["id"] for package in graph["packages"]):
        found.append("the report does not name every package once")
    lacking = {entry["id"]: entry.get("why") or "failed" for entry in entries if "blob" not in entry}
    for entry in entries:
        problems = _untruths_of(entry, repository)
        if entry["outcome"] == "pushed":
            said = {missing["id"]: missing["why"] for missing in entry["missing"]}
            wrong = {key: why for key, why in said.items() if why != lacking.get(key, "unknown-id")}
            problems += [f"said to be missing, and why: {wrong}"] if wrong else []
        found += [f"report of {entry['id']}: {problem}" for problem in problems]
    outcomes = [entry["outcome"] for entry in entries]
    for outcome in ("pushed", "present", "failed", "left-out", "interrupted"):
        said = report["totals"][outcome.replace("-", "_")]
        if said != outcomes.count(outcome):
            found.append(f"{said} are said to be {outcome}, {outcomes.count(outcome)} are")
    return found


def _untruths_of(entry: Mapping[str, Any], repository: StoredRepository) -> list[str]:
    if entry["outcome"] == "failed":
        return [] if entry.get("error") else ["failed without a word why"]
    if entry["outcome"] not in _SENT:
        return [] if entry.get("why") else ["no word why"]
    digest = entry["manifest"]["digest"]
    if repository.tags.get(entry["tag"]) != digest:
        return [f"{entry['outcome']}, but the tag points at {repository.tags.get(entry['tag'])}"]
    found = []
    content = repository.manifests[digest][1]
    manifest = json.loads(content)
    if entry["manifest"]["size"] != len(content):
        found.append("the size of the manifest is another")
    own = manifest["layers"][-1]
    blob = entry["blob"]
    if (blob["digest"], blob["size"]) != (own["digest"], own["size"]):
        found.append(f"its blob is {blob['digest']}, and the manifest's is {own['digest']}")
    if blob["digest"] in repository.blobs and blob["diff_id"] != _diff_id(repository.blobs[blob["digest"]]):
        found.append("its diff_id is wrong")
    said = {(missing["id"], missing["why"]) for missing in entry["missing"]}
    if said != {(missing["id"], missing["why"]) for missing in _missing(manifest)}:
        found.append(f"said to be missing: {said}; the manifest says {_missing(manifest)}")
    return found


def _problems_inside(content: bytes, repository: StoredRepository) -> list[str]:
    manifest = json.loads(content)
    found = []
    for descriptor in _descriptors(manifest):
        blob = repository.blobs.get(descriptor["digest"])
        if blob is None:
            found.append(f"names the absent blob {descriptor['digest']}")
        elif len(blob) != descriptor["size"]:
            found.append(f"says {descriptor['size']} bytes of {descriptor['digest']}, which has {len(blob)}")
    if not found:
        config = json.loads(repository.blobs[manifest["config"]["digest"]])
        true = [_diff_id(repository.blobs[layer["digest"]]) for layer in manifest["layers"]]
        if config["rootfs"]["diff_ids"] != true:
            found.append(f"its diff_ids are {config['rootfs']['diff_ids']}, and should be {true}")
    return found


def _problems_of_order(tag: str, digest: str, repository: StoredRepository, graph: Mapping[str, Any]) -> list[str]:
    """Rules 5 and 8: each layer in its place, and every one that is not there is said to be missing, in its place."""
    manifest = json.loads(repository.manifests[digest][1])
    packages = {package["id"]: package for package in graph["packages"]}
    root = next(key for key in packages if _tag_of(packages[key]) == tag)
    if manifest["annotations"]["dev.uploader.id"] != root:
        return [f"it is {manifest['annotations']['dev.uploader.id']}'s"]
    order = _post_order(packages, root)
    missing = {entry["index"]: entry["id"] for entry in _missing(manifest)}
    if any(index >= len(order) or order[index] != key for index, key in missing.items()):
        return [f"missing are {missing}, in an order of {order}"]
    there = [key for index, key in enumerate(order) if index not in missing]
    wanted = [graph["diff_ids"].get(key) for key in there]
    blobs = [repository.blobs.get(layer["digest"]) for layer in manifest["layers"]]
    named = [_diff_id(blob) if blob is not None else None for blob in blobs]
    return [] if named == wanted else [f"names {named}, and should name {wanted}, of {there}"]


def _post_order(packages: Mapping[str, Any], root: str) -> list[str]:
    order: list[str] = []

    def visit(key: str) -> None:
        if key in order:
            return
        children = set(packages[key]["dependencies"]) if key in packages else set()
        for child in sorted(children, key=lambda one: (packages[one]["name"] if one in packages else one, one)):
            visit(child)
        order.append(key)

    visit(root)
    return order


def _tag_of(package: Mapping[str, Any]) -> str:
    return f"{package['name']}-{package['version']}-{package['id']}"


def _missing(manifest: Mapping[str, Any]) -> list[Any]:
    missing: list[Any] = json.loads(manifest["annotations"].get("dev.uploader.missing", "[]"))
    return missing


def _descriptors(manifest: Mapping[str, Any]) -> Sequence[Any]:
    return [manifest["config"], *manifest["layers"]]


def sha256(content: bytes) -> str:
    """As digests are written."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@cache
def _diff_id(layer: bytes) -> str:
    return sha256(unpacked(layer))


def unpacked(layer: bytes) -> bytes:
    """The tar within, by its first bytes."""
    if layer.startswith(b"\x1f\x8b"):
        return gzip.decompress(layer)
    if layer.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(layer)
    return layer
