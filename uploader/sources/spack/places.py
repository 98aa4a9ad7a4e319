"""Where things are: the store as it was recorded, where it lies now, and the Spack that it belongs to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def database_at(root: Path) -> Path:
    """The file with all that is installed in the store at `root`."""
    return root / ".spack-db" / "index.json"


@dataclass(frozen=True, slots=True)
class Places:
    """A store that was installed at `recorded` and lies at `actual`: a bind mount, an unpacked copy, or the same."""

    actual: Path
    recorded: str

    def now(self, prefix: str) -> Path:
        """Where a recorded prefix lies now; one outside of the store, where it was recorded."""
        path = PurePosixPath(prefix)
        if path.is_relative_to(self.recorded):
            return self.actual / path.relative_to(self.recorded)
        return Path(prefix)


def find_places(root: Path, prefixes: Iterable[str]) -> Places:
    """The store's recorded root, which its database does not say: that below which most prefixes lie as they do below
    `root`. Where none is left to be seen, `root` itself.
    """
    root = Path(root.absolute())
    votes: Counter[str] = Counter()
    for prefix in map(PurePosixPath, prefixes):
        known = next(iter(votes), None)
        if known is not None and prefix.is_relative_to(known) and (root / prefix.relative_to(known)).is_dir():
            votes[known] += 1
        else:
            votes.update(_candidates(root, prefix))
    recorded = max(votes, key=lambda candidate: votes[candidate], default=str(root))
    return Places(root, recorded)


def _candidates(root: Path, prefix: PurePosixPath) -> list[str]:
    """Those folders above `prefix` that `root` could be: what leads from there to the prefix is in `root` too."""
    parts = prefix.parts
    return [
        str(PurePosixPath(*parts[:cut]))
        for cut in range(1, len(parts))
        if (root / PurePosixPath(*parts[cut:]) / ".spack").is_dir()
    ]


def find_spack_root(given: str | None, environment: Mapping[str, str], places: Places) -> str:
    """Spack's own folder, which a layer names and no store records.

    In this order: what was given, SPACK_ROOT, a checkout that the store lies in (as recorded, if both end alike), the
    store itself. It matters for caches that Spack filled: with another value, layers differ in a few bytes.
    """
    if given or environment.get("SPACK_ROOT"):
        return (given or environment["SPACK_ROOT"]).rstrip("/") or "/"
    recorded = PurePosixPath(places.recorded)
    for folder in places.actual.parents:
        if (folder / "bin" / "spack").is_file() and (folder / "lib" / "spack" / "spack").is_dir():
            inner = places.actual.relative_to(folder)
            ends_alike = recorded.parts[-len(inner.parts) :] == inner.parts
            return str(PurePosixPath(*recorded.parts[: -len(inner.parts)])) if ends_alike else str(folder)
    return places.recorded
