"""The report of a push, `uploader/report/v1`: one document for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, assert_never

from uploader.errors import Kind, RegistryError, Stage
from uploader.model.outcome import Done, Failed, How, Interrupted, LeftOut, Tagged, Why

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from uploader.graph.plan import PackageOutcome
    from uploader.model.outcome import Traffic

SCHEMA: Literal["uploader/report/v1"] = "uploader/report/v1"

Outcome = Literal["pushed", "present", "failed", "left-out", "interrupted"]


@dataclass(frozen=True, slots=True)
class ResentEntry:
    """The blob was sent again from the start, because of `why`, after `bytes` of it had gone out for nothing.

    Those of earlier pushes that were ended on the way are counted too, save for the last 64 MiB before a kill.
    """

    bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """The package's own layer; `size` in bytes."""

    digest: str
    size: int
    diff_id: str
    how: How
    resent: ResentEntry | None = None


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """The manifest that the tag points at."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class MissingEntry:
    """A layer that the manifest does not name."""

    id: str
    name: str
    why: Why


@dataclass(frozen=True, slots=True)
class ErrorEntry:
    """Why a package failed. `codes` are the registry's, `attempts` the tries of the request that failed last."""

    stage: Stage
    kind: Kind
    message: str
    status: int | None
    codes: tuple[str, ...]
    attempts: int


@dataclass(frozen=True, slots=True)
class PackageEntry:
    """What became of one package; `why` says so for packages that were left out or interrupted."""

    id: str
    name: str
    tag: str
    outcome: Outcome
    why: str | None = None
    blob: BlobEntry | None = None
    manifest: ManifestEntry | None = None
    missing: tuple[MissingEntry, ...] = ()
    error: ErrorEntry | None = None

    @property
    def gaps(self) -> tuple[MissingEntry, ...]:
        """What is missing and was not left out by choice."""
        return tuple(entry for entry in self.missing if entry.why != "not-selected")


@dataclass(frozen=True, slots=True)
class SkippedTag:
    """A tag that looks like a spec's, and why it is not in the index."""

    tag: str
    why: str


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """The index of a Spack build cache after the push."""

    outcome: Literal["written", "present", "failed"]
    digest: str | None = None
    specs: int = 0
    skipped: tuple[SkippedTag, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts. `incomplete` are the tags that lack a layer which was not left out by choice."""

    packages: int = 0
    pushed: int = 0
    present: int = 0
    failed: int = 0
    left_out: int = 0
    incomplete: int = 0
    interrupted: int = 0
    bytes_sent: int = 0
    requests: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """A whole push. `started` and `finished` are RFC 3339, UTC; `error` says why the run ended early, if it did."""

    schema: Literal["uploader/report/v1"]
    source: tuple[str, ...]
    target: str
    started: str
    finished: str
    totals: Totals
    packages: tuple[PackageEntry, ...]
    notes: tuple[str, ...] = ()
    error: str | None = None
    index: IndexEntry | None = None

    def to_json(self) -> str:
        """As one JSON document, absent values left out of the package entries."""
        document = asdict(self)
        document["packages"] = [_without_nothing(entry) for entry in document["packages"]]
        for entry in document["packages"]:
            if "blob" in entry:
                entry["blob"] = _without_nothing(entry["blob"])
        text = json.dumps(document, ensure_ascii=False, indent=1)
        # A path may hold bytes that are no Unicode; as an escape they are good JSON, and can be written to a file.
        return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Frame:
    """What a report says beside its packages."""

    source: tuple[str, ...]
    target: str
    started: datetime
    finished: datetime
    notes: tuple[str, ...] = ()
    error: str | None = None
    index: IndexEntry | None = None


def make_report(frame: Frame, outcomes: Iterable[PackageOutcome], traffic: Traffic) -> Report:
    """Put a report together from what became of each package."""
    entries = tuple(_entry(outcome) for outcome in outcomes)
    return Report(
        SCHEMA,
        frame.source,
        frame.target,
        _rfc3339(frame.started),
        _rfc3339(frame.finished),
        _totals(entries, traffic),
        entries,
        frame.notes,
        frame.error,
        frame.index,
    )


def _entry(outcome: PackageOutcome) -> PackageEntry:
    package = outcome.package
    entry = PackageEntry(package.id, package.name, package.tag, "failed")
    match outcome.layer:
        case Done() as done:
            return _with_manifest(replace(entry, blob=_blob(done)), outcome)
        case Failed() as failed:
            return replace(entry, error=_error(failed))
        case LeftOut(why):
            return replace(entry, outcome="left-out", why=why)
        case Interrupted(why):
            return replace(entry, outcome="interrupted", why=why)
        case never:
            assert_never(never)


def _with_manifest(entry: PackageEntry, outcome: PackageOutcome) -> PackageEntry:
    match outcome.manifest:
        case Tagged(manifest, pushed, missing):
            return replace(
                entry,
                outcome="pushed" if pushed else "present",
                manifest=ManifestEntry(str(manifest.digest), manifest.size),
                missing=tuple(MissingEntry(m.id, m.name, m.why) for m in missing),
            )
        case Failed() as failed:
            return replace(entry, error=_error(failed))
        case Interrupted(why):
            return replace(entry, outcome="interrupted", why=why)
        case None:
            raise ValueError(f"{outcome.package.id!r} has a layer, and no word of its manifest")


def _blob(done: Done) -> BlobEntry:
    descriptor = done.layer.descriptor
    resent = ResentEntry(done.resent.bytes, done.resent.why) if done.resent else None
    return BlobEntry(str(descriptor.digest), descriptor.size, str(done.layer.diff_id), done.how, resent)


def _error(failed: Failed) -> ErrorEntry:
    error = failed.error
    if isinstance(error, RegistryError):
        return ErrorEntry(failed.stage, error.kind, str(error), error.status, error.codes, error.attempts)
    return ErrorEntry(failed.stage, error.kind, str(error), None, (), 1)


def _totals(entries: tuple[PackageEntry, ...], traffic: Traffic) -> Totals:
    def count(outcome: Outcome) -> int:
        return sum(entry.outcome == outcome for entry in entries)

    return Totals(
        packages=len(entries),
        pushed=count("pushed"),
        present=count("present"),
        failed=count("failed"),
        left_out=count("left-out"),
        incomplete=sum(bool(entry.gaps) for entry in entries),
        interrupted=count("interrupted"),
        bytes_sent=traffic.bytes_sent,
        requests=traffic.requests,
        retries=traffic.retries,
    )


def _without_nothing(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
