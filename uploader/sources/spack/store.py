"""An installed Spack store, `spack:ROOT[#SPEC,…]`, as packages."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from uploader.errors import InputError
from uploader.model.package import Absence, Package, PackageId, Tree
from uploader.model.reference import Tag, parse_tag, tag_from
from uploader.sources.base import Format, Loaded, OpenFile, open_any
from uploader.sources.spack.database import Database, Record, read_database
from uploader.sources.spack.dependencies import (
    ALL,
    RUN_TIME,
    WITHOUT_BUILD,
    closure,
    direct,
)
from uploader.sources.spack.environment import Environments
from uploader.sources.spack.installation import Installations
from uploader.sources.spack.naming import description, platform, spack_tag
from uploader.sources.spack.package_format import SpackFormat
from uploader.sources.spack.places import find_places, find_spack_root
from uploader.sources.spack.recipes import judge_recipes
from uploader.sources.spack.specs import choose_roots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from uploader.sources.spack.database import DependencyType

DESCRIPTION = "org.opencontainers.image.description"


@dataclass(frozen=True, slots=True)
class SpackStore:
    """A store as a source. `specs` choose its roots; without any, those that were installed on request.

    `private` also pushes what may not be given to others. `spack_root` is Spack's own folder, where it cannot be
    found out (`find_spack_root`). `created` (RFC 3339) is the time that Spack 1.x wants in a config.
    """

    root: Path
    specs: tuple[str, ...] = ()
    private: bool = False
    without_build_dependencies: bool = False
    spack_root: str | None = None
    created: str = "1970-01-01T00:00:00+00:00"
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    open_file: OpenFile = open_any

    def load(self) -> Loaded:
        """Read the database, look for the prefixes, and choose; raises InputError."""
        source = f"spack:{self.root}"
        database = read_database(self.root, open_file=self.open_file)
        try:
            roots = choose_roots(database, self.specs)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        types = WITHOUT_BUILD if self.without_build_dependencies else ALL
        return _Reading(self, database, source).load(roots, types)


class _Reading:
    """One reading of a store. Mutable: the notes, gathered on the way."""

    def __init__(self, store: SpackStore, database: Database, source: str) -> None:
        self._store = store
        self._database = database
        self._records = database.records
        self._source = source
        self._notes: list[str] = []
        prefixes = [record.prefix for record in self._records.values() if record.prefix and _is_here(record)]
        self._places = find_places(store.root, prefixes)
        spack = find_spack_root(store.spack_root, store.environment, self._places)
        self._installations = Installations(database, self._places, spack)

    def load(self, roots: Sequence[Record], types: frozenset[DependencyType]) -> Loaded:
        """The roots and all that goes along."""
        records = closure(self._records, roots, types)
        here = {r.hash: self._places.now(r.prefix) for r in records if r.prefix and _is_here(r)}
        environments = Environments(self._records, here)
        packages, formats, companions = [], {}, {}
        for record in records:
            needs = direct(self._records, record, RUN_TIME)
            package, format_ = self._package(record, here.get(record.hash), needs, environments)
            packages.append(package)
            companions[package.id] = _ids(direct(self._records, record, types) - needs)
            if format_ is not None:
                formats[package.id] = format_
        return Loaded(
            self._source,
            tuple(packages),
            tuple(f"{self._source}: {note}" for note in self._all_notes(packages)),
            formats=MappingProxyType(formats),
            roots=_ids(root.hash for root in roots),
            companions=MappingProxyType(companions),
        )

    def _package(
        self, record: Record, place: Path | None, needs: frozenset[str], environments: Environments
    ) -> tuple[Package, Format | None]:
        tag, fault = _tag(record)
        package = Package(
            id=PackageId(record.hash),
            name=record.name,
            version=record.version,
            tag=tag,
            content=None if place is None or record.prefix is None else Tree(place, record.prefix),
            dependencies=tuple(sorted(_ids(needs))),
            platform=platform(record),
            env=environments.of(record),
            annotations=MappingProxyType({DESCRIPTION: description(record, self._database.version)}),
            absence=self._absence(record, place),
        )
        if place is None:
            return package, None
        created = self._store.created.replace("Z", "+00:00")
        return package, SpackFormat(record, place, self._installations, created, fault, self._store.open_file)

    def _absence(self, record: Record, place: Path | None) -> Absence | None:
        if place is None:
            return "not-installed"
        if self._store.private:
            return None
        verdict = judge_recipes(place, record.name, self._store.open_file)
        if verdict.note:
            self._notes.append(f"{record}: {verdict.note}")
        return None if verdict.may_be_given else "not-redistributable"

    def _all_notes(self, packages: Iterable[Package]) -> list[str]:
        said = {
            "not-installed": "recorded, but not installed any more, so left out",
            "not-redistributable": "not redistributable, so left out (--private pushes them)",
        }
        for absence, text in said.items():
            names = [str(self._records[package.id]) for package in packages if package.absence == absence]
            if names:
                self._notes.append(f"{text}: {', '.join(sorted(names))}")
        return self._notes


def _tag(record: Record) -> tuple[Tag, str]:
    """The tag where Spack looks, and what is wrong with it: then another one stands for it in messages."""
    text = spack_tag(record.name, record.version, record.hash)
    try:
        return parse_tag(text), ""
    except InputError as error:
        return tag_from(text), f"{record} cannot be pushed: Spack would look for it under a tag that cannot be: {error}"


def _is_here(record: Record) -> bool:
    return record.is_installed and not record.is_external


def _ids(hashes: Iterable[str]) -> frozenset[PackageId]:
    return frozenset(PackageId(key) for key in hashes)
