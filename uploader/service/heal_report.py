"""The report of `uploader heal`, `uploader/heal-report/v1`: one document for people and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from uploader.service.report import Report  # noqa: TC001  (the schema is made of the annotations)
from uploader.service.verify_report import DamageEntry, VerifyTotals, as_text, without_nothing

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAL_SCHEMA: Literal["uploader/heal-report/v1"] = "uploader/heal-report/v1"

HealOutcome = Literal["completed", "would-complete", "repaired", "would-repair", "left", "damaged", "failed"]
"""`left`: it lacks something that could not be added, which is no failure; `damaged`: it still is."""


@dataclass(frozen=True, slots=True)
class HealEntry:
    """What became of a tag that was damaged or incomplete; `added` are the packages whose layers it names now."""

    tag: str
    outcome: HealOutcome
    added: tuple[str, ...] = ()
    manifest: str | None = None
    damage: tuple[DamageEntry, ...] = ()
    why: str | None = None


@dataclass(frozen=True, slots=True)
class HealTotals:
    """Counts of tags by outcome; in a dry run `completed` and `repaired` are what would be."""

    completed: int = 0
    repaired: int = 0
    left: int = 0
    damaged: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class HealReport:
    """A whole healing: `found` is what the verification before it counted, `push` what was pushed from the source."""

    schema: Literal["uploader/heal-report/v1"]
    target: str
    source: tuple[str, ...]
    dry_run: bool
    started: str
    finished: str
    found: VerifyTotals
    totals: HealTotals
    tags: tuple[HealEntry, ...]
    push: Report | None = None
    error: str | None = None

    def to_json(self) -> str:
        """As one JSON document; what a tag does not have is left out of its entry."""
        document = asdict(self)
        document["tags"] = [without_nothing(entry) for entry in document["tags"]]
        return as_text(document)


def heal_totals(tags: Iterable[HealEntry]) -> HealTotals:
    """Count."""
    count = Counter(entry.outcome for entry in tags)
    return HealTotals(
        completed=count["completed"] + count["would-complete"],
        repaired=count["repaired"] + count["would-repair"],
        left=count["left"],
        damaged=count["damaged"],
        failed=count["failed"],
    )
