"""Blobs that are there: asking, reading and deleting them (distribution-spec, "Pull")."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from uploader.errors import InputError
from uploader.model.digest import Digest
from uploader.testing.fake.exchange import Call, Decision, Reply, error

if TYPE_CHECKING:
    from uploader.testing.fake.quirks import Quirks
    from uploader.testing.fake.storage import Storage

_RANGE: Final = re.compile(r"bytes=([0-9]*)-([0-9]*)")


class Blobs:
    """Answers about blobs. Nothing here waits."""

    def __init__(self, storage: Storage, quirks: Quirks) -> None:
        self._storage = storage
        self._quirks = quirks

    def head(self, call: Call) -> Decision:
        """HEAD: whether it is there, and how large."""
        refusal = self._refuses(call)
        if refusal is not None:
            return refusal
        size = self._storage.repository(call.repository).size_of(call.reference)
        return self._found(call, 200).with_headers(content_length=str(size))

    def get(self, call: Call) -> Decision:
        """GET: its bytes, or those that Range asks for."""
        refusal = self._refuses(call)
        if refusal is not None:
            return refusal
        repository = self._storage.repository(call.repository)
        content = repository.blobs[call.reference]
        if len(content) != repository.size_of(call.reference):
            return error(500, "UNKNOWN", "this registry keeps no blobs (keep_blobs=False)")
        found = self._found(call, 200)
        match = _RANGE.fullmatch(call.headers.get("range", ""))
        if match is None or match[0] == "bytes=-":
            return Reply(200, found.headers, content)
        first, last = _bounds(match[1], match[2], len(content))
        if first > last:
            return error(416, "SIZE_INVALID", "no such bytes", content_range=f"bytes */{len(content)}")
        part = content[first : last + 1]
        return Reply(206, found.headers, part).with_headers(content_range=f"bytes {first}-{last}/{len(content)}")

    def delete(self, call: Call) -> Decision:
        """DELETE: take it away."""
        refusal = self._refuses(call)
        if refusal is not None:
            return refusal
        del self._storage.repository(call.repository).blobs[call.reference]
        return Reply(202)

    def _refuses(self, call: Call) -> Reply | None:
        try:
            Digest.parse(call.reference)
        except InputError:
            return error(400, "DIGEST_INVALID", f"not a digest: {call.reference[:80]}")
        if self._storage.has_blob(call.repository, call.reference):
            return None
        return error(404, "BLOB_UNKNOWN", f"no blob {call.reference} in {call.repository}")

    def _found(self, call: Call, status: int) -> Reply:
        headers = {"content-type": "application/octet-stream", "accept-ranges": "bytes"}
        if self._quirks.digest_header:
            headers["docker-content-digest"] = call.reference
        return Reply(status, headers)


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """First and last byte of a range (RFC 9110, 14.1.2); `-N` is the last N bytes."""
    if not first:
        return max(size - int(last), 0), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1
