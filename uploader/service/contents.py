"""From a package to its layer: what the record remembers, what must be read, what must be packed."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.to_thread

from uploader.errors import SourceError, source_kind
from uploader.model.package import Blob, Package, Tree
from uploader.packing.cancelling import Cancelled
from uploader.packing.pack import pack
from uploader.packing.ready import FileBody, measure
from uploader.packing.tree import Fingerprint, fingerprint
from uploader.record import FileState, Record, TreeKey, TreeState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from uploader.model.descriptor import Layer
    from uploader.model.digest import Digest
    from uploader.model.package import PackageId, Platform
    from uploader.packing.codecs import Codec
    from uploader.sources.base import Format

_T = TypeVar("_T")

_SMALL_BYTES = 256 * 1024
_QUICK_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class PackingRules:
    """How trees are packed, where packed layers lie until they are sent, and how ready blobs are checked.

    `formats` are what some packages need in their layers. On the platforms of `on_base` a base image lies below, so the
    entries of parent folders (`tmp/`, `root/`) are left out: they would spoil its modes.
    """

    codec: Codec
    library: str
    temp_dir: Path | None = None
    check_diff_ids: bool = False
    formats: Mapping[PackageId, Format] = field(default_factory=dict)
    on_base: frozenset[Platform] = frozenset()


class Contents:
    """The layers of packages. Work that needs a processor runs in threads, no more than there are processors.

    Save where a thread costs more than the work: a small file is read at once while opening files takes no time.
    Mutable: whether that is so.
    """

    def __init__(self, record: Record, rules: PackingRules, *, threads: int | None = None) -> None:
        self._record = record
        self._rules = rules
        self._processors = anyio.CapacityLimiter(threads or os.cpu_count() or 1)
        self._opens_quickly = True

    async def recall(self, package: Package) -> Layer | None:
        """The layer of a tree that has not changed since it was packed last; the files are not read.

        Raises SourceError when the tree cannot be walked.
        """
        match package.content:
            case Tree() as tree if self._record.has_tree(key := self._tree_key(package, tree)):
                measured = time.time_ns()
                with self._held(tree) as held:
                    found = await self._work(fingerprint, held)
                return self._record.layer_of_tree(key, _state(found, measured))
            case _:
                return None

    def recall_as_it_was(self, package: Package, digest: Digest) -> Layer | None:
        """The layer that a tree was packed to last, if it has this digest; its files are not even looked for."""
        if not isinstance(package.content, Tree):
            return None
        layer = self._record.layer_of_tree(self._tree_key(package, package.content), None)
        return layer if layer is not None and layer.descriptor.digest == digest else None

    @asynccontextmanager
    async def open(self, package: Package, *, afresh: bool = False) -> AsyncIterator[tuple[Layer, FileBody]]:
        """The package's layer and its bytes, which are those that were hashed; raises SourceError.

        `afresh`: the content is read, whatever the record says of it.
        """
        match package.content:
            case Blob() as blob:
                layer, body = await self._open_blob(blob, afresh=afresh or self._rules.check_diff_ids)
            case Tree() as tree:
                layer, body = await self._pack(package, tree)
            case None:
                raise SourceError(f"package {package.id!r} has no content to push")
        try:
            yield layer, body
        finally:
            body.close()

    async def _open_blob(self, blob: Blob, *, afresh: bool) -> tuple[Layer, FileBody]:
        measured = time.time_ns()
        if not afresh and self._record.has_file(_file_key(blob)):
            body = await self._open_file(blob.path)
            known = self._record.layer_of_file(_file_key(blob), FileState.of(body.status, measured))
            if known is not None and _agrees(known, blob):
                return known, body
            body.close()
        body = await self._open_file(blob.path)
        try:
            layer = await self._measure(body, blob)
        except BaseException:
            body.close()
            raise
        self._record.remember_file(_file_key(blob), FileState.of(body.status, measured), layer)
        return layer, body

    async def _open_file(self, path: Path) -> FileBody:
        """In a thread, unless the one before took no time; on a file system over a network it may."""
        if self._opens_quickly:
            body, seconds = _open_timed(path)
        else:
            body, seconds = await anyio.to_thread.run_sync(_open_timed, path)
        self._opens_quickly = seconds < _QUICK_SECONDS
        return body

    async def _measure(self, body: FileBody, blob: Blob) -> Layer:
        """In a thread, unless it is a matter of a moment; a small file may still hold a large tar."""
        work = partial(measure, body, blob, check_diff_id=self._rules.check_diff_ids)
        if self._opens_quickly and body.size <= _SMALL_BYTES:
            end = time.perf_counter() + _QUICK_SECONDS
            with suppress(Cancelled):
                return work(cancelled=lambda: time.perf_counter() > end)
        return await self._work(work)

    def names_content(self, package: Package) -> bool:
        """Whether the package's tag holds its own hash: then what the tag points at is its layer."""
        package_format = self._rules.formats.get(package.id)
        return package_format is not None and package_format.tag_proves_content

    async def _pack(self, package: Package, tree: Tree) -> tuple[Layer, FileBody]:
        measured, seen = time.time_ns(), Fingerprint()
        file = cast("BinaryIO", self._temporary_file())
        try:
            parents = package.platform not in self._rules.on_base
            package_format = self._rules.formats.get(package.id)
            with self._held(tree) as held:
                layer = await self._work(
                    _pack_with_format, package_format, held, self._rules.codec, file, seen=seen, parents=parents
                )
            self._record.remember_tree(self._tree_key(package, tree), _state(seen, measured), layer)
            return layer, FileBody(file, f"the packed {tree.root}")
        except BaseException:
            file.close()
            raise

    def _temporary_file(self) -> object:
        """Without a name, so that nothing is left behind whatever happens to this process."""
        try:
            return tempfile.TemporaryFile(prefix="uploader-", dir=self._rules.temp_dir)
        except OSError as error:
            where = f" in {self._rules.temp_dir}" if self._rules.temp_dir else ""
            raise SourceError(
                f"make a temporary file{where}: {error.strerror}; choose another folder with --temp-dir",
                stage="pack",
                kind=source_kind(error),
            ) from error

    @contextmanager
    def _held(self, tree: Tree) -> Iterator[Tree]:
        """The tree for as long as it is read; where others may change what a path leads to, more is needed."""
        yield tree

    def _tree_key(self, package: Package, tree: Tree) -> TreeKey:
        codec = self._rules.codec
        package_format = self._rules.formats.get(package.id)
        library = " ".join(
            [
                self._rules.library,
                *(["bare"] if package.platform in self._rules.on_base else []),
                *([package_format.library] if package_format else []),
            ]
        )
        return TreeKey(_root_key(tree), tree.at, codec.name, codec.level, library)

    async def _work(self, function: Callable[..., _T], *args: object, **options: object) -> _T:
        """Run a function of `packing` in a thread, where it notices between two chunks that we were cancelled."""
        work = partial(function, *args, **options, cancelled=_stop_if_host_is_cancelled)
        return await anyio.to_thread.run_sync(work, limiter=self._processors)


def _open_timed(path: Path) -> tuple[FileBody, float]:
    """The file, opened, and how many seconds it took."""
    began = time.perf_counter()
    return FileBody.at(path), time.perf_counter() - began


def _pack_with_format(
    package_format: Format | None,
    tree: Tree,
    codec: Codec,
    out: BinaryIO,
    *,
    seen: Fingerprint,
    parents: bool,
    cancelled: Callable[[], bool],
) -> Layer:
    inspector = package_format.inspector() if package_format else None
    return pack(tree, codec, out, inspector=inspector, seen=seen, parents=parents, cancelled=cancelled)


def _state(seen: Fingerprint, measured_ns: int) -> TreeState:
    return TreeState(seen.text, seen.newest_ns, measured_ns)


def _stop_if_host_is_cancelled() -> bool:
    """Raises the cancellation itself inside the worker thread."""
    anyio.from_thread.check_cancelled()
    return False


def _file_key(blob: Blob) -> Path:
    """A file in the record; what is believed of it unread (diff ID, media type) belongs to the key, it may be wrong."""
    algorithm = blob.digest.algorithm if blob.digest else "sha256"
    if (blob.diff_id, blob.media_type, algorithm) == (None, None, "sha256"):
        return blob.path
    return Path(f"{blob.path}\0{algorithm} {blob.diff_id} {blob.media_type}")


def _root_key(tree: Tree) -> str:
    """A tree's root in the record; several packages may share one, each with files of its own."""
    if tree.files is None:
        return str(tree.root)
    listing = "\0".join(tree.files).encode("utf-8", "surrogatepass")
    return f"{tree.root}\0{hashlib.sha256(listing).hexdigest()}"


def _agrees(layer: Layer, blob: Blob) -> bool:
    """Whether what we remember of the file is what the graph says of it; if not, reading it will tell."""
    return blob.digest in {None, layer.descriptor.digest} and blob.size in {None, layer.descriptor.size}
