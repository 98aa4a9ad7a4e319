"""The graph file `uploader/graph/v1`, read from JSON or JSON Lines (`graph_format` says what it may hold)."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from uploader.errors import SHORT, InputError, UnusableError
from uploader.model.digest import Digest
from uploader.model.package import Blob, Content, Package, PackageId, Platform, Tree
from uploader.model.reference import Tag, parse_tag, tag_from
from uploader.sources.base import Loaded, OpenFile, open_any
from uploader.sources.graph_format import SCHEMA, Header, PackageEntry, PlatformEntry, checked, graph_schema, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["GraphFile", "graph_schema"]

_DEEPEST_CONFIG = 64
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A graph file as a source; without a path the standard input. Whole documents and lines have limits."""

    path: Path | None
    document_bytes: int = 1 << 30
    line_bytes: int = 16 << 20
    open_file: OpenFile = open_any

    def load(self) -> Loaded:
        """Read and check it all; raises InputError. Whether the paths exist is found out later."""
        with _collector_paused():
            return self._load()

    def _load(self) -> Loaded:
        name = "standard input" if self.path is None else str(self.path)
        name = name if name.isprintable() else repr(name)
        try:
            if self.path is None:
                if sys.stdin is None:
                    raise InputError("standard input is closed: pipe the graph in, or name its file")
                return self.read(sys.stdin.buffer, name, Path())
            with self.open_file(self.path) as stream:
                return self.read(stream, name, self.path.parent)
        except OSError as error:
            is_folder = isinstance(error, IsADirectoryError)
            hint = "; for a folder write python:PREFIX or spack:ROOT" if is_folder else ""
            said = f"read graph file {name}: {error.strerror or error}{hint}"
            raise (UnusableError(said) if error.errno in SHORT else InputError(said)) from error

    def read(self, stream: BinaryIO, name: str, folder: Path) -> Loaded:
        """Read it from `stream`; `name` is for messages, relative paths are relative to `folder`."""
        first = stream.readline(self.line_bytes + 1)
        named_lines = self.path is not None and self.path.suffix == ".jsonl"
        if named_lines or _starts_lines(first):
            lines = _Lines(name, first, stream, self.line_bytes)
            return _load(name, lines.header(), lines.entries(), folder)
        content = first + stream.read(max(0, self.document_bytes + 1 - len(first)))
        if len(content) > self.document_bytes:
            raise InputError(
                f"{name}: longer than {self.document_bytes} bytes; write it as JSON Lines (one package per line)"
            )
        if not content.strip():
            raise InputError(f"{name}: empty; expected a graph ({SCHEMA})")
        del first
        return _load(name, *_document(name, content), folder)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without garbage collection: a big graph is millions of new objects, all in use, and looking through
    them again and again doubles the time. The pause is the whole process's, but lasts seconds at most."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _starts_lines(first: bytes) -> bool:
    """Whether this first line is the header of JSON Lines: a whole object with a schema, without packages."""
    if len(first) > 1 << 16 or not first.endswith(b"\n"):  # headers are short; a last line cannot be one
        return False
    try:
        header = json.loads(first.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "schema" in header and "packages" not in header


def _document(name: str, content: bytes) -> tuple[Header, Iterator[tuple[str, object]]]:
    """The header of a JSON document, and its packages with their places."""
    parser = _Parser()
    document = parser.parse(content, name)
    if not isinstance(document, dict):
        raise InputError(f"{name}: the document is {shown(document)}: expected an object")
    packages = document.get("packages")
    entries = packages if isinstance(packages, list) else []
    for owner, key in parser.repeated:
        inside = (i for i, package in enumerate(entries) if _holds(package, owner))
        index = next(inside, None)
        place = name if index is None else _label(f"{name}: packages[{index}]", entries[index])
        raise InputError(f"{place}: the key {shown(key)} is there twice in one object")
    header = _header(name, {key: value for key, value in document.items() if key != "packages"})
    if not isinstance(packages, list):
        what = f"is {shown(packages)}" if "packages" in document else "is missing"
        raise InputError(f'{name}: "packages" {what}: expected a list of packages')
    return header, ((f"{name}: packages[{index}]", package) for index, package in enumerate(entries))


class _Lines:
    """A stream of JSON Lines: a header, then packages."""

    def __init__(self, name: str, first: bytes, stream: BinaryIO, most: int) -> None:
        self._name = name
        self._first = first
        self._stream = stream
        self._most = most
        self._parser = _Parser()

    def header(self) -> Header:
        if not self._first.strip():
            raise InputError(f'{self._name}, line 1 is empty: expected {{"schema": "{SCHEMA}"}}')
        raw = self._parse(self._first, 1)
        if isinstance(raw, dict) and "packages" in raw:
            raise InputError(f'{self._name}, line 1: "packages" is given: in JSON Lines each has its own line')
        return _header(f"{self._name}, line 1", raw)

    def entries(self) -> Iterator[tuple[str, object]]:
        for number, line in enumerate(iter(lambda: self._stream.readline(self._most + 1), b""), 2):
            if line.strip():
                yield f"{self._name}, line {number}", self._parse(line, number)

    def _parse(self, line: bytes, number: int) -> object:
        place = f"{self._name}, line {number}"
        if len(line) > self._most:
            raise InputError(f"{place}: longer than {self._most} bytes")
        parsed = self._parser.parse(line.rstrip(), place, first_line=number)
        for _, key in self._parser.repeated:
            raise InputError(f"{_label(place, parsed)}: the key {shown(key)} is there twice in one object")
        return parsed


class _Parser:
    """Parses JSON strictly, and remembers the objects in which a key was there twice."""

    def __init__(self) -> None:
        self.repeated: list[tuple[object, str]] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=_refuse_constant)

    def parse(self, content: bytes, place: str, *, first_line: int = 1) -> object:
        try:
            return self._decoder.decode(content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            at = f"byte {content[error.start]:#04x} at offset {error.start}"
            raise InputError(f"{place}: not UTF-8: {at}") from error
        except json.JSONDecodeError as error:
            at = f"line {error.lineno + first_line - 1}, column {error.colno}"
            raise InputError(f"{place}: not JSON: {error.msg} at {at}") from error
        except RecursionError:
            raise InputError(f"{place}: nested too deeply to be a graph") from None
        except ValueError as error:  # NaN and its like, or a number with thousands of digits
            raise InputError(f"{place}: not JSON: {str(error).partition(';')[0]}") from error

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            self.repeated.append((made, twice))
        return made


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _holds(whole: object, part: object) -> bool:
    """Whether `part` itself is somewhere inside."""
    todo = [whole]
    while todo:
        value = todo.pop()
        if value is part:
            return True
        if isinstance(value, dict):
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
    return False


# --- from entries to packages ----------------------------------------------------------------------------


def _load(name: str, header: Header, entries: Iterable[tuple[str, object]], folder: Path) -> Loaded:
    """Check the entries one by one, and make the packages."""
    below = os.path.abspath(folder)  # noqa: PTH100 (Path has nothing that also removes "..")
    platform = _platform(header.platform, Platform())
    graph = _Graph()
    for place, raw in entries:
        try:
            entry = checked(PackageEntry, raw)
            graph.add(_package(entry, below, platform), made_tag=entry.tag is None)
        except InputError as error:
            raise InputError(f"{_label(place, raw)}: {error}") from None
    if not graph.packages:
        raise InputError(f"{name}: the graph has no packages")
    return Loaded(name, tuple(graph.packages.values()), made_tags=frozenset(graph.made_tags))


class _Graph:
    """The packages so far; refuses a second one with the same id or the same given tag."""

    def __init__(self) -> None:
        self.packages: dict[PackageId, Package] = {}
        self.made_tags: set[PackageId] = set()
        self._given_tags: dict[Tag, PackageId] = {}

    def add(self, package: Package, *, made_tag: bool) -> None:
        if self.packages.setdefault(package.id, package) is not package:
            raise InputError("a package before it has the same id")
        if made_tag:
            self.made_tags.add(package.id)
        elif (other := self._given_tags.setdefault(package.tag, package.id)) != package.id:
            raise InputError(f'"tag" is {package.tag!r}, which package {shown(other)} has too')


def _header(name: str, raw: object) -> Header:
    if isinstance(raw, dict) and raw.get("schema") != SCHEMA:  # first: another version has other keys
        what = f"is {shown(raw['schema'])}" if "schema" in raw else "is missing"
        raise InputError(f'{name}: "schema" {what}: expected "{SCHEMA}"')
    try:
        return checked(Header, raw)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _package(entry: PackageEntry, folder: str, platform: Platform) -> Package:
    """The package that an entry describes; raises InputError without its place."""
    made = f"{entry.name}-{entry.version}-{entry.id}"
    return Package(
        id=PackageId(entry.id),
        name=entry.name,
        version=entry.version,
        tag=tag_from(made) if entry.tag is None else parse_tag(entry.tag),
        content=_content(entry, folder),
        dependencies=tuple(sorted({PackageId(key) for key in entry.dependencies})),
        platform=_platform(entry.platform, platform),
        env=MappingProxyType(entry.env),
        annotations=MappingProxyType(entry.annotations),
        config=_canonical(entry.config) if entry.config else "{}",
        absence=None if entry.push else "not-redistributable",
    )


def _content(entry: PackageEntry, folder: str) -> Content | None:
    if entry.at is not None and entry.prefix is None:
        raise InputError('"at" is given without "prefix", whose place in the image it says')
    if entry.prefix is not None:
        if entry.blob is not None:
            raise InputError('both "blob" and "prefix" are given: expected one of them')
        root = os.path.join(folder, entry.prefix)  # noqa: PTH118 (half the time of Path's "/")
        return Tree(Path(root), entry.at or "/" + os.path.abspath(root).lstrip("/"))  # noqa: PTH100
    if entry.blob is not None:
        blob = entry.blob
        return Blob(
            Path(os.path.join(folder, blob.path)),  # noqa: PTH118
            digest=None if blob.digest is None else Digest.parse(blob.digest),
            size=blob.size,
            media_type=blob.media_type,
            diff_id=None if blob.diff_id is None else Digest.parse(blob.diff_id),
        )
    if entry.push:
        raise InputError('neither "blob" nor "prefix" is given: expected one of them, or "push": false')
    return None


def _platform(entry: PlatformEntry | None, default: Platform) -> Platform:
    return default if entry is None else Platform(entry.os, entry.architecture, entry.variant or "")


def _canonical(config: Mapping[str, object]) -> str:
    """The config as compact JSON text, keys in the order given."""
    too_deep = f'"config" is nested deeper than {_DEEPEST_CONFIG} levels'
    try:
        text = _ENCODER.encode(config)
        text.encode()
    except RecursionError:
        raise InputError(too_deep) from None
    except UnicodeEncodeError as error:
        raise InputError(f'"config" holds half a character: {error.object[error.start]!r}') from None
    except ValueError:  # 1e999 parses as infinity
        raise InputError('"config" holds a number too large for a double') from None
    # Counting is much cheaper than walking, and proves nearly every config flat.
    if text.count("{") + text.count("[") > _DEEPEST_CONFIG and _depth(config) > _DEEPEST_CONFIG:
        raise InputError(too_deep)
    return text


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level := [inner for inner in level if isinstance(inner, dict | list)]:
        depth += 1
        level = [*chain.from_iterable(v.values() if isinstance(v, dict) else v for v in level)]
    return depth


def _label(place: str, raw: object) -> str:
    key = raw.get("id") if isinstance(raw, dict) else None
    return f"{place} (package {shown(key)})" if isinstance(key, str) else place
