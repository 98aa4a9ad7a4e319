from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from uploader.errors import RegistryError, SourceError
from uploader.graph.plan import PackageOutcome
from uploader.model.outcome import Done, Failed, Interrupted, LeftOut, Missing, Resent, Tagged, Traffic
from uploader.model.package import PackageId
from uploader.model.reference import Tag
from uploader.service.report import Frame, Report, make_report
from uploader.testing.packages import a_layer, a_package

if TYPE_CHECKING:
    from uploader.model.outcome import LayerOutcome, ManifestOutcome, Why

FRAME = Frame(
    source=("graph.json",),
    target="oci://ghcr.io/org/cache",
    started=datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC),
    finished=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
)
MANIFEST = a_layer("manifest").descriptor
DONE = Done(a_layer("zlib"), "uploaded")
GAP = Missing(PackageId("lib"), "lib", Tag("lib"), "failed", 0)
CHOICE = Missing(PackageId("doc"), "doc", Tag("doc"), "not-selected", 1)


def reported(*outcomes: tuple[LayerOutcome, ManifestOutcome | None], frame: Frame = FRAME) -> Report:
    packages = [PackageOutcome(a_package(f"p{n}"), *outcome) for n, outcome in enumerate(outcomes)]
    return make_report(frame, packages, Traffic(100, 20, 3))


def as_json(report: Report) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(report.to_json())
    return document


def test_a_blob_that_was_sent_again_says_why() -> None:
    done = Done(DONE.layer, "uploaded", Resent(7, "the connection broke"))
    (entry,) = as_json(reported((done, Tagged(MANIFEST, pushed=True))))["packages"]
    assert entry["blob"]["resent"] == {"bytes": 7, "why": "the connection broke"}


def test_a_pushed_package_says_all_of_it() -> None:
    (entry,) = as_json(reported((DONE, Tagged(MANIFEST, pushed=True))))["packages"]
    layer = DONE.layer
    assert entry == {
        "id": "p0",
        "name": "p0",
        "tag": "p0",
        "outcome": "pushed",
        "blob": {
            "digest": str(layer.descriptor.digest),
            "size": layer.descriptor.size,
            "diff_id": str(layer.diff_id),
            "how": "uploaded",
        },
        "manifest": {"digest": str(MANIFEST.digest), "size": MANIFEST.size},
        "missing": [],
    }


def test_the_frame_is_rfc_3339_and_versioned() -> None:
    document = as_json(reported())
    assert document["schema"] == "uploader/report/v1"
    assert (document["started"], document["finished"]) == ("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:06.000Z")
    assert (document["source"], document["target"]) == (["graph.json"], "oci://ghcr.io/org/cache")


@pytest.mark.parametrize(
    ("layer", "manifest", "outcome", "why"),
    [
        (DONE, Tagged(MANIFEST, pushed=True), "pushed", None),
        (DONE, Tagged(MANIFEST, pushed=False), "present", None),
        (DONE, Failed(RegistryError("no"), "manifest"), "failed", None),
        (DONE, Interrupted("stopped"), "interrupted", "stopped"),
        (Failed(SourceError("torn"), "read"), None, "failed", None),
        (LeftOut("not-selected"), None, "left-out", "not-selected"),
        (Interrupted("stopped"), None, "interrupted", "stopped"),
    ],
)
def test_each_outcome_has_its_word(
    layer: LayerOutcome, manifest: ManifestOutcome | None, outcome: str, why: str | None
) -> None:
    (entry,) = reported((layer, manifest)).packages
    assert (entry.outcome, entry.why) == (outcome, why)
    assert (entry.blob is not None) == isinstance(layer, Done)
    assert (entry.manifest is not None) == isinstance(manifest, Tagged)
    assert (entry.error is not None) == (outcome == "failed")


def test_a_refusal_is_told_with_status_codes_and_attempts() -> None:
    error = RegistryError("denied", kind="auth", status=403, codes=["DENIED"], attempts=4)
    (entry,) = as_json(reported((Failed(error, "blob"), None)))["packages"]
    assert entry["error"] == {
        "stage": "blob",
        "kind": "auth",
        "message": "denied",
        "status": 403,
        "codes": ["DENIED"],
        "attempts": 4,
    }


def test_a_failure_to_pack_has_no_status() -> None:
    (entry,) = as_json(reported((Failed(SourceError("no room", stage="pack"), "pack"), None)))["packages"]
    assert (entry["error"]["stage"], entry["error"]["kind"], entry["error"]["status"]) == ("pack", "source", None)


def test_what_is_missing_is_listed_and_only_gaps_make_a_tag_incomplete() -> None:
    report = reported(
        (DONE, Tagged(MANIFEST, pushed=True, missing=(GAP, CHOICE))),
        (DONE, Tagged(MANIFEST, pushed=False, missing=(CHOICE,))),
    )
    assert [(one.id, one.name, one.why) for one in report.packages[0].missing] == [
        ("lib", "lib", "failed"),
        ("doc", "doc", "not-selected"),
    ]
    assert [one.id for one in report.packages[0].gaps] == ["lib"]
    assert report.totals.incomplete == 1


@pytest.mark.parametrize(
    ("why", "is_gap"),
    [
        ("failed", True),
        ("not-installed", True),
        ("not-redistributable", True),
        ("unknown-id", True),
        ("other-platform", True),
        ("not-selected", False),
    ],
)
def test_all_but_a_choice_is_a_gap(why: Why, is_gap: bool) -> None:
    missing = Missing(PackageId("lib"), "lib", None, why, 0)
    assert missing.is_gap == is_gap
    report = reported((DONE, Tagged(MANIFEST, pushed=True, missing=(missing,))))
    assert report.totals.incomplete == is_gap


def test_the_totals_add_up() -> None:
    report = reported(
        (DONE, Tagged(MANIFEST, pushed=True)),
        (DONE, Tagged(MANIFEST, pushed=True, missing=(GAP,))),
        (DONE, Tagged(MANIFEST, pushed=False)),
        (Failed(SourceError("torn"), "read"), None),
        (LeftOut("not-installed"), None),
        (LeftOut("not-selected"), None),
        (Interrupted("stopped"), None),
    )
    assert as_json(report)["totals"] == {
        "packages": 7,
        "pushed": 2,
        "present": 1,
        "failed": 1,
        "left_out": 2,
        "incomplete": 1,
        "interrupted": 1,
        "bytes_sent": 100,
        "requests": 20,
        "retries": 3,
    }


def test_a_report_can_be_written_whatever_the_paths_hold() -> None:
    """A name that is no Unicode comes out as an escape, which is read as what it was."""
    frame = Frame(("caf\udce9/é\\\udce9",), "oci-layout:caf\udce9", FRAME.started, FRAME.finished)
    text = reported(frame=frame).to_json()
    assert "é" in text
    assert json.loads(text.encode())["source"] == ["caf\udce9/é\\\udce9"]


def test_a_layer_without_a_word_of_its_manifest_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="no word of its manifest"):
        reported((DONE, None))
