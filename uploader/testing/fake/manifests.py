"""Manifests and tags: what each request does to them (distribution-spec, "Pushing Manifests")."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from uploader.errors import InputError
from uploader.model.digest import Digest
from uploader.oci.media_types import DOCKER_INDEX, MANIFESTS, OCI_INDEX
from uploader.testing.fake.exchange import Call, Decision, Intake, Reply, error

if TYPE_CHECKING:
    from uploader.testing.fake.quirks import Quirks
    from uploader.testing.fake.storage import Storage, StoredRepository

_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})


class Manifests:
    """Takes, gives, lists and deletes manifests. Nothing here waits."""

    def __init__(self, storage: Storage, quirks: Quirks) -> None:
        self._storage = storage
        self._quirks = quirks

    def get(self, call: Call) -> Decision:
        """GET or HEAD: by tag or digest, in a media type that the client accepts."""
        digest = self._storage.find_manifest(call.repository, call.reference)
        if digest is None:
            return error(404, "MANIFEST_UNKNOWN", f"no manifest {call.reference} in {call.repository}")
        media_type, content = self._storage.repository(call.repository).manifests[digest]
        if media_type not in {part.partition(";")[0].strip() for part in _accepted(call)}:
            return error(404, "MANIFEST_UNKNOWN", f"the manifest is {media_type}, which Accept does not name")
        headers = {"content-type": media_type, "content-length": str(len(content))}
        return self._with_digest(Reply(200, headers, b"" if call.method == "HEAD" else content), digest)

    def put(self, call: Call) -> Decision:
        """PUT: at a tag, or by digest."""
        known = self._quirks.repositories
        if known is not None and call.repository not in known:
            return error(404, "NAME_UNKNOWN", f"repository {call.repository} does not exist")
        if (call.length or 0) > self._quirks.manifest_limit:
            refusal = f"a manifest has at most {self._quirks.manifest_limit} bytes here"
            return replace(error(413, "SIZE_INVALID", refusal), forbidden=refusal)
        content = bytearray()
        return Intake(content.extend, partial(self._take, call, content), content.clear)

    def delete(self, call: Call) -> Decision:
        """DELETE: a tag alone, or a manifest with all its tags."""
        repository = self._storage.repository(call.repository)
        if ":" not in call.reference and not self._quirks.delete_tags:
            return error(400, "UNSUPPORTED", "a tag cannot be deleted here")
        if self._storage.find_manifest(call.repository, call.reference) is None:
            return error(404, "MANIFEST_UNKNOWN", f"no manifest {call.reference} in {call.repository}")
        if call.reference in repository.tags:
            del repository.tags[call.reference]
        else:
            repository.remove_manifest(call.reference)
        return Reply(202)

    def tags(self, call: Call) -> Decision:
        """GET tags/list: in order, a page at a time (`n`, `last`, Link)."""
        if not self._storage.repository(call.repository).is_known:
            return error(404, "NAME_UNKNOWN", f"no repository {call.repository}")
        tags = self._storage.visible_tags(call.repository)
        if not self._quirks.paged_tags:
            return _tag_list(call, tags)
        wanted = call.first("n")
        if wanted is not None and not wanted.isdecimal():
            return error(400, "PAGINATION_NUMBER_INVALID", f"n is not a number: {wanted[:20]}")
        size = min(int(wanted or self._quirks.page_limit), self._quirks.page_limit)
        if wanted == "0":
            return _tag_list(call, [])
        rest = [tag for tag in tags if tag > (call.first("last") or "")]
        page = rest[:size]
        reply = _tag_list(call, page)
        if len(rest) <= len(page):
            return reply
        following = f"{call.path}?{urlencode({'n': size, 'last': page[-1]})}"
        return reply.with_headers(link=f'<{following}>; rel="next"')

    def _take(self, call: Call, body: bytearray) -> Reply:
        content = bytes(body)
        repository = self._storage.repository(call.repository)
        digest = str(Digest.of(content))
        refusal = self._refuses_reference(call, repository, digest)
        refusal = refusal or self._refuses_content(call, content)
        if refusal is not None:
            return refusal
        tags = [call.reference] if ":" not in call.reference else []
        further = call.every("tag") if self._quirks.many_tags and not tags else ()
        for tag in {*tags, *further} - repository.tags.keys():
            self._storage.delay(call.repository, tag, self._quirks.tag_lag)
        repository.add_manifest(content, *tags, *further, media_type=call.headers["content-type"])
        reply = Reply(201, {"location": f"/v2/{call.repository}/manifests/{digest}"})
        if further:
            reply = reply.with_headers(oci_tag=", ".join(further))
        return self._with_digest(reply, digest)

    def _refuses_reference(self, call: Call, repository: StoredRepository, digest: str) -> Reply | None:
        if ":" in call.reference:
            if call.reference == digest:
                return None
            return error(400, "DIGEST_INVALID", f"the content has the digest {digest}")
        if not _TAG.fullmatch(call.reference):
            return error(400, "TAG_INVALID", f"not a tag: {call.reference[:150]}")
        held = repository.tags.get(call.reference)
        rule = self._quirks.immutable_tags
        if held is None or rule == "no" or (rule == "other-digest" and held == digest):
            return None
        return error(400, "TAG_INVALID", f"tag {call.reference} exists and is immutable")

    def _refuses_content(self, call: Call, content: bytes) -> Reply | None:
        media_type = call.headers.get("content-type", "")
        if media_type not in MANIFESTS:
            return error(400, "MANIFEST_INVALID", f"Content-Type is no manifest: {media_type[:100]!r}")
        try:
            named = _descriptors(json.loads(content), media_type)
        except (ValueError, KeyError, TypeError, InputError) as problem:
            return error(400, "MANIFEST_INVALID", f"not a valid manifest: {problem!s:.200}")
        if self._quirks.missing_blob_status is None:
            return None
        for digest, size in named:
            refusal = self._refuses_descriptor(call, digest, size, manifest=media_type in _INDEXES)
            if refusal is not None:
                return refusal
        return None

    def _refuses_descriptor(self, call: Call, digest: str, size: int, *, manifest: bool) -> Reply | None:
        repository = self._storage.repository(call.repository)
        status = self._quirks.missing_blob_status or 404
        missing = error(status, "MANIFEST_BLOB_UNKNOWN", f"no blob {digest} in {call.repository}")
        if manifest:
            return None if self._storage.find_manifest(call.repository, digest) else missing
        if not self._storage.has_blob(call.repository, digest):
            return missing
        if not self._storage.has_settled(call.repository, digest):
            return error(status, "BLOB_UNKNOWN", f"no blob {digest} in {call.repository} yet")
        actual = repository.size_of(digest)
        if actual != size:
            return error(400, "MANIFEST_INVALID", f"{digest} has {actual} bytes, the manifest says {size}")
        return None

    def _with_digest(self, reply: Reply, digest: str) -> Reply:
        return reply.with_headers(docker_content_digest=digest) if self._quirks.digest_header else reply


def _descriptors(document: object, media_type: str) -> list[tuple[str, int]]:
    """Digest and size of all that the manifest names; raises where it is malformed."""
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise ValueError("schemaVersion is not 2")
    if document.get("mediaType", media_type) != media_type:
        raise ValueError(f"mediaType is {document['mediaType']!r}, Content-Type {media_type!r}")
    is_index = media_type in _INDEXES
    named = document["manifests"] if is_index else [document["config"], *document["layers"]]
    return [_descriptor(descriptor) for descriptor in named]


def _descriptor(descriptor: dict[str, object]) -> tuple[str, int]:
    size = descriptor["size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"a size is {size!r}")
    if not isinstance(descriptor["mediaType"], str):
        raise TypeError("a mediaType is not a text")
    return str(Digest.parse(str(descriptor["digest"]))), size


def _accepted(call: Call) -> list[str]:
    """`*/*` does not stand for OCI's types: distribution reads Accept so, and a client should name them."""
    return call.headers.get("accept", "").split(",")


def _tag_list(call: Call, tags: list[str]) -> Reply:
    body = json.dumps({"name": call.repository, "tags": tags}).encode()
    return Reply(200, {"content-type": "application/json"}, body)
