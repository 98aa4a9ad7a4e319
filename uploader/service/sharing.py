"""What the pushes of one process share: registries, processors, the local record, uploads on their way."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from uploader.service.contents import Contents
from uploader.service.uploads import RepositoryUploads

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anyio

    from uploader.record import Record
    from uploader.registry.shared import RegistryPool
    from uploader.service.contents import PackingRules


class SharedContents(Contents):
    """Layers whose packing takes turns with that of other pushes."""

    def __init__(self, record: Record, rules: PackingRules, processors: anyio.CapacityLimiter) -> None:
        super().__init__(record, rules)
        self._processors = processors


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
