"""A folder in the OCI image layout as a destination (OCI image-spec, image-layout.md).

What is on the disk when:

- A blob or manifest gets its name once it is whole, of the right digest, and synced: it is copied to a
  temporary file beside its place, synced, and renamed. A copy that fails or is cancelled leaves nothing; what
  a killed process left is swept when the folder is opened a day later.
- `index.json` is replaced whole, after every blob it names. Writing it costs as much as it has tags, so it
  is written only so often that this takes about a tenth of the time, and always on closing, also when
  cancelled. A process that is killed loses the tags since the last writing, never a blob: the next push
  finds the blobs and only names them again.
- Any number of processes may push into one folder: `index.json` is changed under a lock (`.uploader-lock`, as
  good as the file system's `flock`), from what the others wrote meanwhile. Other programs do not know that
  lock: do not let them write at the same time.

Nothing is made before the first write: reading a folder that is not there finds it empty.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import stat
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, Self, TypeAlias

import anyio
from anyio import from_thread, to_thread

from uploader.errors import (
    SHORT,
    AbsentError,
    InputError,
    Kind,
    RegistryError,
    SourceError,
    UnusableError,
    UploaderError,
)
from uploader.layout.index import json_object, media_type_of, tags_in, with_tags
from uploader.model.descriptor import Descriptor
from uploader.model.digest import ALGORITHMS, Digest
from uploader.model.outcome import Traffic
from uploader.oci.manifest import StoredManifest
from uploader.oci.media_types import OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from uploader.model.outcome import How
    from uploader.model.reference import Destination, Tag
    from uploader.oci.http import Body
    from uploader.oci.journal import Journal

_REF_NAME: Final = "org.opencontainers.image.ref.name"
_LOCK: Final = ".uploader-lock"
_TEMPORARY: Final = ".uploader-tmp-"
_CHUNK_BYTES: Final = 1 << 20  # held in memory per copy
_LARGEST_READ_BYTES: Final = 16 << 20
_PATIENCE_SECONDS: Final = 30.0
_STALE_SECONDS: Final = 24 * 3600
_PAUSES: Final = 9  # times the cost of writing index.json, before it is written again
_LARGEST_INDEX_BYTES: Final = 256 * 1024 * 1024
_EMPTY_INDEX: Final = f'{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}'.encode()

PARTS: Final = (_LOCK, "oci-layout", "index.json", "blobs", *(f"blobs/{algorithm}" for algorithm in ALGORITHMS))
"""What a layout folder may have that others could have put a link to elsewhere in place of."""

IndexState: TypeAlias = "tuple[int, int, int] | None"

_DENIED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class LayoutDestination:
    """An image layout folder; an async context manager, which writes the last tags when it is left.

    Files are read, hashed and written in threads, small ones apart from copies, so that a manifest does not
    wait behind a large blob.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = _Folder(path)
        self._clock = clock
        self._copies = anyio.CapacityLimiter(8)
        self._small = anyio.CapacityLimiter(4)
        self._tags: dict[Tag, Descriptor] = {}
        self._index: IndexState = None  # of which the tags are
        self._unwritten: dict[Tag, Descriptor] = {}  # tags that index.json does not have yet
        self._next_writing = float("-inf")
        self._bytes_written = 0

    async def __aenter__(self) -> Self:
        """Read what is there; raises InputError for what is no layout, UnusableError for a broken one."""
        self._tags, self._index = await to_thread.run_sync(self._folder.load, limiter=self._small)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write the tags that index.json does not have yet; raises UnusableError when that fails."""
        if not self._unwritten:
            return
        reason = f"given up after {_PATIENCE_SECONDS:.0f} s"
        try:
            with anyio.move_on_after(_PATIENCE_SECONDS, shield=True):
                await self._write_index(_PATIENCE_SECONDS)
        except UploaderError as error:
            reason = str(error)
        if self._unwritten:
            count = len(self._unwritten)
            raise UnusableError(f"{count} tags are not in {self._folder.index}, push again to name them: {reason}")

    looking_is_free = True

    async def is_empty(self) -> bool:
        """Whether the folder has no tag at all."""
        await self._look_again()
        return not self._tags

    async def find_tag(self, tag: Tag) -> Digest | None:
        """The digest that the tag points at; what others wrote meanwhile counts."""
        await self._look_again()
        descriptor = self._tags.get(tag)
        return None if descriptor is None else descriptor.digest

    async def read_manifest(self, reference: Tag | Digest) -> StoredManifest | None:
        """The manifest, digest checked."""
        digest = reference if isinstance(reference, Digest) else await self.find_tag(reference)
        if digest is None:
            return None
        content = await to_thread.run_sync(self._folder.read, digest, limiter=self._small)
        return None if content is None else StoredManifest(content, media_type_of(content), digest)

    async def read_blob(self, descriptor: Descriptor) -> bytes | None:
        """A small blob whole, digest checked; raises RegistryError for one of more than 16 MiB."""
        return await to_thread.run_sync(self._folder.read, descriptor.digest, limiter=self._small)

    async def copy_blob(self, descriptor: Descriptor, file: BinaryIO | None) -> bool:
        """Copy a blob of any size, or only read it, digest checked; False when it is not there."""
        return await to_thread.run_sync(self._folder.copy, descriptor, file, limiter=self._copies)

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether a blob of that digest and size is there; what is in it is not looked at."""
        return await to_thread.run_sync(self._folder.has, descriptor, limiter=self._small)

    async def push_blob(
        self,
        descriptor: Descriptor,
        body: Body,
        *,
        expected: bool,  # noqa: ARG002
        journal: Journal | None = None,  # noqa: ARG002
    ) -> How:
        """Copy the blob unless it is there; `expected` is of no use here, looking costs nothing.

        Raises SourceError when the content is not what the descriptor says, RegistryError (`quota`) on a full disk.
        """
        how = await to_thread.run_sync(self._folder.store, descriptor, body, limiter=self._copies)
        if how == "uploaded":
            self._bytes_written += descriptor.size
        await self._write_index_if_due()
        return how

    async def mount_blob(self, descriptor: Descriptor, source: Destination) -> bool:  # noqa: ARG002
        """Folders share nothing."""
        return False

    async def push_manifest(self, tag: Tag, content: bytes, media_type: str) -> None:
        """Store the manifest and point the tag at it; in index.json it is on closing at the latest."""
        descriptor = Descriptor(media_type, Digest.of(content), len(content))
        await to_thread.run_sync(self._folder.store_bytes, descriptor.digest, content, limiter=self._small)
        self._tags[tag] = self._unwritten[tag] = descriptor
        await self._write_index_if_due()

    def traffic(self) -> Traffic:
        """The bytes written; a folder takes no requests."""
        return Traffic(self._bytes_written)

    async def tags(self) -> AsyncIterator[Tag]:
        """Every tag, in order; raises AbsentError where no layout is, nor anything was pushed.

        Ours are written first: of two who then look for the other's tags, the second finds them.
        """
        if self._unwritten:
            await self._write_index(_PATIENCE_SECONDS)
        await self._look_again()
        if not self._tags and not await to_thread.run_sync(self._folder.is_there, limiter=self._small):
            raise AbsentError(f"list the tags of {self._folder.path}: there is no image layout")
        for tag in sorted(self._tags):
            yield tag

    async def _look_again(self) -> None:
        """Read index.json anew where another process has replaced it."""
        if await to_thread.run_sync(self._folder.index_state, limiter=self._small) != self._index:
            tags, self._index = await to_thread.run_sync(self._folder.load, limiter=self._small)
            self._tags = {**tags, **self._unwritten}

    async def _write_index_if_due(self) -> None:
        if self._unwritten and self._clock() >= self._next_writing:
            # A failure is nobody's in particular: it is tried again, and leaving says how that ended.
            with suppress(UploaderError):
                await self._write_index(patience=0)

    async def _write_index(self, patience: float) -> None:
        started = self._clock()
        self._next_writing = float("inf")  # one at a time
        new = dict(self._unwritten)
        try:
            tags, self._index = await to_thread.run_sync(self._folder.merge, new, patience, limiter=self._small)
        finally:
            ended = self._clock()
            self._next_writing = ended + _PAUSES * (ended - started)
        for tag, descriptor in new.items():
            if self._unwritten.get(tag) is descriptor:  # else it was pointed elsewhere meanwhile
                del self._unwritten[tag]
        self._tags = {**tags, **self._unwritten}


class _Folder:
    """What is done on the disk; every method blocks and may run in several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = path / "index.json"
        self._made = False

    def load(self) -> tuple[dict[Tag, Descriptor], IndexState]:
        """The tags of a layout, none where nothing is yet; and the state of index.json that they are of, or a later."""
        with _explained(f"read {self.path}", whole=True):
            state = self.index_state()
            if not self._is_layout():
                return {}, state
            self._sweep()
            return tags_in(self._read_index(), self.index), state

    def index_state(self) -> IndexState:
        """What tells one writing of index.json from the next: it is replaced whole."""
        with _explained(f"read {self.path}", whole=True), suppress(FileNotFoundError, NotADirectoryError):
            found = self.index.stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return None

    def is_there(self) -> bool:
        """Whether there is a layout, with or without tags."""
        with _explained(f"read {self.path}", whole=True):
            return self._is_layout()

    def has(self, descriptor: Descriptor) -> bool:
        with _explained(f"look for {descriptor.digest.short} in {self.path}"), suppress(FileNotFoundError):
            return self._blob(descriptor.digest).stat().st_size == descriptor.size
        return False

    def read(self, digest: Digest) -> bytes | None:
        what = f"read {digest.short} in {self.path}"
        with _explained(what):
            content = _read(self._blob(digest), _LARGEST_READ_BYTES + 1)
        if content is None:
            return None
        if len(content) > _LARGEST_READ_BYTES:
            raise RegistryError(f"{what}: has over {_LARGEST_READ_BYTES >> 20} MiB, too large for a config or manifest")
        if hashlib.new(digest.algorithm, content).hexdigest() != digest.hex:
            raise RegistryError(f"{what}: damaged, {len(content)} bytes of another digest; remove it and push again")
        return content

    def copy(self, descriptor: Descriptor, file: BinaryIO | None) -> bool:
        what = f"read {descriptor.digest.short} in {self.path}"
        hasher, size = hashlib.new(descriptor.digest.algorithm), 0
        with _explained(what), suppress(FileNotFoundError), _opened(self._blob(descriptor.digest)) as blob:
            while chunk := blob.read(_CHUNK_BYTES):
                from_thread.check_cancelled()
                hasher.update(chunk)
                size += len(chunk)
                if file is not None:
                    file.write(chunk)
            if (hasher.hexdigest(), size) != (descriptor.digest.hex, descriptor.size):
                raise RegistryError(f"{what}: damaged, {size} bytes of another digest; remove it and push again")
            return True
        return False

    def store(self, descriptor: Descriptor, body: Body) -> How:
        """Copy a blob unless one of its size is there under its name."""
        if self.has(descriptor):
            return "present"
        self._make()
        with _explained(f"write {descriptor.digest.short} to {self.path}"):
            target = self._blob(descriptor.digest)
            target.parent.mkdir(exist_ok=True)
            with _replacing(target) as file:
                _copy(body, descriptor, file)
        return "uploaded"

    def store_bytes(self, digest: Digest, content: bytes) -> None:
        """Store a manifest; a damaged one is replaced."""
        self._make()
        target = self._blob(digest)
        with _explained(f"write manifest {digest.short} to {self.path}"):
            if _read(target, len(content) + 1) != content:
                _write(target, content)

    def merge(self, new: Mapping[Tag, Descriptor], patience: float) -> tuple[dict[Tag, Descriptor], IndexState]:
        """Write `new` into index.json, waiting `patience` seconds for the lock; gives all tags it has then."""
        with _explained(f"write {self.index}", whole=True), self._locked(patience):
            document = self._read_index()
            tags = tags_in(document, self.index)
            document["manifests"] = with_tags(document["manifests"], new)
            for folder in (self.path / "blobs", *self.path.glob("blobs/*")):
                _sync_folder(folder)
            _write(self.index, json.dumps(document, separators=(",", ":")).encode())
            _sync_folder(self.path)
            return {**tags, **new}, self.index_state()

    def _blob(self, digest: Digest) -> Path:
        return self.path / "blobs" / digest.algorithm / digest.hex

    def _is_layout(self) -> bool:
        """False for a folder that is empty, or not there; raises InputError for anything else."""
        try:
            names = sorted(path.name for path in self.path.iterdir())
        except FileNotFoundError:
            return False
        except NotADirectoryError as error:
            raise InputError(f"{self.path} is not a folder: an image layout needs one of its own") from error
        # Looked for after listing, and always made first: so what another process just made is not taken for foreign.
        if (content := _read(self.path / "oci-layout")) is not None:
            version = json_object(content).get("imageLayoutVersion")
            if not str(version).startswith("1."):
                raise InputError(f"{self.path}/oci-layout says version {version!r:.40}: only 1.0.0 is known")
            return True
        if others := [name for name in names if not name.startswith((_LOCK, _TEMPORARY))]:
            raise InputError(
                f"{self.path} is no image layout (no oci-layout file) and holds other things "
                f"({', '.join(others[:3])}{', …' if len(others) > 3 else ''}): name an empty or a new folder"
            )
        return False

    def _make(self) -> None:
        """Make what a layout needs, where it is missing."""
        if self._made:
            return
        with _explained(f"make an image layout of {self.path}", whole=True):
            self.path.mkdir(parents=True, exist_ok=True)
            with self._locked(_PATIENCE_SECONDS):
                if not self._is_layout():
                    _write(self.path / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
                (self.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
                if not self.index.exists():
                    _write(self.index, _EMPTY_INDEX)
        self._made = True

    def _read_index(self) -> dict[str, Any]:
        content = _read(self.index, _LARGEST_INDEX_BYTES + 1)
        if content is not None and len(content) > _LARGEST_INDEX_BYTES:
            raise UnusableError(f"{self.index} is larger than {_LARGEST_INDEX_BYTES} bytes; use a new folder")
        document = json_object(_EMPTY_INDEX if content is None else content)
        if not document or not isinstance(document.get("manifests") or [], list):
            raise UnusableError(f"{self.index} is broken: not an image index in JSON; restore it, or use a new folder")
        document["manifests"] = document.get("manifests") or []  # some tools write null for none
        return document

    @contextmanager
    def _locked(self, patience: float) -> Iterator[None]:
        """Hold the folder's lock; raises UnusableError when it is not to be had within `patience` seconds."""
        deadline = time.monotonic() + patience
        with io.FileIO(self.path / _LOCK, "a", opener=_open_without_waiting) as file:  # closing it unlocks
            while not _try_lock(file):
                from_thread.check_cancelled()
                if time.monotonic() >= deadline:
                    raise UnusableError(f"{file.name} is held by another process; is it stopped?")
                time.sleep(0.01)
            yield

    def _sweep(self) -> None:
        """Remove the temporary files that killed processes left; no living copy goes a day without writing."""
        for path in (*self.path.glob(f"{_TEMPORARY}*"), *self.path.glob(f"blobs/*/{_TEMPORARY}*")):
            with suppress(OSError):  # another sweeps too, or the folder is read-only: no reason to stop
                if path.stat().st_mtime < time.time() - _STALE_SECONDS:
                    path.unlink()


@contextmanager
def _explained(what: str, *, whole: bool = False) -> Iterator[None]:
    """OSError as an error of ours: of this one thing, or of the `whole` destination."""
    try:
        yield
    except OSError as error:
        kind: Kind = "quota" if error.errno in SHORT else "auth" if error.errno in _DENIED else "registry"
        advice = {"quota": "; make room there and push again", "auth": "; check owner and mode"}.get(kind, "")
        message = f"{what}: {error.strerror or error}{advice}"
        raise (UnusableError(message) if whole else RegistryError(message, kind=kind)) from error


@contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """A file that becomes `target`, synced, when the block ends well; otherwise nothing is left of it."""
    temporary = target.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _write(target: Path, content: bytes) -> None:
    with _replacing(target) as file:
        file.write(content)


def _copy(body: Body, descriptor: Descriptor, file: IO[bytes]) -> None:
    """Copy in chunks, and hash on the way; a cancelled push ends between two of them."""
    hasher = hashlib.new(descriptor.digest.algorithm)
    for offset in range(0, descriptor.size, _CHUNK_BYTES):
        from_thread.check_cancelled()
        chunk = body.read(offset, min(_CHUNK_BYTES, descriptor.size - offset))
        hasher.update(chunk)
        file.write(chunk)
    found = Digest(descriptor.digest.algorithm, hasher.hexdigest())
    if body.size != descriptor.size or found != descriptor.digest:
        expected = f"{descriptor.digest.short} ({descriptor.size} bytes)"
        raise SourceError(f"copy {expected}: it is {found.short} ({body.size} bytes), changed since it was hashed")


def _read(path: Path, limit: int = -1) -> bytes | None:
    with suppress(FileNotFoundError), _opened(path) as file:
        return file.read(limit)
    return None


def _opened(path: Path) -> io.BufferedReader[io.FileIO]:
    file = io.BufferedReader(io.FileIO(path, opener=_open_without_waiting))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, f"{path.name} is not a regular file")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)  # a fifo would wait for its other end


def _sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(file: IO[bytes]) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
