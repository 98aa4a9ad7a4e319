"""Whether blobs are there and whole: each distinct one is asked about once, or read once."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias, cast

import anyio

from uploader.errors import RegistryError, SourceError
from uploader.oci.audit import Damage, compression_of
from uploader.packing.decoding import Decoder, decoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from uploader.model.descriptor import Descriptor
    from uploader.model.digest import Digest
    from uploader.oci.media_types import Compression
    from uploader.service.destination import Destination

_READERS: Final = 4  # each may hold a zstd window of 128 MiB
DELETE_FIRST: Final = "where heal leaves it so, the registry keeps what it has: delete its bytes there, then heal"

_Key: TypeAlias = "tuple[Digest, int]"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a blob; `diff_id` only where it was read, `error` where that failed for another reason."""

    damage: Damage | None = None
    error: str | None = None
    diff_id: str | None = None


THERE: Final = Answer()


class BlobChecks:
    """Mutable: the answers so far, and the questions on their way. `deep`: blobs are read, not only asked about."""

    def __init__(self, destination: Destination, *, deep: bool) -> None:
        self._destination = destination
        self._deep = deep
        self._answers: dict[_Key, Answer] = {}
        self._read: dict[_Key, Answer] = {}
        self._asking: dict[tuple[_Key, bool], anyio.Event] = {}
        self._readers = anyio.CapacityLimiter(_READERS)

    @property
    def count(self) -> int:
        """How many distinct blobs there were."""
        return len(self._answers)

    def known(self, descriptor: Descriptor) -> Answer | None:
        """The answer, where it is known already."""
        return self._answers.get(_key(descriptor))

    async def check(self, descriptor: Descriptor) -> Answer:
        """Whether it is there, and with `deep` whether it is whole."""
        if self._deep:
            answer = self._answers[_key(descriptor)] = await self.read(descriptor)
            return answer
        return await self._once(descriptor, self._answers, self._ask)

    async def read(self, descriptor: Descriptor) -> Answer:
        """Read all of it: its digest is checked, and its diff ID found."""
        return await self._once(descriptor, self._read, self._read_all)

    async def _once(
        self,
        descriptor: Descriptor,
        answers: dict[_Key, Answer],
        work: Callable[[Descriptor], Awaitable[Answer]],
    ) -> Answer:
        key = _key(descriptor)
        asked = (key, answers is self._read)
        while (answer := answers.get(key)) is None:
            if (other := self._asking.get(asked)) is not None:
                await other.wait()
                continue
            ended = self._asking[asked] = anyio.Event()
            try:
                answers[key] = await work(descriptor)
            finally:
                del self._asking[asked]
                ended.set()
        return answer

    async def _ask(self, descriptor: Descriptor) -> Answer:
        """HEAD; where that says no, a reading tells what is gone from what has another size."""
        try:
            if await self._destination.has_blob(descriptor) or await self._destination.copy_blob(descriptor, None):
                return THERE
        except RegistryError as error:
            return _failed(descriptor, error)
        return _gone(descriptor)

    async def _read_all(self, descriptor: Descriptor) -> Answer:
        compression = compression_of(descriptor.media_type)
        tar = _Tar(compression, descriptor.digest.short) if compression is not None else None
        try:
            async with self._readers:
                there = await self._destination.copy_blob(descriptor, cast("BinaryIO", tar) if tar else None)
        except RegistryError as error:
            return _failed(descriptor, error)
        if not there:
            return _gone(descriptor)
        try:
            return Answer(diff_id=tar.diff_id()) if tar else THERE
        except SourceError as error:
            return Answer(Damage("layer-damaged", f"layer {error}", descriptor.digest))


class _Tar(io.RawIOBase):
    """A file that keeps nothing of a layer but the digest of the tar in it."""

    def __init__(self, compression: Compression, name: str) -> None:
        super().__init__()
        self._compression: Compression = compression
        self._name = name
        self._begin()

    def _begin(self) -> None:
        self._hash = hashlib.sha256()
        self._decoder: Decoder = decoder(self._compression, self._hash.update, self._name)
        self._problem: SourceError | None = None

    def seek(self, offset: int, whence: int = 0, /) -> int:  # noqa: ARG002
        """To the beginning, where a broken connection is tried again."""
        self._begin()
        return 0

    def truncate(self, size: int | None = None, /) -> int:  # noqa: ARG002
        """There is nothing to cut."""
        return 0

    def write(self, chunk: bytes, /) -> int:  # type: ignore[override]
        """Decompress; what cannot be is remembered until all was read, since a wrong digest says more."""
        if self._problem is None:
            try:
                self._decoder.feed(memoryview(chunk))
            except SourceError as error:
                self._problem = error
        return len(chunk)

    def diff_id(self) -> str:
        """The tar's digest; raises SourceError where there is no tar to be had."""
        if self._problem is not None:
            raise self._problem
        self._decoder.finish()
        return f"sha256:{self._hash.hexdigest()}"


def tells_damage(error: RegistryError) -> bool:
    """Whether the content came, and was another than its digest says; all else is an asking that failed."""
    return error.kind == "registry" and error.status is None and not isinstance(error.__cause__, OSError)


def _failed(descriptor: Descriptor, error: RegistryError) -> Answer:
    if tells_damage(error):
        what = f"its layer {descriptor.digest.short} has other bytes than its digest and size say"
        return Answer(Damage("layer-damaged", f"{what}; {DELETE_FIRST}", descriptor.digest))
    return Answer(error=str(error))


def _gone(descriptor: Descriptor) -> Answer:
    return Answer(Damage("layer-missing", f"its layer {descriptor.digest.short} is not there", descriptor.digest))


def _key(descriptor: Descriptor) -> _Key:
    return descriptor.digest, descriptor.size
