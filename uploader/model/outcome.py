"""What became of a package's layer and of its manifest (the rule is in `graph/plan.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from uploader.errors import RegistryError, SourceError, Stage
    from uploader.model.descriptor import Descriptor, Layer
    from uploader.model.package import Absence, PackageId
    from uploader.model.reference import Tag

How = Literal["uploaded", "mounted", "present"]
Why = Literal["failed", "not-installed", "not-redistributable", "unknown-id", "other-platform", "not-selected"]


@dataclass(frozen=True, slots=True)
class Resent:
    """A blob was begun anew, because of `why`, after `bytes` of it had gone out for nothing."""

    bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Done:
    """The layer is in the repository."""

    layer: Layer
    how: How
    resent: Resent | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """It was given up, at `stage`."""

    error: SourceError | RegistryError
    stage: Stage


@dataclass(frozen=True, slots=True)
class LeftOut:
    """It was never tried."""

    why: Absence


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The run ended before it was settled."""

    why: str


LayerOutcome = Done | Failed | LeftOut | Interrupted


@dataclass(frozen=True, slots=True)
class Missing:
    """A layer that a manifest does not name; `index` is its place in the full order (rule 5)."""

    id: PackageId
    name: str
    tag: Tag | None
    why: Why
    index: int

    @property
    def is_gap(self) -> bool:
        """Not selected is a choice; everything else is a gap (rule 3)."""
        return self.why != "not-selected"


@dataclass(frozen=True, slots=True)
class Tagged:
    """The tag points at `manifest`; `pushed` says whether this run made it so.

    `missing` is what that manifest lacks.
    """

    manifest: Descriptor
    pushed: bool
    missing: tuple[Missing, ...] = ()


ManifestOutcome = Tagged | Failed | Interrupted


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went to a destination: bytes of bodies, requests, and how many of them were repeats."""

    bytes_sent: int = 0
    requests: int = 0
    retries: int = 0
