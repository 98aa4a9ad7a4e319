"""All that the fake registry decides about a request, in one place: no HTTP, and nothing waits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from uploader.testing.fake.blobs import Blobs
from uploader.testing.fake.exchange import Call, Decision, Kind, Reply, error
from uploader.testing.fake.manifests import Manifests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from uploader.testing.fake.quirks import Quirks
    from uploader.testing.fake.storage import Storage
    from uploader.testing.fake.uploads import Uploads

_NAME: Final = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")


class Decisions:
    """Who decides about which kind of request."""

    def __init__(self, storage: Storage, quirks: Quirks, uploads: Uploads) -> None:
        blobs, manifests = Blobs(storage, quirks), Manifests(storage, quirks)
        self.storage = storage
        self.uploads = uploads
        self._by_kind: Mapping[Kind, Callable[[Call], Decision]] = {
            "head-blob": blobs.head,
            "get-blob": blobs.get,
            "delete-blob": blobs.delete,
            "open": uploads.open,
            "mount": uploads.mount,
            "patch": uploads.patch,
            "put-blob": uploads.put,
            "status": uploads.status,
            "cancel": uploads.cancel,
            "head-manifest": manifests.get,
            "get-manifest": manifests.get,
            "put-manifest": manifests.put,
            "delete-manifest": manifests.delete,
            "tags": manifests.tags,
        }

    def decide(self, call: Call) -> Decision:
        """The answer, or where the body goes first."""
        if call.kind == "ping":
            return Reply(200, {"content-type": "application/json"}, b"{}")
        decide = self._by_kind.get(call.kind)
        if decide is None:
            return error(404, "UNSUPPORTED", f"no such thing: {call.method} {call.path}")
        if not _NAME.fullmatch(call.repository):
            return error(400, "NAME_INVALID", f"not a repository name: {call.repository[:255]}")
        return decide(call)
