"""The report of `uploader verify`, `uploader/verify-report/v1`: one document for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from uploader.model.outcome import Why  # noqa: TC001  (the schema is made of the annotations)
from uploader.oci.audit import Damage, DamageKind, Maker  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterable

VERIFY_SCHEMA: Literal["uploader/verify-report/v1"] = "uploader/verify-report/v1"

State = Literal["whole", "incomplete", "damaged", "foreign", "unknown"]
"""`incomplete` has gaps and no damage; `foreign` is neither ours nor Spack's; of `unknown` the asking failed."""


@dataclass(frozen=True, slots=True)
class DamageEntry:
    """One thing that is wrong, and the digest of the blob or manifest that it is about."""

    kind: DamageKind
    message: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class LackingEntry:
    """A layer that the manifest says it lacks; `completable`: the layer is there now, and `heal` would add it."""

    id: str
    tag: str | None
    why: Why
    index: int
    completable: bool = False

    @property
    def is_gap(self) -> bool:
        """Not selected is a choice; everything else is a gap (rule 3)."""
        return self.why != "not-selected"


@dataclass(frozen=True, slots=True)
class TagEntry:
    """What was found at one tag. `error` says what could not be asked, and why: that is no damage."""

    tag: str
    state: State
    maker: Maker = "other"
    id: str | None = None
    manifest: str | None = None
    layers: int = 0
    damage: tuple[DamageEntry, ...] = ()
    missing: tuple[LackingEntry, ...] = ()
    error: str | None = None

    @property
    def gaps(self) -> tuple[LackingEntry, ...]:
        """What is missing and was not left out by choice."""
        return tuple(entry for entry in self.missing if entry.is_gap)

    @property
    def completable(self) -> bool:
        """Whether `heal` can add a layer, and has a sound manifest to add it to."""
        return self.state == "incomplete" and any(entry.completable for entry in self.missing)


@dataclass(frozen=True, slots=True)
class VerifyTotals:
    """Counts of tags by state; `unchecked` were not reached, `completable` are some of the incomplete."""

    tags: int = 0
    whole: int = 0
    incomplete: int = 0
    completable: int = 0
    damaged: int = 0
    foreign: int = 0
    unknown: int = 0
    unchecked: int = 0
    blobs: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """A whole verification. `error` says why it ended early, if it did."""

    schema: Literal["uploader/verify-report/v1"]
    target: str
    source: tuple[str, ...]
    deep: bool
    started: str
    finished: str
    totals: VerifyTotals
    tags: tuple[TagEntry, ...]
    notes: tuple[str, ...] = ()
    error: str | None = None

    def to_json(self) -> str:
        """As one JSON document; what a tag does not have is left out of its entry."""
        document = asdict(self)
        document["tags"] = [without_nothing(entry) for entry in document["tags"]]
        return as_text(document)


def state_of(entry: TagEntry) -> State:
    """One word for it; damage weighs most, and then what is not known."""
    if entry.damage:
        return "damaged"
    if entry.error is not None:
        return "unknown"
    if entry.maker == "other":
        return "foreign"
    return "incomplete" if entry.gaps else "whole"


def totals_of(tags: Iterable[TagEntry], *, unchecked: int, blobs: int, requests: int) -> VerifyTotals:
    """Count."""
    entries = tuple(tags)
    count = Counter(entry.state for entry in entries)
    return VerifyTotals(
        tags=len(entries) + unchecked,
        whole=count["whole"],
        incomplete=count["incomplete"],
        completable=sum(entry.completable for entry in entries),
        damaged=count["damaged"],
        foreign=count["foreign"],
        unknown=count["unknown"],
        unchecked=unchecked,
        blobs=blobs,
        requests=requests,
    )


def damage_entry(damage: Damage) -> DamageEntry:
    """As the report has it."""
    return DamageEntry(damage.kind, damage.message, str(damage.digest) if damage.digest else None)


def without_nothing(entry: dict[str, Any]) -> dict[str, Any]:
    """Without what is None or empty."""
    return {key: value for key, value in entry.items() if value is not None and value not in ((), [])}


def as_text(document: dict[str, Any]) -> str:
    """As JSON. What is no Unicode is good JSON as an escape, and can be written to a file."""
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace").decode()
