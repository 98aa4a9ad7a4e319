"""What a manifest and its config tell by themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.oci.audit import Children, Damage, audit, compression_of, differ, read_stored
from uploader.oci.manifest import ID_ANNOTATION, Manifest, StoredManifest
from uploader.oci.media_types import (
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
)

ONE, TWO = (Digest.of(text) for text in (b"one", b"two"))
OURS = {ID_ANNOTATION: "zlib"}
KEYS = st.sampled_from(
    ["config", "layers", "manifests", "digest", "size", "rootfs", "diff_ids", "Labels", "annotations"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | KEYS, inner, max_size=4),
)


def a_manifest(*layers: Digest, annotations: dict[str, str] = OURS, kind: str = OCI_LAYER_GZIP) -> Manifest:
    descriptors = tuple(Descriptor(kind, digest, 1) for digest in layers)
    return Manifest(OCI_MANIFEST, Descriptor(OCI_CONFIG, Digest.of(b"c"), 1), descriptors, annotations)


def a_config(*diff_ids: Digest, **more: Any) -> bytes:
    return json.dumps({"rootfs": {"diff_ids": [str(one) for one in diff_ids]}, **more}).encode()


def stored(content: bytes) -> StoredManifest:
    return StoredManifest(content, OCI_MANIFEST, Digest.of(content))


def kinds(manifest: Manifest, config: bytes | None) -> list[str]:
    return [damage.kind for damage in audit(manifest, config).damage]


def test_what_fits_has_no_damage() -> None:
    found = audit(a_manifest(ONE, TWO), a_config(TWO, ONE, os="linux", architecture="arm64"))
    assert (found.maker, found.id, found.damage) == ("uploader", "zlib", ())
    assert found.diff_ids == (str(TWO), str(ONE))
    assert found.platform == "linux/arm64/"


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (None, "config-missing"),
        (b"no JSON", "config-broken"),
        (b"[]", "config-broken"),
        (a_config(ONE), "diff-ids"),
        (b'{"rootfs": {"diff_ids": 2}}', "diff-ids"),
        (b'{"rootfs": [], "config": []}', "diff-ids"),
        (b"{}", "diff-ids"),
    ],
)
def test_a_config_that_does_not_fit_is_damage(config: bytes | None, kind: str) -> None:
    assert kinds(a_manifest(ONE, TWO), config) == [kind]
    assert audit(a_manifest(ONE, TWO), config).diff_ids == ()


def test_the_diff_id_of_an_uncompressed_layer_is_its_digest() -> None:
    assert kinds(a_manifest(ONE, TWO, kind=OCI_LAYER), a_config(ONE, ONE)) == ["wrong-diff-id"]
    assert kinds(a_manifest(ONE, kind=OCI_LAYER), a_config(Digest("sha512", "0" * 128))) == []


def test_what_others_made_has_no_damage() -> None:
    theirs = a_manifest(ONE, TWO, annotations={})
    assert audit(theirs, b"{}").maker == "other"
    assert kinds(theirs, b"{}") == kinds(theirs, None) == []


def test_spacks_own_is_known_by_its_config_or_else_by_its_tag() -> None:
    theirs = a_manifest(ONE, TWO, annotations={})
    assert audit(theirs, a_config(ONE, TWO, buildcache_layout_version=2)).maker == "spack"
    assert [damage.kind for damage in audit(theirs, None, looks_like="spack").damage] == ["config-missing"]


def test_docker_labels_stand_for_annotations() -> None:
    missing = json.dumps([{"id": "m", "tag": "m", "why": "failed", "index": 0}])
    labels = {ID_ANNOTATION: "zlib", "dev.uploader.missing": missing}
    theirs = Manifest(DOCKER_MANIFEST, Descriptor("", ONE, 1), (Descriptor(DOCKER_LAYER_GZIP, TWO, 1),), {})
    found = audit(theirs, a_config(ONE, config={"Labels": labels}))
    assert (found.maker, found.id, [one.id for one in found.missing]) == ("uploader", "zlib", ["m"])
    assert kinds(theirs, None) == ["config-missing"], "without its config nobody can say that it is not ours"


def test_an_index_names_its_children() -> None:
    entries = [{"digest": str(ONE)}, {"digest": "nonsense"}, 7, {"digest": str(TWO)}]
    assert read_stored(stored(json.dumps({"manifests": entries}).encode())) == Children((ONE, TWO))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"7", b'{"config": {}, "layers": []}', b"[" * 100_000])
def test_what_is_no_manifest_is_damage(content: bytes) -> None:
    found = read_stored(stored(content))
    assert isinstance(found, Damage)
    assert found.kind == "manifest-broken"


def test_other_documents_are_no_damage() -> None:
    assert read_stored(stored(b'{"schemaVersion": 1, "fsLayers": []}')) is None


@given(JSON, JSON)
def test_no_document_makes_it_fail(manifest: object, config: object) -> None:
    read_stored(stored(json.dumps(manifest).encode()))
    audit(a_manifest(ONE), json.dumps(config).encode())


def test_compression_is_told_by_the_media_type() -> None:
    types = [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER_GZIP, "application/json", "x.tar+xz"]
    assert [compression_of(one) for one in types] == ["none", "gzip", "zstd", "gzip", None, None]


def test_digests_by_different_algorithms_do_not_differ() -> None:
    assert differ(str(ONE), str(TWO))
    assert not differ(str(ONE), str(ONE))
    assert not differ(str(ONE), "sha512:00")
