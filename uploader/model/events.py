"""What happens during a push, as values: for progress, logs and streams of events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uploader.model.outcome import Done, Failed, Tagged
    from uploader.model.package import Package


@dataclass(frozen=True, slots=True)
class PushStarted:
    """The graph is known: this many packages are to be pushed, of so many in the graph."""

    packages: int
    of: int


@dataclass(frozen=True, slots=True)
class BlobStarted:
    """The package's layer is being read, packed or sent."""

    package: Package


@dataclass(frozen=True, slots=True)
class Sending:
    """The package's layer, of `size` bytes, is on its way."""

    package: Package
    size: int


@dataclass(frozen=True, slots=True)
class LayerSettled:
    """The package's layer is done, or was given up."""

    package: Package
    outcome: Done | Failed


@dataclass(frozen=True, slots=True)
class ManifestSettled:
    """The package's manifest is there, or was given up."""

    package: Package
    outcome: Tagged | Failed


@dataclass(frozen=True, slots=True)
class BytesSent:
    """So many more bytes of bodies went out."""

    count: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The host is left alone for `seconds`, because of `reason`."""

    host: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Retried:
    """A request is sent again in `seconds`: `subject` is what was tried, `reason` what came back."""

    subject: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know, once."""

    text: str


Event = PushStarted | BlobStarted | Sending | LayerSettled | ManifestSettled | BytesSent | Waiting | Retried | Note
Emit = Callable[[Event], None]
