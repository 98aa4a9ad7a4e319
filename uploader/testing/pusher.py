"""A scripted pusher for tests of the engine: each step waits until the test lets it end, and how."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
import anyio.lowlevel

from uploader.model.outcome import Done, Tagged
from uploader.testing.packages import a_layer

if TYPE_CHECKING:
    from uploader.errors import UploaderError
    from uploader.graph.plan import Closure
    from uploader.model.package import Package

Kind = Literal["layer", "manifest", "confirm"]
Step: TypeAlias = "tuple[Kind, str]"
"""What is done, for the package of which id: `("layer", "zlib")`."""


@dataclass
class _Gate:
    event: anyio.Event
    problem: UploaderError | None = None


class ScriptedPusher:
    """Fits the engine's `Pusher`. Mutable: the steps that have started, are running, have ended, were cancelled.

    Layers and manifests are held until `end` is called for them, before or after they have started; with
    `held=False` only for one turn of the loop. `there` are the packages whose manifest is confirmed when it is asked
    for; what is in `silent` gets no answer then.
    """

    def __init__(self, *, held: bool = True) -> None:
        self.started: list[Step] = []
        self.running: list[Step] = []
        self.ended: list[Step] = []
        self.cancelled: list[Step] = []
        self.there: set[str] = set()
        self.silent: set[str] = set()
        self.most_layers = 0
        self.most_manifests = 0
        self.most_tasks = 0
        self.closures: dict[str, Closure] = {}
        self._held = held
        self._gates: defaultdict[Step, _Gate] = defaultdict(lambda: _Gate(anyio.Event()))

    def end(self, kind: Kind, key: str, problem: UploaderError | None = None) -> None:
        """Let the step end, well or with an error."""
        gate = self._gates[kind, key]
        gate.problem = problem
        gate.event.set()

    async def end_and_settle(self, kind: Kind, key: str, problem: UploaderError | None = None) -> None:
        """Let the step end, and wait until all that follows from it has happened."""
        self.end(kind, key, problem)
        await anyio.wait_all_tasks_blocked()

    async def push_layer(self, package: Package) -> Done:
        """Held, then done or failed as scripted."""
        await self._pass("layer", package)
        return Done(a_layer(package.id), "uploaded")

    async def push_manifest(self, package: Package, closure: Closure) -> Tagged:
        """Held, then done or failed as scripted."""
        self.closures[package.id] = closure
        await self._pass("manifest", package)
        return tagged(package.id, closure)

    async def confirm_manifest(self, package: Package) -> Tagged | None:
        """As `there` and `silent` say."""
        self.started.append(("confirm", package.id))
        if package.id in self.silent:
            await anyio.sleep_forever()
        return tagged(package.id, self.closures[package.id]) if package.id in self.there else None

    async def _pass(self, kind: Kind, package: Package) -> None:
        step: Step = (kind, package.id)
        self.started.append(step)
        self.running.append(step)
        self._count()
        gate = self._gates[step]
        try:
            if self._held:
                await gate.event.wait()
            else:
                await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(step)
            raise
        finally:
            self.running.remove(step)
        self.ended.append(step)
        if gate.problem is not None:
            raise gate.problem

    def _count(self) -> None:
        layers = sum(kind == "layer" for kind, _ in self.running)
        self.most_layers = max(self.most_layers, layers)
        self.most_manifests = max(self.most_manifests, len(self.running) - layers)
        self.most_tasks = max(self.most_tasks, len(anyio.get_running_tasks()))


def tagged(key: str, closure: Closure) -> Tagged:
    """The outcome of a manifest that was pushed."""
    return Tagged(a_layer(f"manifest of {key}").descriptor, pushed=True, missing=closure.missing)
