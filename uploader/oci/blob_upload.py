"""The upload of one blob as a state machine without I/O (distribution-spec, "Pushing Blobs").

    HEAD ─200→ present                        mount ─201→ present
      └─404→ POST                               └─202→ session, else → HEAD
    POST ─202→ PUT whole ─201→ uploaded       or, in chunks: PATCH ─202→ PATCH … → PUT ─201→ uploaded
    GET the session of an earlier push ─204→ PATCH the rest …      else → as if there had been none

A large blob goes out in a way that can be continued, where the registry's profile allows: all of it in one PATCH, which
the registry takes down as it comes (distribution), then an empty PUT. A broken PATCH is followed by GET status, and
goes on from the offset that the registry confirms. Where nothing of a broken PATCH was kept (a proxy held it back),
pieces follow. Where PATCH is refused, the blob is sent whole.

A PUT that ended unclearly (no answer, 5xx, 404 for a session that just took the body, 200 or 202 instead of 201) is
settled by HEAD: there, or not there and begun anew. A registry may still be at it, so one that had every byte is asked
more than once before anything is sent again. It is given up after some tries that brought it no further than it had
been before. The digest is sent only with, or after, the last byte.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote, urljoin

from uploader.errors import RegistryError
from uploader.oci.http import Answer, Body, Lost, Request, Response, Slice, has_size
from uploader.oci.profile import MIB
from uploader.oci.refusal import read_refusal, refusal_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploader.model.descriptor import Descriptor
    from uploader.model.outcome import How
    from uploader.oci.profile import Profile

TRIES: Final = 5
TRIES_OF_LARGE: Final = 20
"""A transfer of hours meets more broken connections than one of a second, and none of them says that it is refused."""
PIECE_BYTES: Final = 16 * MIB
"""At most so much is lost by a broken connection where a registry keeps only what came whole: 1 % of 1.6 GB."""
_MOVED_BYTES: Final = MIB
"""A connection that carried so much was no dead one: the wait before the next one is a first wait again."""
_ASKS: Final = ((64 * MIB, 6), (MIB, 3), (-1, 1))
"""By size: how often more than once to ask for a blob whose end is not known. Closing 700 MB took GHCR 5 to 11 s."""
_UNCLEAR: Final = frozenset({200, 202, 404, 408, 416, 502, 504, 520, 522, 524})
"""Answers to a whole request that may be a proxy's, or about a session that has just become a blob."""
_NO_STREAMS: Final = frozenset({400, 405, 411, 415, 416, 501})
_RANGE: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")

Ask = Literal["head", "mount", "nothing"]
Step = Request | Literal["uploaded", "mounted", "present"]


class _Counted:
    """A body that counts what is read of it to be sent. Mutable: the count, and where to count from."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.count = 0

    @property
    def size(self) -> int:
        return self._body.size

    def read(self, offset: int, length: int) -> bytes:
        self.count += length
        return self._body.read(offset, length)


class BlobUpload:
    """One blob on its way. Mutable: the session's URL, the offset confirmed and the furthest, the tries, the state.

    `session` is the URL of the open upload, empty where there is none. `pause` says how long to wait before the step
    that was given last: None = not at all, 0 = a first wait, and each number more doubles it. `why_again` says why
    bytes that had gone out went for nothing, if they did.

    `mount_refused`, `streams_refused`, `shrunk_to` and `least_piece` are what was learnt of the registry: that it does
    not mount from the repository itself, that it takes no PATCH, the largest piece that is left after 413 and 416, and
    the smallest that it says it takes.
    """

    def __init__(
        self,
        repository: str,
        descriptor: Descriptor,
        body: Body,
        *,
        profile: Profile,
        ask: Ask,
        where: str,
        session: str = "",
    ) -> None:
        """`where` names the repository in messages; `body` must have the descriptor's size.

        `session` is one that an earlier push of the same bytes left.
        """
        self._repository = repository
        self._descriptor = descriptor
        self._body = _Counted(body)
        self._profile = profile
        self._ask = ask
        self._subject = f"push blob {descriptor.digest.short} to {where}"
        self._offset = self._furthest = 0
        self._fruitless = 1
        self._barren = self._counted = self._begun_at = 0
        self._asks = range(0)
        self._doubted = False
        self._streams = can_continue(descriptor, profile)
        self._chunk_bytes = profile.piece_bytes(descriptor.size) or (profile.chunk_max if self._streams else None)
        self._expect: Callable[[Answer], Step] = self._after_head
        self._request: Request | None = None
        self._trouble: tuple[Request, Answer] | None = None
        self._verdict = ""
        self.session = session
        self.tries = 1
        self.pause: int | None = None
        self.why_again = ""
        self.mount_refused = self.streams_refused = False
        self.shrunk_to: int | None = None
        self.least_piece: int | None = None

    def begin(self) -> Request:
        """The first request."""
        return self._status(self._after_left) if self.session else self._first()

    def _first(self) -> Request:
        match self._ask:
            case "head":
                return self._head(self._after_head)
            case "mount":
                return self._mount()
            case "nothing":
                return self._open()

    def receive(self, answer: Answer) -> Step:
        """The next request, or how the blob came to be there; raises RegistryError when it is given up."""
        self.pause = None
        return self._expect(answer)

    def cancel(self) -> Request | None:
        """The request that ends an open session, if there is one (distribution-spec, "Cancel a blob upload")."""
        if not self.session:
            return None
        session, self.session = self.session, ""
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
        if self._offset == 0 and not self._streams and (self._chunk_bytes is None or size <= self._chunk_bytes):
            return self._put(Slice(self._body, 0, size))
        if self._offset == size:
            return self._put(b"")
        length = min(self._chunk_bytes or size, size - self._offset)
        headers = {
            "content-type": "application/octet-stream",
            "content-range": f"{self._offset}-{self._offset + length - 1}",
        }
        chunk = Slice(self._body, self._offset, length)
        request = Request("PATCH", self.session, self._subject, headers, chunk, repeatable=False)
        return self._send(request, self._after_chunk)

    def _put(self, body: bytes | Slice) -> Request:
        separator = "&" if "?" in self.session else "?"
        url = f"{self.session}{separator}digest={_quoted(self._descriptor)}"
        headers = {"content-type": "application/octet-stream"}
        return self._send(Request("PUT", url, self._subject, headers, body, repeatable=False), self._after_put)

    def _status(self, expect: Callable[[Answer], Step]) -> Request:
        return self._send(Request("GET", self.session, self._subject), expect)

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
        if not self.session:
            raise RegistryError(f"{self._subject}: the registry opened an upload without saying where (no Location)")
        if smallest := _whole_number(answer.header("oci-chunk-min-length")):
            self.least_piece = smallest
            self._chunk_bytes = max(self._chunk_bytes, smallest) if self._chunk_bytes else None
        return self._next_piece()

    def _after_put(self, answer: Answer) -> Step:
        if isinstance(answer, Response) and answer.status in {201, 204}:
            return self._end("uploaded")
        self._note_trouble(answer)
        match answer:
            case Response(status=413) if self._shrink():
                return self._again()
            case Response(status=200 | 202 | 404 | 416) | Lost():
                return self._settle(answer)
            case Response(status=400) if not self._doubted and "DIGEST_INVALID" in _codes(answer, self._profile):
                self._doubted = True  # damaged on the way, or really another content: one more try tells
                return self._again()
            case Response(status=status) if status >= 500 or status in {408, 425}:
                return self._settle(answer)
            case _:
                raise self._error(answer)

    def _settle(self, answer: Answer) -> Request:
        """A PUT of unknown outcome: whether the blob is there; the registry may still be at it if it had every byte."""
        arrived = answer.complete if isinstance(answer, Lost) else answer.status in _UNCLEAR
        self._asks = range(next(asks for size, asks in _ASKS if self._descriptor.size > size) if arrived else 0)
        return self._head(self._after_unclear)

    def _after_unclear(self, answer: Answer) -> Step:
        match answer:
            case Response(status=200) if has_size(answer, self._descriptor.size):
                return self._end("uploaded")
            case Response(status=200 | 404) if self._asks:
                self.pause, self._asks = self._asks[0], self._asks[1:]
                return self._head(self._after_unclear)
            case Response(status=404) if 0 < self._descriptor.size == self._offset:
                return self._go_on()
            case Response(status=200 | 404):
                return self._again()
            case _:
                raise self._error(answer)

    def _after_chunk(self, answer: Answer) -> Step:
        if isinstance(answer, Response) and answer.status in {201, 202, 204}:
            self._advance(self._offset + self._sent())
            self._move(answer)
            return self._next_piece()
        self._note_trouble(answer)
        match answer:
            case Response(status=413) if self._shrink():
                return self._go_on() if self._offset else self._again()
            case Response(status=status) if status in _NO_STREAMS and self._streams and not self._offset:
                self.streams_refused = True
                return self._whole()
            case Response(status=416) if not self._offset and self._shrink():
                return self._again()
            case Response(status=404):
                self._verdict = "the registry no longer has the upload"
                self._streams = self._streams and self._offset > 0  # or it has no PATCH at all
                return self._again()
            case Response(status=status) if status < 500 and status not in {408, 416, 425}:
                raise self._error(answer)
            case _:
                return self._go_on()

    def _after_status(self, answer: Answer) -> Step:
        """Where the session stands after a broken request."""
        confirmed = self._confirmed(answer)
        if isinstance(answer, Response) and confirmed <= self._offset and self._broken_size() > PIECE_BYTES:
            self._chunk_bytes = PIECE_BYTES
        return self._continue(answer, confirmed) if confirmed else self._anew()

    def _after_left(self, answer: Answer) -> Step:
        """Where the session of an earlier push stands. It may be gone because the blob is there."""
        if confirmed := self._confirmed(answer):
            return self._continue(answer, confirmed)
        self.session, self.why_again = "", f"an earlier push was ended on the way, and {self._verdict}"
        return self._first()

    def _continue(self, answer: Answer, confirmed: int) -> Request:
        if isinstance(answer, Response):
            self._move(answer)
        self._advance(confirmed)
        return self._next_piece()

    def _confirmed(self, answer: Answer) -> int:
        """How many bytes the session is said to hold; 0 where that is not known, or cannot be.

        "0-0" stands for no byte as well as for one (distribution 3, zot), and so for nothing that can be built on.
        """
        if not isinstance(answer, Response) or answer.status not in {200, 202, 204}:
            self._verdict = f"the upload cannot be continued ({read_refusal(answer, self._profile, 0.0).text})"
            return 0
        match = _RANGE.fullmatch(answer.header("range").strip())
        confirmed = int(match[1]) + 1 if match else 0
        if not 1 < confirmed <= self._descriptor.size:
            self._verdict = "the registry kept nothing of it"
            return 0
        return confirmed

    # -- helpers

    def _again(self) -> Step:
        """Another try, from the start."""
        if not self._count():
            raise self._spent()
        return self._anew()

    def _go_on(self) -> Step:
        """Another try, from where the session stands."""
        if not self._profile.resumes:
            self._verdict = "uploads to this registry are not continued"
            return self._again()
        if not self._count():
            raise self._spent()
        return self._status(self._after_status)

    def _whole(self) -> Request:
        """In one PUT, since this registry takes no stream."""
        self._streams = False
        return self._anew()

    def _anew(self) -> Request:
        """The session, and what it holds, is given up."""
        if self._body.count > self._begun_at:
            self._begun_at = self._body.count
            self.why_again = "; ".join(filter(None, (self._trouble_text(), self._verdict)))
        if self._fruitless >= TRIES and not self._furthest:
            self._streams = False  # it came to nothing so far
        self.session, self._offset, self._verdict = "", 0, ""
        return self._open()

    def _trouble_text(self) -> str:
        return read_refusal(self._trouble[1], self._profile, 0.0).text if self._trouble else ""

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
        broken = self._trouble is not None and isinstance(self._trouble[1], Lost)
        large = self._descriptor.size > self._profile.resume_above_bytes
        if self._fruitless >= (TRIES_OF_LARGE if broken and large else TRIES):
            return False
        self._barren = self._barren + 1 if self._body.count - self._counted < _MOVED_BYTES else 1
        self._counted = self._body.count
        self.pause = self._barren - 1
        self._fruitless += 1
        self.tries += 1
        return True

    def _note_trouble(self, answer: Answer) -> None:
        if self._request is not None:
            self._trouble = (self._request, answer)

    def _broken_size(self) -> int:
        return self._trouble[0].size if self._trouble else 0

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
                self.session = urljoin(self._request.url, location).partition("#")[0]
            except ValueError as error:
                raise RegistryError(f"{self._subject}: the registry's Location is not an address") from error

    def _end(self, how: How) -> How:
        self.session = ""
        return how

    def _error(self, answer: Answer) -> RegistryError:
        if self._request is None:
            raise ValueError("no request was made")
        error = refusal_error(self._request, answer, self._profile)
        error.attempts = max(error.attempts, self.tries)
        return error


def can_continue(descriptor: Descriptor, profile: Profile) -> bool:
    """Whether the blob is worth a way that can be continued, and the registry can do it."""
    able = profile.resumes and profile.chunks and profile.has_status
    return able and descriptor.size > profile.resume_above_bytes


def _quoted(descriptor: Descriptor) -> str:
    return str(descriptor.digest).replace(":", "%3A")


def _codes(answer: Response, profile: Profile) -> tuple[str, ...]:
    return read_refusal(answer, profile, 0.0).codes


def _whole_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
