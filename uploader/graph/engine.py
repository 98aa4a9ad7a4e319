"""Runs a plan: a bounded number of workers take blobs and manifests from it until it is finished or stopped.

Two lanes, so that a manifest never waits behind a large blob: as many workers for blobs, and as many for manifests, as
there are jobs. A worker takes its next task itself; 100,000 packages are never 100,000 tasks. How many requests really
go out at a time is the pace's business, below the pusher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import anyio

from uploader.errors import RegistryError, SourceError, UnusableError
from uploader.model.events import BlobStarted, LayerSettled, ManifestSettled
from uploader.model.outcome import Done, Failed, Tagged

if TYPE_CHECKING:
    from uploader.graph.plan import Closure, Plan
    from uploader.model.events import Emit
    from uploader.model.package import Package

GRACE_SECONDS = 2.0
"""After a stop, for a manifest that is being written, and then for the question whether it is there."""


class Pusher(Protocol):
    """What the engine needs of the world. Expected failures are SourceError and RegistryError."""

    async def push_layer(self, package: Package) -> Done:
        """Make the package's layer be in the repository."""

    async def push_manifest(self, package: Package, closure: Closure) -> Tagged:
        """Make the package's tag point at a manifest of these layers."""

    async def confirm_manifest(self, package: Package) -> Tagged | None:
        """After `push_manifest` was cancelled: whether the manifest is there all the same."""


async def run(
    plan: Plan, pusher: Pusher, *, jobs: int, emit: Emit, stop: anyio.Event, grace_seconds: float = GRACE_SECONDS
) -> UnusableError | None:
    """Run the plan to its end, or until `stop` is set; every outcome in the plan is true afterwards.

    After `stop`, blobs are given up at once, and manifests that are being written get `grace_seconds` to end. Returns
    the error that made the run end early, if one did.
    """
    engine = _Engine(plan, pusher, jobs, emit, grace_seconds)
    try:
        if not stop.is_set():
            await engine.run(stop)
    finally:  # also when we are cancelled from outside
        if not plan.finished:
            plan.interrupt(str(engine.unusable) if engine.unusable else "the run was interrupted")
    return engine.unusable


class _Engine:
    """Mutable: the task groups, the number of manifest workers, and why the run ends early, if it does."""

    def __init__(self, plan: Plan, pusher: Pusher, jobs: int, emit: Emit, grace_seconds: float) -> None:
        self._plan = plan
        self._pusher = pusher
        self._jobs = jobs
        self._emit = emit
        self._grace_seconds = grace_seconds
        self._stopping = False
        self._manifest_workers = 0
        self.unusable: UnusableError | None = None

    async def run(self, stop: anyio.Event) -> None:
        async with anyio.create_task_group() as watch:
            async with anyio.create_task_group() as self._manifests, anyio.create_task_group() as self._blobs:
                watch.start_soon(self._wait_for, stop)
                for _ in range(self._jobs):
                    if (package := self._plan.take_blob()) is not None:
                        self._blobs.start_soon(self._blob_worker, package)
            watch.cancel_scope.cancel()

    async def _wait_for(self, stop: anyio.Event) -> None:
        await stop.wait()
        self._end(self._grace_seconds)

    def _end(self, grace_seconds: float) -> None:
        self._stopping = True
        self._blobs.cancel_scope.cancel()
        self._manifests.cancel_scope.deadline = anyio.current_time() + grace_seconds

    async def _blob_worker(self, package: Package | None) -> None:
        while package is not None:
            await self._push_layer(package)
            self._start_manifest_workers()
            package = None if self._stopping else self._plan.take_blob()

    def _start_manifest_workers(self) -> None:
        while self._manifest_workers < self._jobs and not self._stopping:
            package = self._plan.take_manifest()
            if package is None:
                return
            self._manifest_workers += 1
            self._manifests.start_soon(self._manifest_worker, package)

    async def _manifest_worker(self, package: Package | None) -> None:
        while package is not None:
            await self._push_manifest(package)
            package = None if self._stopping else self._plan.take_manifest()
        self._manifest_workers -= 1

    async def _push_layer(self, package: Package) -> None:
        self._emit(BlobStarted(package))
        outcome: Done | Failed
        try:
            outcome = await self._pusher.push_layer(package)
        except SourceError as error:
            outcome = Failed(error, error.stage)
        except RegistryError as error:
            outcome = Failed(error, "blob")
        except UnusableError as error:
            self._give_up(error)
            return
        self._plan.settle_layer(package, outcome)
        self._emit(LayerSettled(package, outcome))

    async def _push_manifest(self, package: Package) -> None:
        outcome: Tagged | Failed
        try:
            outcome = await self._pusher.push_manifest(package, self._plan.closure(package))
        except SourceError as error:  # a layer that was to be sent again could not be read any more
            outcome = Failed(error, error.stage)
        except RegistryError as error:
            outcome = Failed(error, "manifest")
        except UnusableError as error:
            self._give_up(error)
            return
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(self._grace_seconds, shield=True):
                if (confirmed := await self._pusher.confirm_manifest(package)) is not None:
                    self._plan.settle_manifest(package, confirmed)
                    self._emit(ManifestSettled(package, confirmed))
            raise
        self._plan.settle_manifest(package, outcome)
        self._emit(ManifestSettled(package, outcome))

    def _give_up(self, error: UnusableError) -> None:
        self.unusable = self.unusable or error
        self._end(0)
