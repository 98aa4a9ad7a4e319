"""The rule: which blob or manifest may go out now, and what each manifest names.

1. Blobs wait for nothing. 2. A layer settles when its package is done, failed, or left out. 3. A package that is not
selected is never named, whatever else is true of it. 4. A manifest is ready when its own blob is done and every layer
of its closure has settled. 5. It names the done layers in depth-first post-order, children by name, then id; its own
last. 6. No own blob, no manifest; dependents go out without it. 7. A failed manifest hurts nobody. 8. What is missing
is listed, with its place in the full order.

The outcome depends on what failed, never on the order in which things ended: nothing here looks at a clock.

Each package has a *marker* that settles when its own layer and the markers of its direct dependencies have settled,
that is, when its whole closure has. With markers the work is linear in packages and edges; an edge from every manifest
to its whole closure would be quadratic for deep graphs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploader.model.outcome import (
    Done,
    Failed,
    Interrupted,
    LayerOutcome,
    LeftOut,
    ManifestOutcome,
    Missing,
    Tagged,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from uploader.model.descriptor import Layer
    from uploader.model.package import Package, PackageGraph, PackageId, Platform


@dataclass(frozen=True, slots=True)
class Closure:
    """The layers a manifest names, in order, its own last; and those it should name but cannot."""

    layers: tuple[Layer, ...]
    missing: tuple[Missing, ...]


@dataclass(frozen=True, slots=True)
class PackageOutcome:
    """What became of one package; `manifest` is None where none was to be made."""

    package: Package
    layer: LayerOutcome
    manifest: ManifestOutcome | None


class Plan:
    """The state of one push. Mutable: the outcomes, the two queues, and the counts of what each marker waits for."""

    def __init__(
        self,
        graph: PackageGraph,
        selected: frozenset[PackageId],
        *,
        rank: Callable[[Package], float] | None = None,
    ) -> None:
        """`rank` orders the blobs, lowest first; by default they go out leaves first."""
        self._packages = graph.packages
        self._number = {package.id: number for number, package in enumerate(self._packages)}
        self._unknown = self._number_unknown_ids()
        self._children = self._sorted_children()
        self._layer: list[LayerOutcome | None] = [self._left_out(p, selected) for p in self._packages]
        self._layer += [LeftOut("unknown-id")] * len(self._unknown)
        self._manifest: list[ManifestOutcome | None] = [None] * len(self._packages)
        self._done: list[Layer | None] = [None] * len(self._layer)
        self._platform = self._numbered_platforms()
        self._parents, self._waiting = self._link()
        self._seen = [0] * len(self._layer)
        self._visit = 0
        pending = [n for n in range(len(self._packages)) if self._layer[n] is None]
        if rank is not None:
            pending.sort(key=lambda n: rank(self._packages[n]))
        self._blobs = deque(pending)
        self._manifests: deque[int] = deque()
        self._unsettled = len(pending)

    def take_blob(self) -> Package | None:
        """The next package whose blob may go out."""
        return self._packages[self._blobs.popleft()] if self._blobs else None

    def take_manifest(self) -> Package | None:
        """The next package whose manifest may go out."""
        return self._packages[self._manifests.popleft()] if self._manifests else None

    @property
    def finished(self) -> bool:
        """Whether every blob and every manifest has ended."""
        return self._unsettled == 0

    def settle_layer(self, package: Package, outcome: Done | Failed) -> None:
        """The package's layer ended; manifests that waited only for it become ready."""
        number = self._number[package.id]
        if self._layer[number] is not None:
            raise ValueError(f"the layer of {package.id!r} ended twice")
        self._layer[number] = outcome
        if isinstance(outcome, Failed):
            self._unsettled -= 1
        else:
            self._done[number] = outcome.layer
        self._waiting[number] -= 1
        if self._waiting[number] == 0:
            self._settle_markers(number)

    def settle_manifest(self, package: Package, outcome: Tagged | Failed) -> None:
        """The package's manifest ended."""
        number = self._number[package.id]
        if self._manifest[number] is not None or not isinstance(self._layer[number], Done):
            raise ValueError(f"the manifest of {package.id!r} ended twice, or before its layer")
        self._manifest[number] = outcome
        self._unsettled -= 1

    def closure(self, package: Package) -> Closure:
        """What the package's manifest names and lacks; its marker must have settled."""
        root = self._number[package.id]
        done, platforms = self._done, self._platform
        platform = platforms[root]
        layers: list[Layer] = []
        missing: list[Missing] = []
        for index, number in enumerate(self._post_order(root)):
            layer = done[number]
            if layer is not None and platforms[number] == platform:
                layers.append(layer)
            else:
                missing.append(self._missing(number, self._why_missing(number, platform), index))
        return Closure(tuple(layers), tuple(missing))

    def interrupt(self, why: str) -> None:
        """The run ended early: whatever has not ended is interrupted, and nothing more is handed out."""
        for number, outcome in enumerate(self._layer):
            if outcome is None:
                self._layer[number] = Interrupted(why)
            elif isinstance(outcome, Done) and self._manifest[number] is None:
                self._manifest[number] = Interrupted(why)
        self._blobs.clear()
        self._manifests.clear()
        self._unsettled = 0

    def outcomes(self) -> Iterator[PackageOutcome]:
        """Every package of the graph, leaves first, once the plan is finished or interrupted."""
        for number, package in enumerate(self._packages):
            layer = self._layer[number]
            if layer is None:
                raise ValueError("the plan has not finished")
            yield PackageOutcome(package, layer, self._manifest[number])

    def _why_missing(self, number: int, platform: int) -> str:
        """Why a manifest of that platform cannot name the layer, which has settled."""
        match self._layer[number]:
            case LeftOut(why):
                return why
            case Done() | Failed() if self._platform[number] != platform:
                return "other-platform"
            case Failed():
                return "failed"
            case _:
                raise ValueError(f"the layer of {self._packages[number].id!r} has not settled")

    def _numbered_platforms(self) -> list[int]:
        """Of each package a number for its platform: closures compare it often."""
        numbers: dict[Platform, int] = {}
        return [numbers.setdefault(package.platform, len(numbers)) for package in self._packages]

    def _number_unknown_ids(self) -> list[PackageId]:
        known = self._number
        unknown = sorted({d for p in self._packages for d in p.dependencies if d not in known})
        known.update((key, len(self._packages) + place) for place, key in enumerate(unknown))
        return unknown

    def _sorted_children(self) -> list[tuple[int, ...]]:
        """Direct dependencies by name, then id. An unknown id goes by its id for a name."""
        number = self._number
        by_name = sorted(
            number, key=lambda key: (self._packages[number[key]].name if self._is_known(key) else key, key)
        )
        place = {key: rank for rank, key in enumerate(by_name)}
        return [
            tuple(number[d] for d in sorted(set(p.dependencies), key=place.__getitem__)) for p in self._packages
        ] + [()] * len(self._unknown)

    def _is_known(self, key: PackageId) -> bool:
        return self._number[key] < len(self._packages)

    @staticmethod
    def _left_out(package: Package, selected: frozenset[PackageId]) -> LeftOut | None:
        if package.id not in selected:
            return LeftOut("not-selected")
        return LeftOut(package.absence) if package.absence else None

    def _link(self) -> tuple[list[list[int]], list[int]]:
        """The dependents of each package, and how many things each marker waits for.

        Leaves come first, so markers that have nothing to wait for are settled on the way.
        """
        parents: list[list[int]] = [[] for _ in self._layer]
        waiting = [0] * len(self._layer)
        for number in range(len(self._packages)):
            waiting[number] = 1 if self._layer[number] is None else 0
            for child in self._children[number]:
                if waiting[child]:
                    parents[child].append(number)
                    waiting[number] += 1
        return parents, waiting

    def _settle_markers(self, number: int) -> None:
        """Settle this marker, and then those of dependents that waited for nothing else."""
        settled = [number]
        while settled:
            number = settled.pop()
            if isinstance(self._layer[number], Done):
                self._manifests.append(number)
            for parent in self._parents[number]:
                self._waiting[parent] -= 1
                if self._waiting[parent] == 0:
                    settled.append(parent)

    def _post_order(self, root: int) -> list[int]:
        """The closure of `root`, dependencies first, itself last."""
        self._visit += 1
        visit, seen, children = self._visit, self._seen, self._children
        order: list[int] = []
        seen[root] = visit
        stack = [(root, iter(children[root]))]
        while stack:
            number, rest = stack[-1]
            for child in rest:
                if seen[child] != visit:
                    seen[child] = visit
                    if children[child]:
                        stack.append((child, iter(children[child])))
                        break
                    order.append(child)
            else:
                order.append(number)
                stack.pop()
        return order

    def _missing(self, number: int, why: str, index: int) -> Missing:
        if number >= len(self._packages):
            key = self._unknown[number - len(self._packages)]
            return Missing(key, str(key), None, "unknown-id", index)
        package = self._packages[number]
        return Missing(package.id, package.name, package.tag, why, index)  # type: ignore[arg-type]
