"""What the pushes of one process share: registries, processors, the local record, uploads on their way."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import anyio.to_thread

from uploader.errors import SourceError
from uploader.packing.ready import FileBody
from uploader.service.contents import Contents
from uploader.service.uploads import RepositoryUploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from uploader.model.descriptor import Layer
    from uploader.model.package import Blob, Tree
    from uploader.record import Record
    from uploader.registry.shared import RegistryPool
    from uploader.service.allowed import Allowed
    from uploader.service.contents import PackingRules


class SharedContents(Contents):
    """Layers whose packing takes turns with that of other pushes, and that are read only where jobs may read.

    What was checked when a job came in may be a link to elsewhere when it is read: so it is opened, checked, and read
    as what was opened.
    """

    def __init__(
        self, record: Record, rules: PackingRules, processors: anyio.CapacityLimiter, allowed: Allowed
    ) -> None:
        super().__init__(record, rules)
        self._processors = processors
        self._allowed = allowed
        self._opens_quickly = False

    async def _open_blob(self, blob: Blob, *, afresh: bool) -> tuple[Layer, FileBody]:
        with self._allowed.held(blob.path) as held:
            layer, body = await super()._open_blob(blob, afresh=afresh)
            if not held.is_same(body.status):
                body.close()
                raise SourceError(f"read {str(blob.path)!r}: it was replaced by another file meanwhile; try again")
        return layer, body

    async def _open_file(self, path: Path) -> FileBody:
        """Always in a thread, as all reading then is: a file system that hangs must not stop the other pushes."""
        return await anyio.to_thread.run_sync(FileBody.at, path)

    @contextmanager
    def _held(self, tree: Tree) -> Iterator[Tree]:
        with self._allowed.held(tree.root) as held:
            try:
                yield replace(tree, root=held.path)
            except SourceError as error:
                said = str(error).replace(str(held.path), str(tree.root))
                stage: Literal["read", "pack"] = "pack" if error.stage == "pack" else "read"
                raise SourceError(said, stage=stage, kind=error.kind) from error


@dataclass(slots=True)
class _Used:
    uploads: RepositoryUploads = field(default_factory=RepositoryUploads)
    pushes: int = 0


class Shared:
    """Handed to every push. Mutable: the repositories that pushes go to now."""

    def __init__(self, registries: RegistryPool, record: Record, processors: anyio.CapacityLimiter) -> None:
        self.registries = registries
        self.record = record
        self.processors = processors
        self._repositories: dict[str, _Used] = {}

    @contextmanager
    def uploads(self, where: str) -> Iterator[RepositoryUploads]:
        """The uploads to a repository, for as long as some push goes there."""
        used = self._repositories.setdefault(where, _Used())
        used.pushes += 1
        try:
            yield used.uploads
        finally:
            used.pushes -= 1
            if not used.pushes:
                del self._repositories[where]


@dataclass(frozen=True, slots=True)
class Beside:
    """What a push is bound to that does not run alone."""

    shared: Shared
    allowed: Allowed
    before_write: Callable[[], None] = lambda: None
    resumed: bool = False
