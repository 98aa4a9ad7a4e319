"""FakeRegistry: a strict registry in memory, on a loopback port, that can be told to go wrong."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Literal

from aiohttp import web

from uploader.testing.fake.decisions import Decisions
from uploader.testing.fake.gate import Anonymous, Auth, Gate
from uploader.testing.fake.limits import Limits
from uploader.testing.fake.log import Recorded, RequestLog
from uploader.testing.fake.quirks import SPEC, Quirks, quirks_of
from uploader.testing.fake.server import Server
from uploader.testing.fake.storage import Storage, StoredRepository
from uploader.testing.fake.tls import make_certificates
from uploader.testing.fake.uploads import Uploads
from uploader.testing.faults import Fault, Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

    from uploader.oci.profile import Profile
    from uploader.testing.fake.exchange import Kind

_SHUTDOWN_SECONDS: Final = 0.01
"""What runs still (a stalled request) when the block ends is broken off after that."""


class FakeRegistry:
    """A real HTTP server; use it as an async context manager in the body of a test.

        async with FakeRegistry(faults=[Fault(on="put-blob", times=2, then=Answer(503))]) as registry:
            ...  # talk to registry.host, then look at registry.repository("a/b") and registry.requests

    `host` is `127.0.0.1:PORT`; `ca_file`, with `tls=True`, is the authority that vouches for it. With `tls="mutual"` it
    wants the client's certificate: `client.cert` with `client.key`, beside the authority's.
    It reads the distribution-spec strictly; `profile`, a row of `oci/profile.py`, makes it like that registry (with
    `repositories` where it makes none by itself), `quirks` change single habits, `faults` let it fail. What a client
    that knows the profile would not have sent is in `forbidden`.
    The same `seed` gives the same chances, upload ids and tokens. `clock` (in seconds) is for the ends of
    tokens, for quotas, and for what is visible only after a while. `keep_blobs=False` keeps only the sizes of large
    blobs.
    """

    def __init__(  # noqa: PLR0913 - all that a registry may differ in
        self,
        *,
        profile: Profile | None = None,
        repositories: Iterable[str] = (),
        quirks: Quirks | None = None,
        faults: Iterable[Fault] = (),
        auth: Auth | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        keep_blobs: bool = True,
        tls: bool | Literal["mutual"] = False,
    ) -> None:
        self.host = ""
        self.ca_file: Path | None = None
        self._tls = tls
        if quirks is None:
            quirks = quirks_of(profile, repositories) if profile else SPEC
        self._storage = Storage(clock)
        self._log = RequestLog()
        self._faults = Faults(faults, Random(f"chances {seed}"))
        ids = Random(f"ids {seed}")
        self._gate = Gate(auth or Anonymous(), clock, ids)
        uploads = Uploads(self._storage, quirks, ids, keep_blobs=keep_blobs)
        self._server = Server(
            Decisions(self._storage, quirks, uploads),
            Limits(quirks, clock),
            self._gate,
            self._faults,
            self._log,
            latency_seconds=quirks.latency_seconds,
        )
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            context = None
            if self._tls:
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="fake-registry-")))
                self.ca_file, context = await make_certificates(folder, mutual=self._tls == "mutual")
            server = web.Server(self._server.handle, handler_cancellation=True, auto_decompress=False, access_log=None)
            runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            self.host = f"127.0.0.1:{runner.addresses[0][1]}"
            self._opened = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    @property
    def url(self) -> str:
        """Where it is: `http://127.0.0.1:PORT`."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    @property
    def requests(self) -> list[Recorded]:
        """All requests so far, in the order in which they began."""
        return list(self._log.requests)

    @property
    def forbidden(self) -> list[Recorded]:
        """Those that a client would not have sent that knows what this registry takes; each says why."""
        return [request for request in self._log.requests if request.forbidden]

    def requests_of(self, *kinds: Kind) -> list[Recorded]:
        """Those of some kinds."""
        return [request for request in self._log.requests if request.kind in kinds]

    def destination(self, repository: str) -> str:
        """How users write that repository: `oci+http://127.0.0.1:PORT/NAME`."""
        return f"{'oci' if self._tls else 'oci+http'}://{self.host}/{repository}"

    def repository(self, name: str) -> StoredRepository:
        """What a repository holds, live; an empty one if there was none."""
        return self._storage.repository(name)

    def inject(self, fault: Fault) -> None:
        """Let something go wrong from now on; faults that are there come first."""
        self._faults.add(fault)

    def clear_faults(self) -> None:
        """From now on nothing goes wrong."""
        self._faults.clear()

    def revoke_tokens(self) -> None:
        """End all tokens at once."""
        self._gate.revoke_tokens()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for any condition, looked at whenever a request begins, brings bytes or ends."""
        await self._log.wait_until(condition)

    async def wait_started(self, kind: Kind, count: int = 1) -> None:
        """Wait until so many requests of a kind have come in."""
        await self.wait_until(lambda: len(self.requests_of(kind)) >= count)

    async def wait_ended(self, kind: Kind, count: int = 1) -> None:
        """Wait until so many requests of a kind have ended, answered or not."""
        await self.wait_until(lambda: sum(request.ended is not None for request in self.requests_of(kind)) >= count)
