"""The environment in which an image of a package runs: the folders of its prefixes, as Spack's default inspections say.

What a recipe would set by code is not there: recipes are not run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from uploader.oci.image_config import DEFAULT_PATH
from uploader.sources.spack.dependencies import RUN_TIME, dependents_first, narrowed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from uploader.sources.spack.database import Record

_INSPECTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ACLOCAL_PATH": ("share/aclocal",),
        "CMAKE_PREFIX_PATH": ("",),
        "MANPATH": ("share/man", "man"),
        "PATH": ("bin",),
        "PKG_CONFIG_PATH": ("share/pkgconfig", "lib64/pkgconfig", "lib/pkgconfig"),
    }
)
_SYSTEM: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ACLOCAL_PATH": "/usr/share/aclocal",
        "MANPATH": "/usr/share/man",
        "PATH": DEFAULT_PATH,
        "PKG_CONFIG_PATH": "/usr/share/pkgconfig:/usr/lib/pkgconfig",
    }
)


class Environments:
    """Makes the environments of specs of one store. Mutable: the one that was made last.

    The prefixes are looked at when it is made, an environment is put together when somebody reads it: it is long where
    much is needed, and to hold one for each of thousands of specs would take hundreds of megabytes.
    """

    def __init__(self, records: Mapping[str, Record], places: Mapping[str, Path]) -> None:
        """`places` says, by hash, where a prefix lies now."""
        self._needed = narrowed(records, RUN_TIME)
        self._found = {key: _inspect(str(place), records[key].prefix or "") for key, place in places.items()}
        self._last: tuple[str, Mapping[str, str]] = ("", {})

    def of(self, record: Record) -> Mapping[str, str]:
        """For a spec and all it needs at run time, whatever becomes of their layers."""
        return _Environment(self, record.hash)

    def read(self, key: str) -> Mapping[str, str]:
        """The spec itself first, the system last."""
        last = self._last  # once, so that another thread cannot change it in between
        if last[0] != key:
            last = self._last = (key, self._make(key))
        return last[1]

    def _make(self, key: str) -> Mapping[str, str]:
        parts: dict[str, list[str]] = {name: [] for name in _INSPECTIONS}
        for needed in dependents_first(self._needed, key):
            for name, folders in self._found.get(needed, {}).items():
                parts[name] += folders
        for name, system in _SYSTEM.items():
            parts[name].append(system)
        return {name: ":".join(folders) for name, folders in parts.items() if folders}


@dataclass(frozen=True, slots=True, eq=False)
class _Environment(Mapping[str, str]):
    """Variables that are put together when they are read."""

    environments: Environments
    key: str

    def __getitem__(self, name: str) -> str:
        return self.environments.read(self.key)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.environments.read(self.key))

    def __len__(self) -> int:
        return len(self.environments.read(self.key))


def _inspect(place: str, prefix: str) -> Mapping[str, tuple[str, ...]]:
    return {
        name: there
        for name, folders in _INSPECTIONS.items()
        if (there := tuple(f"{prefix}/{f}" if f else prefix for f in folders if _is_folder(f"{place}/{f}")))
    }


def _is_folder(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (thousands of them)
