"""What a store has installed, as `.spack-db/index.json` tells it (database versions 7 and 8)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from uploader.errors import InputError
from uploader.sources.base import OpenFile, open_any
from uploader.sources.spack.places import database_at

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DatabaseVersion = Literal["7", "8"]
DependencyType = Literal["build", "link", "run", "test"]

VERSIONS: Final[tuple[DatabaseVersion, ...]] = ("7", "8")
LARGEST_BYTES: Final = 1 << 30

_TYPES: Final = frozenset({"build", "link", "run", "test"})


@dataclass(frozen=True, slots=True)
class Edge:
    """One spec needs another, for these purposes."""

    hash: str
    name: str
    types: frozenset[DependencyType]


@dataclass(frozen=True, slots=True)
class Record:
    """One spec of the database; `spec` is its node, as it lies there. `prefix` is where it was installed."""

    hash: str
    name: str
    version: str
    prefix: str | None
    is_installed: bool
    is_explicit: bool
    is_external: bool
    edges: tuple[Edge, ...]
    spec: Mapping[str, Any] = field(repr=False, hash=False, compare=False)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}/{self.hash[:7]}"


@dataclass(frozen=True, slots=True)
class Database:
    """Every recorded spec by its hash. Version 7 was written by Spack 0.19 to 0.23, version 8 by 1.x."""

    version: DatabaseVersion
    records: Mapping[str, Record]


def read_database(root: Path, *, most_bytes: int = LARGEST_BYTES, open_file: OpenFile = open_any) -> Database:
    """The database of the store at `root`; raises InputError where there is none, or it cannot be understood."""
    path = database_at(root)
    try:
        with open_file(path) as stream:
            content = stream.read(most_bytes + 1)
    except OSError as error:
        hint = "give the root of an installed store (as `spack config get config` says under install_tree)"
        if isinstance(error, PermissionError):
            hint = "run as a user who may read it"
        raise InputError(f"spack store {root}: read {path}: {error.strerror}; {hint}") from error
    if len(content) > most_bytes:
        raise InputError(f"spack store {root}: {path} is longer than {most_bytes} bytes, which no database is")
    try:
        return parse_database(content)
    except InputError as error:
        raise InputError(f"spack store {root}: {path}: {error}") from None


def parse_database(content: bytes) -> Database:
    """Read the text of `index.json`; raises InputError without its place."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON, or cut short ({error}); `spack reindex` makes it anew") from None
    database = document.get("database") if isinstance(document, dict) else None
    installs = database.get("installs") if isinstance(database, dict) else None
    if not isinstance(database, dict) or not isinstance(installs, dict):
        raise InputError('expected {"database": {"version": …, "installs": {…}}}; `spack reindex` makes it anew')
    version = str(database.get("version"))
    if version not in VERSIONS:
        raise InputError(
            f"its version is {version[:20]}, and this program reads {' and '.join(VERSIONS)} (Spack 0.19 to 1.x); "
            "let a Spack of that range rewrite it, by `spack reindex`"
        )
    return Database(version, {key: _record(key, entry) for key, entry in installs.items()})


def _record(key: str, entry: object) -> Record:
    """Raises InputError for an entry that makes no sense: better than a graph with holes that nobody sees."""
    try:
        entry = cast("dict[str, Any]", entry)
        spec = entry["spec"]
        path = entry.get("path")
        _check_node(key, spec)
        return Record(
            hash=key,
            name=_text(spec["name"]),
            version=_text(spec["version"]),
            prefix=str(PurePosixPath(path)) if isinstance(path, str) and path.startswith("/") else None,
            is_installed=bool(entry.get("installed", True)),
            is_explicit=bool(entry.get("explicit", False)),
            is_external=bool(spec.get("external")),
            edges=tuple(sorted(map(edge_of, spec.get("dependencies", ())), key=lambda edge: (edge.name, edge.hash))),
            spec=spec,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"the entry {key[:40]!r} is not one of an installed spec ({type(error).__name__}: {error}); "
            "`spack reindex` makes the database anew"
        ) from error


def _check_node(key: str, spec: Mapping[str, Any]) -> None:
    """What an index is made of, and what is printed of a spec, must be of the kinds that Spack writes."""
    if spec.get("hash", key) != key:
        raise ValueError(f"its spec has the hash {str(spec['hash'])[:40]!r}")
    for name in ("arch", "compiler", "parameters"):
        if not isinstance(spec.get(name) or {}, dict):
            raise ValueError(f"{name} is {str(spec[name])[:40]!r}")  # noqa: TRY004 (all are told alike)
    if compiler := spec.get("compiler"):
        _text(compiler["name"])
        _text(compiler["version"])


def edge_of(dependency: Mapping[str, Any]) -> Edge:
    """An edge as a node holds it; the types lie in another place in what Spack wrote before 0.21."""
    parameters = dependency.get("parameters")
    types = dependency.get("type", ()) if parameters is None else parameters["deptypes"]
    return Edge(
        _text(dependency["hash"]),
        _text(dependency["name"]),
        cast("frozenset[DependencyType]", _TYPES & frozenset(types)),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value
