"""Uploads of blobs: what each request does to an upload (distribution-spec, "Push")."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from uploader.errors import InputError
from uploader.model.digest import Digest
from uploader.testing.fake.exchange import Call, Decision, Intake, Reply, error
from uploader.testing.fake.storage import Session

if TYPE_CHECKING:
    import random

    from uploader.testing.fake.quirks import Quirks
    from uploader.testing.fake.storage import Storage

_CONTENT_RANGE: Final = re.compile(r"([0-9]+)-([0-9]+)")


class Uploads:
    """Opens, fills, closes and cancels uploads. Nothing here waits."""

    def __init__(self, storage: Storage, quirks: Quirks, ids: random.Random, *, keep_blobs: bool) -> None:
        self._storage = storage
        self._quirks = quirks
        self._ids = ids
        self._keep_blobs = keep_blobs

    def open(self, call: Call) -> Decision:
        """POST: a new upload, or the whole blob at once (`?digest=`)."""
        known = self._quirks.repositories
        if known is not None and call.repository not in known:
            return error(404, "NAME_UNKNOWN", f"repository {call.repository} does not exist")
        algorithm = call.first("digest-algorithm") or call.reference.partition(":")[0] or "sha256"
        if algorithm not in {"sha256", "sha512"}:
            return error(400, "DIGEST_INVALID", f"digest algorithm {algorithm[:20]} is not supported")
        session = Session(f"{self._ids.getrandbits(128):032x}", algorithm, keep=self._keep_blobs)
        if call.reference and call.kind == "open" and self._quirks.single_post:
            return self._into(call, session, partial(self._close, call, session))
        self._storage.repository(call.repository).sessions[session.id] = session
        return self._progress(call, session, 202)

    def mount(self, call: Call) -> Decision:
        """POST ?mount=: the blob from another repository, or a new upload."""
        source = call.first("from")
        if source is None and self._quirks.mount_without_from == "refuse":
            return error(400, "UNSUPPORTED", "mount needs a repository to mount from")
        content = self._mountable(call.reference, source)
        forbidden = "" if source != call.repository or self._quirks.self_mount else "a mount from the repository itself"
        if content is not None:
            self._storage.repository(call.repository).store(call.reference, *content)
            return replace(self._created(call), forbidden=forbidden)
        if self._quirks.mount_refusal != 202 and source != call.repository:
            return error(self._quirks.mount_refusal, "DENIED", f"no mount from {source}")
        reply = self.open(call)
        assert isinstance(reply, Reply), "only a POST with the whole blob has a body"
        return replace(reply, forbidden=forbidden)

    def patch(self, call: Call) -> Decision:
        """PATCH: the next chunk."""
        session = self._writable(call)
        if session is None:
            return self._unknown(call)
        refusal = self._refuses_patch(call, session) or self._refuses_range(call, session)
        if refusal is not None:
            return refusal
        return self._into(call, session, partial(self._end_chunk, call, session))

    def put(self, call: Call) -> Decision:
        """PUT: the rest of the bytes, possibly none, and the digest of the whole."""
        session = self._writable(call)
        if session is None:
            return self._unknown(call)
        if not _is_digest(call.reference):
            return error(400, "DIGEST_INVALID", "a digest is needed to close the upload")
        if call.length:
            refusal = self._refuses_range(call, session) if "content-range" in call.headers else None
            refusal = refusal or self._refuses_after_short_chunk(session)
            if refusal is not None:
                return refusal
        return self._into(call, session, partial(self._close, call, session))

    def status(self, call: Call) -> Decision:
        """GET: how far the upload is; asked at any location that was handed out."""
        session = self._find(call)
        if not self._quirks.has_status:
            return replace(self._unknown(call), forbidden="asking for an upload's status")
        if session is None:
            return self._unknown(call)
        return self._progress(call, session, 204, location=self._location(call, session))

    def cancel(self, call: Call) -> Decision:
        """DELETE: forget the upload."""
        if self._find(call) is None:
            return self._unknown(call)
        return self.lose(call, Reply(204))

    def lose(self, call: Call, reply: Reply | None = None) -> Reply:
        """Forget the upload, however it stands."""
        self._storage.repository(call.repository).sessions.pop(_session_id(call), None)
        return reply or self._unknown(call)

    def _find(self, call: Call) -> Session | None:
        """The upload, if the request came to one of its locations that count."""
        if not self._quirks.status_at_old_location:
            return self._writable(call)
        session = self._storage.repository(call.repository).sessions.get(_session_id(call))
        return session if session is not None and _key(call) in session.keys else None

    def _writable(self, call: Call) -> Session | None:
        """The upload, if the request came to its newest location."""
        session = self._storage.repository(call.repository).sessions.get(_session_id(call))
        return session if session is not None and _key(call) == session.keys[-1] else None

    def _into(self, call: Call, session: Session, finish: partial[Reply]) -> Intake:
        writer = session.take_over()
        return Intake(
            receive=partial(session.receive, writer),
            finish=lambda: finish() if session.is_writer(writer) else self._unknown(call),
            broken=partial(self._break_off, call, session, writer),
        )

    def _break_off(self, call: Call, session: Session, writer: int) -> None:
        if self._quirks.broken_body == "session-lost" and session.is_writer(writer):
            self.lose(call)

    def _refuses_patch(self, call: Call, session: Session) -> Reply | None:
        limit = self._quirks.patches
        if limit is not None and session.patches >= limit:
            refusal = f"an upload takes {limit} PATCH requests here"
            return replace(error(400, "UNSUPPORTED", refusal), forbidden=refusal)
        if call.length is None:
            return error(411, "SIZE_INVALID", "a chunk needs a Content-Length")
        if self._quirks.chunk_limit is not None and call.length > self._quirks.chunk_limit:
            forbidden = f"a PATCH of more than {self._quirks.chunk_limit} bytes"
            return replace(error(416, "BLOB_UPLOAD_INVALID", "request body is too large"), forbidden=forbidden)
        return self._refuses_after_short_chunk(session)

    def _refuses_after_short_chunk(self, session: Session) -> Reply | None:
        if not session.had_short_chunk:
            return None
        refusal = f"a chunk before was smaller than {self._quirks.chunk_min} bytes"
        return replace(error(400, "SIZE_INVALID", refusal), forbidden=refusal)

    def _refuses_range(self, call: Call, session: Session) -> Reply | None:
        if not self._quirks.checks_content_range:
            return None
        match = _CONTENT_RANGE.fullmatch(call.headers.get("content-range", ""))
        if match is None:
            return error(400, "BLOB_UPLOAD_INVALID", "Content-Range must be FIRST-LAST, without a unit")
        first, last = int(match[1]), int(match[2])
        if last - first + 1 != call.length:
            return error(400, "SIZE_INVALID", "Content-Range and Content-Length do not agree")
        if first == session.size:
            return None
        refusal = error(416, "BLOB_UPLOAD_INVALID", f"bytes from {session.size} on are awaited")
        return refusal.with_headers(**self._range(session), location=self._location(call, session))

    def _end_chunk(self, call: Call, session: Session) -> Reply:
        session.patches += 1
        if session.patches == 1:
            session.first_chunk_end = session.size
        if self._quirks.chunk_min is not None and (call.length or 0) < self._quirks.chunk_min:
            session.had_short_chunk = True
        return self._progress(call, session, self._quirks.patch_status)

    def _close(self, call: Call, session: Session) -> Reply:
        """Whatever comes out, the upload is over: after a wrong digest the client starts anew."""
        self.lose(call)
        if session.digest() != call.reference:
            return error(400, "DIGEST_INVALID", f"the content has the digest {session.digest()}")
        repository = self._storage.repository(call.repository)
        if call.reference not in repository.blobs:
            self._storage.delay(call.repository, call.reference, self._quirks.blob_lag)
        repository.store(call.reference, session.content(), session.size)
        return self._created(call)

    def _created(self, call: Call) -> Reply:
        path = f"/v2/{call.repository}/blobs/{call.reference}"
        location = call.origin + path if self._quirks.absolute_location else path
        reply = Reply(201, {"location": location})
        return reply.with_headers(docker_content_digest=call.reference) if self._quirks.digest_header else reply

    def _progress(self, call: Call, session: Session, status: int, location: str | None = None) -> Reply:
        headers = self._range(session)
        if status == 202 and session.size == 0 and self._quirks.chunk_min is not None:
            headers["oci_chunk_min_length"] = str(self._quirks.chunk_min)
        return Reply(status).with_headers(
            location=location or self._new_location(call, session), docker_upload_uuid=session.id, **headers
        )

    def _range(self, session: Session) -> dict[str, str]:
        """No bytes and one byte read the same, `0-0`: so it is in distribution."""
        match self._quirks.range_header:
            case "right":
                return {"range": f"0-{max(session.size - 1, 0)}"}
            case "first-chunk":
                return {"range": f"0-{max(session.first_chunk_end - 1, 0)}"}
            case "unit":
                return {"range": f"bytes=0-{session.size - 1}"}
            case "absent":
                return {}

    def _new_location(self, call: Call, session: Session) -> str:
        """Every answer to a write moves the upload to a new location."""
        session.keys.append(f"{self._ids.getrandbits(64):016x}")
        return self._location(call, session)

    def _location(self, call: Call, session: Session) -> str:
        path = f"/v2/{call.repository}/blobs/uploads/{session.id}"
        path += f"?_state={session.keys[-1]}" if self._quirks.location_state else f".{session.keys[-1]}"
        return call.origin + path if self._quirks.absolute_location else path

    def _mountable(self, digest: str, source: str | None) -> tuple[bytes, int] | None:
        """Content and size of the blob, if the registry would mount it from `source` (None = anywhere)."""
        anywhere = self._quirks.mount == "anywhere"
        if self._quirks.mount == "never" or not _is_digest(digest):
            return None
        if source is None and not anywhere and self._quirks.mount_without_from != "find":
            return None
        names = list(self._storage.repositories) if source is None or anywhere else [source]
        for name in names:
            if not self._storage.has_blob(name, digest):
                continue
            repository = self._storage.repository(name)
            named = any(digest.encode() in content for _, content in repository.manifests.values())
            if named or self._quirks.mount != "after-manifest":
                return repository.blobs[digest], repository.size_of(digest)
        return None

    def _unknown(self, call: Call) -> Reply:
        return error(404, "BLOB_UPLOAD_UNKNOWN", f"no upload {_session_id(call)[:8]} at this location")


def _session_id(call: Call) -> str:
    return call.session.partition(".")[0]


def _key(call: Call) -> str:
    """What tells one location of an upload from the next: in the query or at the end of the path."""
    return call.first("_state") or call.session.partition(".")[2]


def _is_digest(text: str) -> bool:
    try:
        Digest.parse(text)
    except InputError:
        return False
    return True
