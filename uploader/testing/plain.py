"""PlainClient: sends single requests of the protocol as it is told, for tests of registries themselves."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import ClientOSError, ServerDisconnectedError
from yarl import URL

from uploader.errors import UploaderError
from uploader.oci.media_types import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, ClientSession


class NoAnswerError(UploaderError):
    """The connection broke before the answer came."""


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """An answer, whole; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def codes(self) -> list[str]:
        """The error codes of a refusal."""
        return [error["code"] for error in json.loads(self.body)["errors"]]


class PlainClient:
    """One method per request, for one repository: no retry, no login, no check of what comes back."""

    def __init__(self, session: ClientSession, origin: str, repository: str) -> None:
        self._session = session
        self._origin = URL(origin)
        self.repository = repository

    async def ask(self, method: str, path: str, data: bytes | None = None, **headers: str) -> PlainAnswer:
        """Any request; `path` may be a Location, relative or absolute. `_` in a header's name is `-`."""
        url = self._origin.join(URL(path, encoded=True))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        once = self._session.request(method, url, data=data, headers=named, middlewares=(_send_once,))
        async with once as response:
            answered = {name.lower(): value for name, value in response.headers.items()}
            return PlainAnswer(response.status, answered, await response.read())

    async def on(self, method: str, path: str, data: bytes | None = None, **headers: str) -> PlainAnswer:
        """Any request below the repository."""
        return await self.ask(method, f"/v2/{self.repository}/{path}", data, **headers)

    async def open(self) -> str:
        """Open an upload; gives its location."""
        return (await self.on("POST", "blobs/uploads/")).headers["location"]

    async def patch(self, location: str, first: int, chunk: bytes) -> PlainAnswer:
        """Send a chunk."""
        return await self.ask("PATCH", location, chunk, content_range=f"{first}-{first + len(chunk) - 1}")

    async def close(self, location: str, digest: str, data: bytes = b"") -> PlainAnswer:
        """Send the last bytes and close the upload."""
        joint = "&" if "?" in location else "?"
        return await self.ask("PUT", f"{location}{joint}digest={digest}", data)

    async def push_blob(self, content: bytes) -> PlainAnswer:
        """Open an upload and close it with all the bytes."""
        return await self.close(await self.open(), digest_of(content), content)

    async def push_manifest(self, reference: str, content: bytes, media_type: str = OCI_MANIFEST) -> PlainAnswer:
        """Put a manifest at a tag or digest."""
        return await self.on("PUT", f"manifests/{reference}", content, content_type=media_type)

    async def push_tag(self, tag: str) -> bytes:
        """Put a manifest with a config and one layer at the tag; gives its bytes."""
        await self.push_blob(b"{}")
        await self.push_blob(b"layer")
        content = manifest_of(digest_of(b"{}"), digest_of(b"layer"))
        await self.push_manifest(tag, content)
        return content


async def _send_once(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
    """aiohttp sends GET, HEAD, PUT and DELETE a second time when a connection breaks, unless the error is ours."""
    try:
        return await send(request)
    except (ClientOSError, ServerDisconnectedError) as error:
        raise NoAnswerError(f"{request.method} {request.url.path}: no answer, {error}") from error


def digest_of(content: bytes) -> str:
    """The sha256 digest, as text."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def manifest_of(config: str, layer: str) -> bytes:
    """A manifest of a config of 2 bytes (`{}`) and one layer of 5 bytes (`layer`)."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": config, "size": 2},
        "layers": [{"mediaType": OCI_LAYER_GZIP, "digest": layer, "size": 5}],
    }
    return json.dumps(document).encode()
