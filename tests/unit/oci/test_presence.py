"""Keep, replace, or leave alone what a tag points at (rule 11)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.model.outcome import Missing
from uploader.model.package import PackageId
from uploader.oci.manifest import ID_ANNOTATION, MISSING_ANNOTATION, Manifest, config_descriptor
from uploader.oci.media_types import DOCKER_MANIFEST, OCI_LAYER_GZIP, OCI_MANIFEST
from uploader.oci.presence import Existing, Keep, Refuse, Replace, existing_manifest, judge

if TYPE_CHECKING:
    from uploader.model.outcome import Why

ZLIB, CURL, PERL = (
    Layer(Descriptor(OCI_LAYER_GZIP, Digest.of(name), 1), Digest.of(name + b".tar"))
    for name in (b"zlib", b"curl", b"perl")
)


def a_gap(name: str, why: Why = "failed") -> Missing:
    return Missing(PackageId(name), name, None, why, 0)


def an_existing(*layers: Layer, ours: bool = True, gaps: bool = False) -> Existing:
    missing = json.dumps([{"id": "perl", "tag": None, "why": "failed", "index": 0}])
    annotations = {MISSING_ANNOTATION: missing} if gaps else {}
    manifest = Manifest(
        OCI_MANIFEST, config_descriptor(b"{}"), tuple(layer.descriptor for layer in layers), annotations
    )
    diff_ids = tuple(str(layer.diff_id) for layer in layers)
    return Existing(config_descriptor(b"m"), manifest, diff_ids, ours)


@pytest.mark.parametrize(
    ("existing", "layers", "incomplete", "verdict"),
    [
        pytest.param(an_existing(ZLIB, CURL), (ZLIB, CURL), False, Keep, id="the same"),
        pytest.param(an_existing(PERL, ZLIB, CURL), (ZLIB, CURL), False, Keep, id="more"),
        pytest.param(an_existing(CURL), (ZLIB, CURL), False, Replace, id="fewer"),
        pytest.param(an_existing(CURL), (ZLIB, CURL), True, Replace, id="fewer, ours incomplete"),
        pytest.param(an_existing(PERL), (CURL,), True, Replace, id="as many others"),
        pytest.param(an_existing(PERL, CURL), (ZLIB, CURL), True, Replace, id="the own, and another dependency"),
        pytest.param(an_existing(PERL, ZLIB), (CURL,), True, Refuse, id="more others, ours incomplete"),
        pytest.param(an_existing(PERL, ZLIB), (CURL,), False, Replace, id="more others, ours complete"),
        pytest.param(an_existing(ZLIB, CURL, gaps=True), (ZLIB, CURL), False, Replace, id="claims gaps, ours has none"),
        pytest.param(an_existing(ZLIB, CURL, gaps=True), (ZLIB, CURL), True, Keep, id="both with gaps"),
        pytest.param(an_existing(ZLIB, CURL, ours=False), (ZLIB, CURL), False, Refuse, id="somebody else's"),
        pytest.param(None, (CURL,), False, Refuse, id="no image manifest"),
        pytest.param(an_existing(ZLIB, CURL), (CURL, ZLIB, CURL), True, Replace, id="one content twice, there once"),
        pytest.param(an_existing(CURL, ZLIB, CURL), (CURL, ZLIB, CURL), True, Keep, id="one content twice"),
    ],
)
def test_verdicts(existing: Existing | None, layers: tuple[Layer, ...], incomplete: bool, verdict: type) -> None:
    assert isinstance(judge(existing, layers, [a_gap("perl")] if incomplete else []), verdict)


@pytest.mark.parametrize(
    ("said", "now", "layers", "verdict"),
    [
        ("not-selected", "not-redistributable", (ZLIB, CURL), Replace),
        ("not-selected", "not-selected", (ZLIB, CURL), Keep),
        ("failed", "not-selected", (ZLIB, CURL), Keep),
        ("failed", "not-redistributable", (ZLIB, CURL), Keep),
        ("not-selected", "failed", (CURL,), Keep),
    ],
)
def test_what_was_a_choice_and_is_a_gap_now_is_said_where_nothing_is_lost_by_it(
    said: Why, now: Why, layers: tuple[Layer, ...], verdict: type
) -> None:
    """Else a gap would stay silent, in the manifest, for `verify`, and under --strict, because of an earlier push."""
    existing = replace(an_existing(ZLIB, CURL), labelled=(a_gap("perl", said),))
    assert isinstance(judge(existing, layers, [a_gap("perl", now)]), verdict)


@pytest.mark.parametrize(
    ("why", "verdict"), [("failed", Replace), ("not-installed", Replace), ("not-selected", Keep), (None, Keep)]
)
def test_gaps_in_the_label_of_dockers_format_count_like_annotations(why: str | None, verdict: type) -> None:
    missing = [{"id": "perl", "tag": None, "why": why, "index": 0}]
    labels = {ID_ANNOTATION: "curl", **({MISSING_ANNOTATION: json.dumps(missing)} if why else {})}
    manifest = Manifest(DOCKER_MANIFEST, config_descriptor(b"{}"), (ZLIB.descriptor, CURL.descriptor), {})
    existing = existing_manifest(config_descriptor(b"m"), manifest, json.dumps({"config": {"Labels": labels}}).encode())
    assert isinstance(judge(existing, (ZLIB, CURL), []), verdict)


def test_a_refusal_says_what_to_do() -> None:
    refused = judge(an_existing(PERL, ZLIB), (CURL,), [a_gap("zlib")])
    assert isinstance(refused, Refuse)
    assert "2 layers" in refused.reason
    assert "--force" in refused.reason


@given(st.permutations([ZLIB, CURL, PERL]), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_an_incomplete_manifest_never_replaces_one_with_more_layers(
    layers: list[Layer], there: int, named: int, gaps: bool
) -> None:
    verdict = judge(an_existing(*layers[:there], gaps=gaps), layers[-named:], [a_gap("perl")])
    assert not (isinstance(verdict, Replace) and there > named)
