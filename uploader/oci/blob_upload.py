"""The upload of one blob as a state machine without I/O (distribution-spec, "Pushing Blobs").

    HEAD ─200→ present                        mount ─201→ present
      └─404→ POST                               └─202→ session, else → HEAD
    POST ─202→ PUT whole ─201→ uploaded       or, in chunks: PATCH ─202→ PATCH … → PUT ─201→ uploaded

A broken PATCH is followed by GET status, and goes on from the offset that the registry confirms, where its profile can
be trusted. A PUT that ended unclearly (no answer, 5xx, 404 for a session that just took the body) is settled by HEAD:
there, or not there and begun anew. It is given up after `TRIES` tries that brought it no further than it had been
before. The digest is sent only with, or after, the last byte.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote, urljoin

from uploader.errors import RegistryError
from uploader.oci.http import Answer, Body, Lost, Request, Response, Slice, has_size
from uploader.oci.refusal import read_refusal, refusal_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploader.model.descriptor import Descriptor
    from uploader.model.outcome import How
    from uploader.oci.profile import Profile

TRIES: Final = 5
_RANGE: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")

Ask = Literal["head", "mount", "nothing"]
Step = Request | Literal["uploaded", "mounted", "present"]


class BlobUpload:
    """One blob on its way. Mutable: the session's URL, the offset confirmed and the furthest, the tries, the state.

    `mount_refused`, `shrunk_to` and `least_piece` are what was learnt of the registry: that it does not mount from the
    repository itself, the largest piece that is left after 413 and 416, and the smallest that it says it takes.
    """

    def __init__(
        self, repository: str, descriptor: Descriptor, body: Body, *, profile: Profile, ask: Ask, where: str
    ) -> None:
        """`where` names the repository in messages; `body` must have the descriptor's size."""
        self._repository = repository
        self._descriptor = descriptor
        self._body = body
        self._profile = profile
        self._ask = ask
        self._subject = f"push blob {descriptor.digest.short} to {where}"
        self._session = ""
        self._offset = self._furthest = 0
        self._fruitless = 1
        self._chunk_bytes = profile.piece_bytes(descriptor.size)
        self._expect: Callable[[Answer], Step] = self._after_head
        self._request: Request | None = None
        self._trouble: tuple[Request, Answer] | None = None
        self.tries = 1
        self.mount_refused = False
        self.shrunk_to: int | None = None
        self.least_piece: int | None = None

    def begin(self) -> Request:
        """The first request."""
        match self._ask:
            case "head":
                return self._head(self._after_head)
            case "mount":
                return self._mount()
            case "nothing":
                return self._open()

    def receive(self, answer: Answer) -> Step:
        """The next request, or how the blob came to be there; raises RegistryError when it is given up."""
        return self._expect(answer)

    def cancel(self) -> Request | None:
        """The request that ends an open session, if there is one (distribution-spec, "Cancel a blob upload")."""
        if not self._session:
            return None
        session, self._session = self._session, ""
        return Request("DELETE", session, f"cancel the upload of {self._descriptor.digest.short}", repeatable=False)

    # -- requests

    def _send(self, request: Request, expect: Callable[[Answer], Step]) -> Request:
        self._request, self._expect = request, expect
        return request

    def _head(self, expect: Callable[[Answer], Step]) -> Request:
        url = f"/v2/{self._repository}/blobs/{self._descriptor.digest}"
        return self._send(Request("HEAD", url, self._subject), expect)

    def _mount(self) -> Request:
        query = f"mount={_quoted(self._descriptor)}&from={quote(self._repository, safe='')}"
        url = f"/v2/{self._repository}/blobs/uploads/?{query}"
        return self._send(Request("POST", url, self._subject), self._after_mount)

    def _open(self) -> Request:
        return self._send(Request("POST", f"/v2/{self._repository}/blobs/uploads/", self._subject), self._after_open)

    def _next_piece(self) -> Request:
        """The whole blob, its next chunk, or the closing of a session that has every byte."""
        size = self._descriptor.size
        if self._offset == 0 and (self._chunk_bytes is None or size <= self._chunk_bytes):
            return self._put(Slice(self._body, 0, size))
        if self._offset == size:
            return self._put(b"")
        length = min(self._chunk_bytes or size, size - self._offset)
        headers = {
            "content-type": "application/octet-stream",
            "content-range": f"{self._offset}-{self._offset + length - 1}",
        }
        chunk = Slice(self._body, self._offset, length)
        request = Request("PATCH", self._session, self._subject, headers, chunk, repeatable=False)
        return self._send(request, self._after_chunk)

    def _put(self, body: bytes | Slice) -> Request:
        separator = "&" if "?" in self._session else "?"
        url = f"{self._session}{separator}digest={_quoted(self._descriptor)}"
        headers = {"content-type": "application/octet-stream"}
        return self._send(Request("PUT", url, self._subject, headers, body, repeatable=False), self._after_put)

    def _status(self) -> Request:
        return self._send(Request("GET", self._session, self._subject), self._after_status)

    # -- answers

    def _after_head(self, answer: Answer) -> Step:
        match answer:
            case Response(status=200) if has_size(answer, self._descriptor.size):
                return self._end("present")
            case Response(status=200 | 404):
                return self._open()
            case _:
                raise self._error(answer)

    def _after_mount(self, answer: Answer) -> Step:
        match answer:
            case Response(status=201):
                return self._end("present")
            case Response(status=202):
                return self._opened(answer)
            case Lost():
                raise self._error(answer)
            case Response() if read_refusal(answer, self._profile, 0.0).throttled:
                raise self._error(answer)
            case _:
                self.mount_refused = True
                return self._head(self._after_head)

    def _after_open(self, answer: Answer) -> Step:
        match answer:
            case Response(status=202):
                return self._opened(answer)
            case _:
                raise self._error(answer)

    def _opened(self, answer: Response) -> Step:
        self._move(answer)
        if not self._session:
            raise RegistryError(f"{self._subject}: the registry opened an upload without saying where (no Location)")
        if smallest := _whole_number(answer.header("oci-chunk-min-length")):
            self.least_piece = smallest
            self._chunk_bytes = max(self._chunk_bytes, smallest) if self._chunk_bytes else None
        return self._next_piece()

    def _after_put(self, answer: Answer) -> Step:
        self._note_trouble(answer)
        match answer:
            case Response(status=201 | 204):
                return self._end("uploaded")
            case Response(status=413) if self._shrink():
                return self._again()
            case Response(status=404 | 416) | Lost():
                return self._head(self._after_unclear)
            case Response(status=400) if self.tries < 2 and "DIGEST_INVALID" in _codes(answer, self._profile):
                return self._again()  # damaged on the way, or really another content: one more try tells
            case Response(status=status) if status >= 500 or status in {408, 425}:
                return self._head(self._after_unclear)
            case _:
                raise self._error(answer)

    def _after_unclear(self, answer: Answer) -> Step:
        """The HEAD after a PUT of unknown outcome."""
        match answer:
            case Response(status=200) if has_size(answer, self._descriptor.size):
                return self._end("uploaded")
            case Response(status=200 | 404):
                return self._again()
            case _:
                raise self._error(answer)

    def _after_chunk(self, answer: Answer) -> Step:
        self._note_trouble(answer)
        match answer:
            case Response(status=201 | 202 | 204):
                self._advance(self._offset + self._sent())
                self._move(answer)
                return self._next_piece()
            case Response(status=413 | 416) if self._shrink():
                return self._again()
            case Response(status=404):
                return self._again()
            case Response(status=status) if status < 500 and status not in {408, 416, 425}:
                raise self._error(answer)
            case _:
                if self._profile.resumes and self._count():
                    return self._status()
                return self._again()

    def _after_status(self, answer: Answer) -> Step:
        if not isinstance(answer, Response) or answer.status not in {200, 202, 204}:
            return self._anew()
        match = _RANGE.fullmatch(answer.header("range").strip())
        confirmed = int(match[1]) + 1 if match else 0
        # "0-0" stands for no byte as well as for one (distribution 3, zot): begin at 0 only where that is safe.
        if confirmed <= 1 or confirmed > self._descriptor.size:
            return self._anew()
        self._move(answer)
        self._advance(confirmed)
        return self._next_piece()

    # -- helpers

    def _again(self) -> Step:
        """Another try."""
        if not self._count():
            raise self._spent()
        return self._anew()

    def _anew(self) -> Request:
        """The session, and what it holds, is given up."""
        self._session, self._offset = "", 0
        return self._open()

    def _advance(self, offset: int) -> None:
        self._offset = offset
        if offset > self._furthest:
            self._furthest, self._fruitless = offset, 1

    def _spent(self) -> RegistryError:
        """The error when the tries are spent: what the last broken request was answered."""
        if self._trouble is None:
            raise ValueError("tries are spent by broken requests only")
        error = refusal_error(*self._trouble, self._profile)
        error.attempts = max(error.attempts, self.tries)
        return error

    def _count(self) -> bool:
        if self._fruitless >= TRIES:
            return False
        self._fruitless += 1
        self.tries += 1
        return True

    def _note_trouble(self, answer: Answer) -> None:
        if self._request is not None and not (isinstance(answer, Response) and answer.status < 300):
            self._trouble = (self._request, answer)

    def _sent(self) -> int:
        return self._request.size if self._request else 0

    def _shrink(self) -> bool:
        """Take smaller chunks after 413 or 416; False when there are none."""
        smaller = self._profile.smaller_piece(self._chunk_bytes or self._descriptor.size)
        if smaller is not None:
            self._chunk_bytes = self.shrunk_to = smaller
        return smaller is not None

    def _move(self, answer: Response) -> None:
        """Always the newest Location (it may be relative, and its query holds the session's state)."""
        if (location := answer.header("location")) and self._request is not None:
            try:
                self._session = urljoin(self._request.url, location).partition("#")[0]
            except ValueError as error:
                raise RegistryError(f"{self._subject}: the registry's Location is not an address") from error

    def _end(self, how: How) -> How:
        self._session = ""
        return how

    def _error(self, answer: Answer) -> RegistryError:
        if self._request is None:
            raise ValueError("no request was made")
        error = refusal_error(self._request, answer, self._profile)
        error.attempts = max(error.attempts, self.tries)
        return error


def _quoted(descriptor: Descriptor) -> str:
    return quote(str(descriptor.digest), safe="")


def _codes(answer: Response, profile: Profile) -> tuple[str, ...]:
    return read_refusal(answer, profile, 0.0).codes


def _whole_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
