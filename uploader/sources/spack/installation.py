"""What the layers of one store say beside their files: where all was installed, and whose prefixes they may name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploader.sources.spack.dependencies import ALL, LINK, breadth_first, closure, depth_first, narrowed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from uploader.sources.spack.database import Database, Record
    from uploader.sources.spack.places import Places


@dataclass(frozen=True, slots=True)
class Installation:
    """For one package; all paths are those that the store records."""

    store: str
    spack: str
    prefix: str
    hash_to_prefix: Mapping[str, str]
    sought: tuple[str, ...]
    """The paths whose mention makes a text relocatable, none of them below another."""


class Installations:
    """Makes them for the specs of one store, when they are asked for: together they would be large."""

    def __init__(self, database: Database, places: Places, spack: str) -> None:
        self.database = database
        self._store = places.recorded
        self._spack = spack
        self._linked = narrowed(database.records, LINK)
        self._has_prefixes_elsewhere = any(
            record.prefix and not record.is_external and not record.prefix.startswith(places.recorded)
            for record in database.records.values()
        )

    def of(self, record: Record) -> Installation:
        """For one spec."""
        relocated = self._relocated_with(record)
        return Installation(
            store=self._store,
            spack=self._spack,
            prefix=record.prefix or "",
            hash_to_prefix={other.hash: other.prefix for other in relocated if other.prefix},
            sought=self._sought(record, relocated),
        )

    def _relocated_with(self, record: Record) -> list[Record]:
        """Itself, what it links, directly or not, and what it runs directly; without externals.

        The order is that of `hash_to_prefix`: Spack 0.x walks depth first, 1.x breadth first.
        """
        records = self.database.records
        walk = depth_first if self.database.version == "7" else breadth_first
        run = [edge.hash for edge in record.edges if "run" in edge.types and edge.hash in records]
        found = dict.fromkeys([*walk(self._linked, record.hash), *run])
        return [records[key] for key in found if not records[key].is_external]

    def _sought(self, record: Record, relocated: Iterable[Record]) -> tuple[str, ...]:
        """The store's root, below which all other sought prefixes lie, save those in another place."""
        if not self._has_prefixes_elsewhere:
            return (self._store,)
        named = closure(self.database.records, [record], ALL) if self.database.version == "7" else relocated
        return _shortest([self._store, *(other.prefix for other in named if other.prefix)])


def _shortest(paths: Iterable[str]) -> tuple[str, ...]:
    """Without those that begin with another of them: whoever finds one of these has found that other one."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not kept or not path.startswith(kept[-1]):
            kept.append(path)
    return tuple(kept)
