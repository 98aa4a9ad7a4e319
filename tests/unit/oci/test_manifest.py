"""Manifests, configs and tag lists: to bytes and back, and whatever else a registry may hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.model.outcome import Missing
from uploader.model.package import Package, PackageId, Platform
from uploader.model.reference import Tag
from uploader.oci.http import Response
from uploader.oci.image_config import DEFAULT_PATH, diff_ids_of, image_config
from uploader.oci.manifest import (
    ID_ANNOTATION,
    MISSING_ANNOTATION,
    Manifest,
    StoredManifest,
    config_descriptor,
    is_docker,
    manifest_bytes,
    missing_annotation,
    parse_manifest,
    parse_missing,
)
from uploader.oci.media_types import DOCKER_MANIFEST, LAYER_TYPE, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from uploader.oci.presence import existing_manifest
from uploader.oci.tag_list import next_page, tags_of
from uploader.packing.codecs import CODECS

EPOCH = "1970-01-01T00:00:00Z"

digests = st.binary(max_size=4).map(Digest.of)
descriptors = st.builds(Descriptor, st.sampled_from(list(LAYER_TYPE.values())), digests, st.integers(0, 2**60))
names = st.text(min_size=1, max_size=12)
pairs = st.dictionaries(names, st.text(max_size=12), max_size=4)
missings = st.builds(
    Missing,
    names.map(PackageId),
    st.just(""),
    st.none() | st.just(Tag("zlib-1.3.1")),
    st.sampled_from(["failed", "not-installed", "not-redistributable", "unknown-id", "other-platform", "not-selected"]),
    st.integers(0, 1000),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("config", "layers", "annotations", "mediaType", "manifests", "digest", "size", "rootfs", "diff_ids", "Labels")
odd_documents: st.SearchStrategy[Any] = st.recursive(
    json_values, lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5) | st.lists(inner, max_size=2)
)


def stored(content: bytes, media_type: str = OCI_MANIFEST) -> StoredManifest:
    return StoredManifest(content, media_type, Digest.of(content))


def a_package(**more: Any) -> Package:
    return Package(PackageId("zlib"), "zlib", "1.3.1", Tag("zlib-1.3.1"), None, **more)


class TestManifest:
    @given(descriptors, st.lists(descriptors, max_size=4), pairs)
    def test_what_is_written_is_read(
        self, config: Descriptor, layers: list[Descriptor], annotations: dict[str, str]
    ) -> None:
        content = manifest_bytes(config, layers, annotations)
        assert parse_manifest(stored(content)) == Manifest(OCI_MANIFEST, config, tuple(layers), annotations)

    @given(pairs)
    def test_the_same_content_makes_the_same_bytes(self, annotations: dict[str, str]) -> None:
        backwards = dict(reversed(annotations.items()))
        config = config_descriptor(b"{}")
        assert manifest_bytes(config, [], annotations) == manifest_bytes(config, [], backwards)

    def test_bytes_are_as_they_ever_were(self) -> None:
        """A change here changes the digest of every manifest that was ever pushed."""
        config = config_descriptor(b"{}")
        layer = Descriptor(OCI_LAYER_GZIP, Digest("sha256", "a" * 64), 5)
        content = manifest_bytes(config, [layer], {"b": "é", "a": "1"}).decode()
        assert content == (
            '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
            '"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":'
            '"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},'
            '"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:'
            + "a" * 64
            + '","size":5}],"annotations":{"a":"1","b":"é"}}'
        )

    def test_dockers_format_has_no_annotations(self) -> None:
        content = manifest_bytes(config_descriptor(b"{}"), [], {"a": "1"}, media_type=DOCKER_MANIFEST)
        manifest = parse_manifest(stored(content, DOCKER_MANIFEST))
        assert manifest is not None
        assert is_docker(manifest)
        assert manifest.annotations == {}

    def test_text_that_is_no_unicode_is_escaped(self) -> None:
        content = manifest_bytes(config_descriptor(b"{}"), [], {"a": "\ud800"})
        manifest = parse_manifest(stored(content))
        assert manifest is not None
        assert manifest.annotations == {"a": "\ud800"}

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"not JSON",
            b"[]",
            b"{}",
            b'{"manifests": []}',
            b'{"config": {}, "layers": []}',
            b'{"config": {"digest": "sha256:12", "size": 1}, "layers": []}',
            b"[" * 100_000,
            b"\xff",
        ],
    )
    def test_what_is_no_image_manifest_is_none(self, content: bytes) -> None:
        assert parse_manifest(stored(content)) is None

    @pytest.mark.parametrize("size", [-1, "5", 1.5, None])
    def test_a_size_is_a_whole_number(self, size: object) -> None:
        digest = str(Digest.of(b""))
        content = json.dumps({"config": {"digest": digest, "size": size}, "layers": []}).encode()
        assert parse_manifest(stored(content)) is None

    @given(odd_documents | st.binary())
    def test_anything_is_read_without_an_error(self, document: object) -> None:
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        manifest = parse_manifest(stored(content))
        whole = manifest or Manifest("", config_descriptor(b""), (), {MISSING_ANNOTATION: content.decode("latin-1")})
        assert isinstance(whole.missing, tuple)
        existing_manifest(config_descriptor(content), whole, content)
        diff_ids_of(content)
        tags_of(Response(200, body=content))


class TestMissing:
    @given(st.lists(missings, max_size=4))
    def test_what_is_written_is_read(self, missing: list[Missing]) -> None:
        annotation = missing_annotation(missing)
        read = parse_missing(annotation.get(MISSING_ANNOTATION, "[]"))
        assert [(m.id, m.tag, m.why, m.index) for m in read] == [(m.id, m.tag, m.why, m.index) for m in missing]

    def test_it_goes_through_a_manifest(self) -> None:
        missing = (Missing(PackageId("a\ud800"), "a\ud800", None, "failed", 0),)
        content = manifest_bytes(config_descriptor(b"{}"), [], missing_annotation(missing))
        manifest = parse_manifest(stored(content))
        assert manifest is not None
        assert manifest.missing == missing

    @pytest.mark.parametrize(
        "entry",
        [
            1,
            {},
            {"id": "a"},
            {"id": 1, "index": 0, "why": "failed"},
            {"id": "a", "index": "0", "why": "failed"},
            {"id": "a", "index": 0},
            {"id": "a", "index": 0, "why": {}},
            {"id": "a", "index": 0, "why": "because"},
        ],
    )
    def test_entries_without_sense_are_passed_over(self, entry: object) -> None:
        good = {"id": "b", "tag": 3, "index": 1, "why": "failed"}
        assert parse_missing(json.dumps([entry, good])) == (Missing(PackageId("b"), "b", None, "failed", 1),)

    @pytest.mark.parametrize("text", ["", "{}", "null", "[" * 100_000])
    def test_what_is_no_list_is_nothing(self, text: str) -> None:
        assert parse_missing(text) == ()

    def test_a_choice_is_no_gap(self) -> None:
        def gap(why: Any) -> bool:
            return Missing(PackageId("a"), "a", None, why, 0).is_gap

        assert (gap("not-selected"), gap("failed"), gap("unknown-id")) == (False, True, True)


class TestConfig:
    @given(st.lists(digests, max_size=4), pairs, st.dictionaries(names, st.text(max_size=8), max_size=3))
    def test_diff_ids_are_read_again(self, diff_ids: list[Digest], labels: dict[str, str], env: dict[str, str]) -> None:
        content = image_config(a_package(env=env), diff_ids, created=EPOCH, labels=labels)
        backwards = image_config(
            a_package(env=dict(reversed(env.items()))), diff_ids, created=EPOCH, labels=dict(reversed(labels.items()))
        )
        assert diff_ids_of(content) == tuple(map(str, diff_ids))
        assert content == backwards

    def test_it_says_what_a_runtime_needs(self) -> None:
        package = a_package(
            env={"CPATH": "/opt/include"}, platform=Platform("linux", "arm64", "v8"), config='{"spec": {"x": 1}}'
        )
        assert json.loads(image_config(package, [Digest("sha256", "a" * 64)], created=EPOCH, labels={"l": "1"})) == {
            "created": EPOCH,
            "architecture": "arm64",
            "os": "linux",
            "variant": "v8",
            "config": {"Env": ["CPATH=/opt/include", f"PATH={DEFAULT_PATH}"], "Labels": {"l": "1"}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{'a' * 64}"]},
            "spec": {"x": 1},
        }

    def test_a_package_may_set_its_own_path(self) -> None:
        config = json.loads(image_config(a_package(env={"PATH": "/opt/bin"}), [], created=EPOCH))
        assert config["config"] == {"Env": ["PATH=/opt/bin"]}

    @pytest.mark.parametrize(
        "config", [b"", b"{}", b"[]", b'{"rootfs": 1}', b'{"rootfs": {"diff_ids": 1}}', b"[" * 100_000]
    )
    def test_what_is_no_config_has_no_diff_ids(self, config: bytes) -> None:
        assert diff_ids_of(config) == ()

    def test_its_descriptor_is_that_of_its_bytes(self) -> None:
        assert config_descriptor(b"{}") == Descriptor(OCI_CONFIG, Digest.of(b"{}"), 2)


class TestExisting:
    def test_layers_are_found_by_digest_and_by_diff_id(self) -> None:
        gzip, zstd, tar = (Digest.of(text) for text in (b"gzip", b"zstd", b"tar"))
        layers = (Descriptor(OCI_LAYER_GZIP, Digest.of(b"base"), 1), Descriptor(OCI_LAYER_GZIP, gzip, 1))
        config = json.dumps({"rootfs": {"diff_ids": ["sha256:0", str(tar)]}}).encode()
        existing = existing_manifest(
            config_descriptor(b"m"), Manifest(OCI_MANIFEST, config_descriptor(config), layers, {}), config
        )
        same, repacked, other = (
            Layer(Descriptor(OCI_LAYER_GZIP, digest, 1), diff_id)
            for digest, diff_id in ((gzip, zstd), (zstd, tar), (zstd, zstd))
        )
        assert [existing.names(layer) for layer in (same, repacked, other)] == [True, True, False]
        assert [existing.same_layer(layer) for layer in (same, repacked, other)] == [1, 1, None]

    @pytest.mark.parametrize(
        ("annotations", "config", "ours"),
        [
            ({ID_ANNOTATION: "zlib"}, "{}", True),
            ({}, json.dumps({"config": {"Labels": {ID_ANNOTATION: "zlib"}}}), True),
            ({}, '{"buildcache_layout_version": 2}', True),
            ({}, '{"config": {"Labels": null}}', False),
            ({}, "{}", False),
            ({}, "[]", False),
            ({ID_ANNOTATION: "zlib"}, "not JSON", True),
        ],
    )
    def test_uploaders_and_spacks_are_known(self, annotations: dict[str, str], config: str, ours: bool) -> None:
        manifest = Manifest(OCI_MANIFEST, config_descriptor(config.encode()), (), annotations)
        assert existing_manifest(config_descriptor(b"m"), manifest, config.encode()).ours is ours


class TestTagList:
    @pytest.mark.parametrize(
        ("body", "tags"),
        [
            (b'{"tags": ["a", "b"]}', ["a", "b"]),
            (b'{"tags": null}', []),
            (b'{"tags": ["a", 1, "../b", "", null]}', ["a"]),
            (b'{"tags": {}}', []),
            (b'{"tags": "a"}', None),
            (b"{}", None),
            (b"[]", None),
            (b'{"tags": ["a"', None),
        ],
    )
    def test_tags_of_a_page(self, body: bytes, tags: list[str] | None) -> None:
        assert tags_of(Response(200, body=body)) == tags

    @pytest.mark.parametrize(
        ("link", "url"),
        [
            ('</v2/a/tags/list?n=2&last=b>; rel="next"', "/v2/a/tags/list?n=2&last=b"),
            ("<https://elsewhere.test/v2/a/tags/list?last=b>; rel=next", "/v2/a/tags/list?last=b"),
            ('<?last=b>; rel="next"', "/v2/a/tags/list?last=b"),
            ("<list?last=b>;rel=next", "/v2/a/tags/list?last=b"),
            ('</v2/a>; rel="prev"', None),
            ("<http://[>; rel=next", None),
            ("", None),
        ],
    )
    def test_the_next_page_is_asked_of_the_same_registry(self, link: str, url: str | None) -> None:
        assert next_page("/v2/a/tags/list?n=2", Response(200, {"link": link})) == url


def test_every_codec_has_a_layer_type() -> None:
    assert {codec.compression for codec in CODECS.values()} == set(LAYER_TYPE)
