"""Who sends which blob: each once in a push, and one at a time in a repository, however many pushes go there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from uploader.errors import RegistryError, UnusableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from uploader.model.digest import Digest
    from uploader.model.outcome import How

_MOST_ARRIVED: Final = 100_000


class Upload:
    """The sending of one blob; those who need it too wait for its end. Mutable: the outcome, and who waits."""

    __slots__ = ("_waited_for", "ended", "error", "how")

    def __init__(self, how: How | None = None) -> None:
        self.ended = how is not None
        self.how = how
        self.error: RegistryError | UnusableError | None = None
        self._waited_for: anyio.Event | None = None  # made when somebody waits: of most blobs there is one only

    async def wait(self) -> None:
        """Until it has ended."""
        if not self.ended:
            self._waited_for = self._waited_for or anyio.Event()
            await self._waited_for.wait()

    def end(self) -> None:
        """Those who wait see the outcome."""
        self.ended = True
        if self._waited_for is not None:
            self._waited_for.set()


class RepositoryUploads:
    """What is on its way to one repository, and what arrived there lately; shared by the pushes of one process.

    Mutable. That a blob arrived is a hint, worth asking the repository, and no proof.
    """

    def __init__(self) -> None:
        self.in_flight: dict[Digest, Upload] = {}
        self._arrived: dict[Digest, None] = {}

    def has_seen(self, digest: Digest) -> bool:
        """Whether some push brought it there."""
        return digest in self._arrived

    def end(self, digest: Digest, upload: Upload) -> None:
        """It is not on its way any more; those who wait see its outcome."""
        del self.in_flight[digest]
        if upload.how is not None:
            self._arrived[digest] = None
            if len(self._arrived) > _MOST_ARRIVED:
                del self._arrived[next(iter(self._arrived))]
        upload.end()

    def forget(self, digest: Digest) -> None:
        """It did not last."""
        self._arrived.pop(digest, None)


class Uploads:
    """The uploads of one push. Mutable: those that it made or waited for, by digest."""

    def __init__(self, repository: RepositoryUploads | None = None) -> None:
        self._repository = repository or RepositoryUploads()
        self._own: dict[Digest, Upload] = {}

    async def once(self, digest: Digest, send: Callable[[], Awaitable[How]]) -> How:
        """Send the blob, or wait for whoever sends it already, and share the outcome.

        A source that cannot be read is each package's own failure, and one who is cancelled speaks for nobody else:
        then the next one tries with its own. Of another push only the success is shared: its login and its patience
        may be others.
        """
        while (other := self._own.get(digest) or self._repository.in_flight.get(digest)) is not None:
            await other.wait()
            if self._own.get(digest) is other and other.error is not None:
                raise other.error
            if other.how is not None:
                how: How = other.how if self._own.get(digest) is other else "present"
                self._own.setdefault(digest, Upload("present"))
                return how
        upload = self._own[digest] = self._repository.in_flight[digest] = Upload()
        try:
            upload.how = await send()
        except (RegistryError, UnusableError) as error:
            upload.error = error
            raise
        finally:
            if upload.how is None and upload.error is None:
                del self._own[digest]
            self._repository.end(digest, upload)
        return upload.how

    def find(self, digest: Digest) -> Upload | None:
        """The push's upload of this blob, running or ended."""
        return self._own.get(digest)

    def forget(self, digest: Digest, upload: Upload) -> None:
        """This upload has ended, and the blob did not last: the next one sends it again."""
        self._repository.forget(digest)
        if upload.ended and self._own.get(digest) is upload:
            del self._own[digest]

    def has_seen(self, digest: Digest) -> bool:
        """Whether some push of this process brought the blob there."""
        return self._repository.has_seen(digest)
