"""A repository of a registry as a destination: blobs, manifests and tags by the distribution-spec."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Self
from urllib.parse import quote

import anyio

from uploader.errors import AbsentError, InputError, RegistryError, UnusableError
from uploader.model.digest import Digest
from uploader.model.events import Note
from uploader.model.reference import Repository
from uploader.oci.blob_upload import Ask, BlobUpload, can_continue
from uploader.oci.http import BLOB_UNKNOWN, Answer, Body, Request, Response, error_codes, has_size
from uploader.oci.manifest import StoredManifest
from uploader.oci.media_types import MANIFESTS
from uploader.oci.refusal import read_refusal, refusal_error
from uploader.oci.tag_list import next_page, tags_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from uploader.model.descriptor import Descriptor
    from uploader.model.outcome import How, Traffic
    from uploader.model.reference import Destination, Tag
    from uploader.oci.journal import Journal
    from uploader.oci.profile import Profile
    from uploader.registry.asking import Asker

LARGEST_MANIFEST_BYTES = 8 * 1024 * 1024
LARGEST_CONFIG_BYTES = 16 * 1024 * 1024
_LARGEST_TAG_PAGE_BYTES = 64 * 1024 * 1024
_TAG_PAGES = 100_000
_CANCEL_SECONDS = 1.0
_DENIED_WRITES = 8
_PATIENCE = 10
"""So many times the lag that a registry is known for is waited out."""
_SHORTEST_PATIENCE_SECONDS = 2.0
_FIRST_LAG_SECONDS = 0.1


class RegistryClient:
    """One repository. Mutable: what was learnt of the registry, and which writes were denied."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._repository = asker.repository
        self._name = asker.repository.name
        self._where = f"{asker.repository.registry.host}/{asker.repository.name}"
        self._limits = asker.limits
        self._timing = asker.timing
        self._mounts = self._streams = True
        self._blob_taken_at = -math.inf
        self._tagged_at: dict[Tag, float] = {}
        self._denied: set[str] = set()
        self._wrote = False

    # -- the Destination protocol

    looking_is_free = False

    async def is_empty(self) -> bool:
        """One page of one tag answers it: the registry's own 404, or no tags. All else leaves it open, which is no."""
        request = Request("GET", f"/v2/{self._name}/tags/list?n=1", f"list the tags of {self._where}")
        answer = await self._asker.ask(request)
        if not isinstance(answer, Response):
            return False
        if answer.status == 404:
            return bool(error_codes(answer.body))  # not the 404 of a proxy, or of a registry that lists no tags
        return answer.status == 200 and tags_of(answer) == [] and not answer.header("link")

    async def find_tag(self, tag: Tag) -> Digest | None:
        """HEAD, never GET: a GET counts as a pull. A registry that tells no digest is asked again by GET."""
        request = self._manifest_request("HEAD", tag)
        answer = await self._ask_until(request, self._tag_is_settled_at(tag), _is_absent)
        match answer:
            case Response(status=404):
                return None
            case Response(status=200) if digest := _digest_of(answer):
                return digest
            case Response(status=200):
                stored = await self.read_manifest(tag)
                return stored.digest if stored else None
            case _:
                raise refusal_error(request, answer, self._profile)

    async def read_manifest(self, reference: Tag | Digest) -> StoredManifest | None:
        """GET; content and digest must agree."""
        request = self._manifest_request("GET", reference)
        answer = await self._asker.ask(request, most=LARGEST_MANIFEST_BYTES)
        if not isinstance(answer, Response) or answer.status not in {200, 404}:
            raise refusal_error(request, answer, self._profile)
        if answer.status == 404:
            return None
        digest = reference if isinstance(reference, Digest) else _digest_of(answer) or Digest.of(answer.body)
        if not _is_of(answer.body, digest):
            raise RegistryError(f"{request.subject}: its content is not what its digest {digest.short} says")
        return StoredManifest(answer.body, answer.header("content-type").partition(";")[0].strip(), digest)

    async def read_blob(self, descriptor: Descriptor) -> bytes | None:
        """GET of a config; a larger blob than any config is refused."""
        if descriptor.size > LARGEST_CONFIG_BYTES:
            raise RegistryError(f"blob {descriptor.digest.short} of {self._where} is too large for a config")
        request = self._blob_request("GET", descriptor)
        answer = await self._asker.ask(request, most=descriptor.size + 1)
        match answer:
            case Response(status=404):
                return None
            case Response(status=200, body=content) if _is_of(content, descriptor.digest):
                return content
            case Response(status=200):
                raise RegistryError(f"{request.subject}: its content is not what its digest says")
            case _:
                raise refusal_error(request, answer, self._profile)

    async def copy_blob(self, descriptor: Descriptor, file: BinaryIO | None) -> bool:
        """GET, streamed; from the beginning again when the connection breaks."""
        plain = self._blob_request("GET", descriptor)
        request = replace(plain, sink=(sink := _Checked(descriptor, file, plain.subject)))
        answer = await self._asker.ask(request)
        match answer:
            case Response(status=404):
                return False
            case Response(status=200) if sink.is_whole:
                return True
            case Response(status=200):
                raise RegistryError(f"{request.subject}: its content is not what its digest says")
            case _:
                raise refusal_error(request, answer, self._profile)

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """HEAD. A blob of another size is not there, whatever its digest says: what is stored is not whole."""
        request = self._blob_request("HEAD", descriptor)
        match answer := await self._asker.ask(request):
            case Response(status=200) if has_size(answer, descriptor.size):
                return True
            case Response(status=200):
                told = answer.header("content-length")
                self._asker.emit(
                    Note(f"{request.subject}: it has {told} bytes there instead of {descriptor.size}: taken for absent")
                )
                return False
            case Response(status=404):
                return False
            case _:
                raise refusal_error(request, answer, self._profile)

    async def push_blob(
        self, descriptor: Descriptor, body: Body, *, expected: bool, journal: Journal | None = None
    ) -> How:
        """Drive the upload machine. When it fails or is cancelled the open session is ended, within a second.

        Save one that a later push can continue: that is what the journal is for.
        """
        profile = self._profile if self._streams else replace(self._profile, resumes=False)
        left = await journal.begin() if journal and can_continue(descriptor, profile) else None
        kept = journal if left is not None else None
        ask = self._how_to_ask(expected or bool(left))
        upload = BlobUpload(
            self._name, descriptor, body, profile=profile, ask=ask, where=self._where, session=left or ""
        )
        try:
            how = await self._drive(upload, kept)
        except BaseException as error:
            if kept is None or not upload.session or not _may_be_continued(error):
                with anyio.move_on_after(_CANCEL_SECONDS, shield=True):
                    await self._cancel(upload)
                if kept is not None:
                    kept.ended()
            if isinstance(error, RegistryError):
                self._note_denied(str(descriptor.digest), error)
            raise
        if kept is not None:
            kept.ended()
        if journal is not None and upload.why_again and how == "uploaded":
            journal.sent_again(upload.why_again)
        if how == "uploaded":
            self._wrote = True
            self._blob_taken_at = self._timing.monotonic()
            self._learn(upload)
        return how

    async def mount_blob(self, descriptor: Descriptor, source: Destination) -> bool:
        """POST with mount and from (distribution-spec, "Mounting a blob"); a session opened instead is ended again."""
        if not isinstance(source, Repository) or source.registry != self._repository.registry:
            return False
        query = f"mount={quote(str(descriptor.digest), safe='')}&from={quote(source.name, safe='')}"
        subject = f"mount blob {descriptor.digest.short} in {self._where}"
        request = Request("POST", f"/v2/{self._name}/blobs/uploads/?{query}", subject)
        answer = await self._asker.ask(request)
        if isinstance(answer, Response) and answer.status == 202 and (session := answer.header("location")):
            await self._asker.ask(Request("DELETE", session, subject, repeatable=False))
        return isinstance(answer, Response) and answer.status == 201

    async def push_manifest(self, tag: Tag, content: bytes, media_type: str) -> None:
        """PUT at the tag; repeatable, since the same bytes at the same tag are the same manifest.

        A refusal is no failure where the tag points at this manifest all the same: tags may be immutable, and the
        first of two tries may have succeeded.
        """
        request = Request(
            "PUT",
            f"/v2/{self._name}/manifests/{tag}",
            f"push manifest {tag} to {self._where}",
            {"content-type": media_type},
            content,
        )
        profile = self._profile
        settled_at = self._blob_taken_at + _PATIENCE * profile.blob_lag if profile.blob_lag else -math.inf
        answer = await self._ask_until(request, settled_at, _lacks_a_blob)
        digest = Digest.of(content)
        if not isinstance(answer, Response) or answer.status not in {200, 201, 202, 204}:
            error = refusal_error(request, answer, self._profile)
            if error.kind != "quota" and await self._points_at(tag, digest):
                return
            self._note_denied(tag, error)
            raise error
        self._wrote = True
        self._tagged_at.pop(tag, None)
        self._tagged_at[tag] = self._timing.monotonic()
        stored = _digest_of(answer)
        if stored is not None and not _is_of(content, stored):
            raise RegistryError(f"{request.subject}: the registry stored {stored.short} instead of {digest.short}")

    async def _points_at(self, tag: Tag, digest: Digest) -> bool:
        with suppress(RegistryError):
            return await self.find_tag(tag) == digest
        return False

    def traffic(self) -> Traffic:
        """Counted since it was opened; the bytes are those of request bodies."""
        return self._asker.traffic()

    async def tags(self) -> AsyncIterator[Tag]:
        """Every tag, page by page (distribution-spec, "Listing Tags"); raises AbsentError where the first is a 404."""
        url = first = f"/v2/{self._name}/tags/list?n=1000"
        subject = f"list the tags of {self._where}"
        seen: set[str] = set()
        for _ in range(_TAG_PAGES):
            seen.add(url)
            request = Request("GET", url, subject)
            answer = await self._asker.ask(request, most=_LARGEST_TAG_PAGE_BYTES)
            if isinstance(answer, Response) and answer.status == 404 and url == first:
                said = read_refusal(answer, self._profile, now=0.0).text
                raise AbsentError(f"{subject}: {said}: no such repository, or nothing is tagged in it", status=404)
            if not isinstance(answer, Response) or answer.status != 200:
                raise refusal_error(request, answer, self._profile)
            page = tags_of(answer)
            if page is None:
                raise RegistryError(f"{subject}: the answer is not a list of tags")
            for tag in page:
                yield tag
            following = next_page(url, answer)
            if following is None:
                return
            if following in seen:
                raise RegistryError(f"{subject}: a page names one as the next that came before")
            url = following
        raise RegistryError(f"{subject}: more than {_TAG_PAGES} pages")

    async def __aenter__(self) -> Self:
        await self._asker.transport.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._asker.transport.__aexit__(None, None, None)

    # -- uploads

    def _how_to_ask(self, expected: bool) -> Ask:
        if not expected:
            return "nothing"
        return "mount" if self._mounts and self._profile.self_mount else "head"

    def _learn(self, upload: BlobUpload) -> None:
        """What its answers taught, now that the blob is there all the same."""
        if upload.mount_refused:
            self._limits.no_mount()
        if upload.streams_refused:
            self._limits.no_stream()
        if upload.shrunk_to is not None:
            self._limits.body_limit(upload.shrunk_to)
        if upload.least_piece is not None:
            self._limits.least_piece(upload.least_piece)

    async def _drive(self, upload: BlobUpload, journal: Journal | None) -> How:
        step = upload.begin()
        while True:
            tries, session = upload.tries, upload.session
            following = upload.receive(await self._asker.ask(step))
            self._mounts = self._mounts and not upload.mount_refused
            self._streams = self._streams and not upload.streams_refused
            if not isinstance(following, Request):
                return following
            if journal is not None and upload.session not in {"", session}:
                journal.opened(upload.session)
            self._asker.retries += upload.tries - tries
            if upload.pause is not None:
                await self._asker.back_off(upload.pause)
            step = following

    async def _cancel(self, upload: BlobUpload) -> None:
        """Whatever comes of it: the registry forgets the session anyway."""
        if (request := upload.cancel()) is not None:
            await self._asker.ask_at_once(request)

    # -- requests

    def _manifest_request(self, method: str, reference: Tag | Digest) -> Request:
        url = f"/v2/{self._name}/manifests/{quote(str(reference), safe=':')}"
        name = reference.short if isinstance(reference, Digest) else reference
        verb = "ask for" if method == "HEAD" else "read"
        accept = {"accept": ", ".join(MANIFESTS)}
        return Request(method, url, f"{verb} manifest {name} of {self._where}", accept)  # type: ignore[arg-type]

    def _blob_request(self, method: str, descriptor: Descriptor) -> Request:
        verb = "ask for" if method == "HEAD" else "read"
        subject = f"{verb} blob {descriptor.digest.short} of {self._where}"
        return Request(method, f"/v2/{self._name}/blobs/{descriptor.digest}", subject)  # type: ignore[arg-type]

    @property
    def _profile(self) -> Profile:
        return self._limits.profile

    def _tag_is_settled_at(self, tag: Tag) -> float:
        """Until when the tag may be absent although it was written; of long ago nothing is kept."""
        now = self._timing.monotonic()
        patience = max(_SHORTEST_PATIENCE_SECONDS, _PATIENCE * self._profile.tag_lag)
        while self._tagged_at and (oldest := next(iter(self._tagged_at.items())))[1] < now - patience:
            del self._tagged_at[oldest[0]]
        return self._tagged_at.get(tag, -math.inf) + patience

    async def _ask_until(self, request: Request, settled_at: float, unsettled: Callable[[Answer], bool]) -> Answer:
        """Ask again while the answer may be one of a moment ago: what was written is not everywhere at once."""
        wait = _FIRST_LAG_SECONDS
        while unsettled(answer := await self._asker.ask(request)) and self._timing.monotonic() < settled_at:
            self._asker.retries += 1
            await self._timing.sleep(wait)
            wait *= 2
        return answer

    def _note_denied(self, subject: str, error: RegistryError) -> None:
        """Eight different writes denied, and none done: this account may not write here at all (rule 14)."""
        if error.kind != "auth" or self._wrote:
            return
        self._denied.add(subject)
        if len(self._denied) >= _DENIED_WRITES:
            raise UnusableError(
                f"{len(self._denied)} writes were denied and none was done; the last: {error}"
            ) from error


def _may_be_continued(error: BaseException) -> bool:
    """Interrupted, or the network's failure: it says nothing against what the registry holds already."""
    if isinstance(error, RegistryError):
        return error.kind == "network"
    return isinstance(error, UnusableError) or not isinstance(error, Exception)


class _Checked:
    """Copies an answer to a file, if there is one, and hashes it on the way. Mutable: the hash and the size.

    An answer that goes on after its end is not read on: it might never end.
    """

    def __init__(self, descriptor: Descriptor, file: BinaryIO | None, subject: str) -> None:
        self._descriptor = descriptor
        self._subject = subject
        self._file = file
        self.begin()

    def begin(self) -> None:
        self._hash = hashlib.new(self._descriptor.digest.algorithm)
        self._size = 0
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    def write(self, chunk: bytes, /) -> None:
        self._hash.update(chunk)
        self._size += len(chunk)
        if self._size > self._descriptor.size:
            raise RegistryError(
                f"{self._subject}: its content is not what its digest says: it is longer than the "
                f"{self._descriptor.size} bytes it should have"
            )
        if self._file is not None:
            self._file.write(chunk)

    @property
    def is_whole(self) -> bool:
        return (self._hash.hexdigest(), self._size) == (self._descriptor.digest.hex, self._descriptor.size)


def _is_absent(answer: Answer) -> bool:
    return isinstance(answer, Response) and answer.status == 404


def _lacks_a_blob(answer: Answer) -> bool:
    if not isinstance(answer, Response) or answer.status not in {400, 404}:
        return False
    return not BLOB_UNKNOWN.isdisjoint(code for code, _ in error_codes(answer.body))


def _digest_of(answer: Response) -> Digest | None:
    """What Docker-Content-Digest says; None where it is missing or no digest."""
    with suppress(InputError):
        return Digest.parse(answer.header("docker-content-digest"))
    return None


def _is_of(content: bytes, digest: Digest) -> bool:
    return hashlib.new(digest.algorithm, content).hexdigest() == digest.hex
