"""The HTTP side of the fake registry: reads bodies, applies faults, sends answers."""

from __future__ import annotations

import hashlib
import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

import anyio
from aiohttp import web

from uploader.testing.fake.exchange import Call, Intake, Reply, error, read_call
from uploader.testing.faults import (
    AcceptThenReset,
    Action,
    Answer,
    Hold,
    Late,
    LyingDigest,
    RefuseMount,
    Reset,
    SessionLost,
    Stall,
    Truncate,
    Unauthorized,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable

    from uploader.testing.fake.decisions import Decisions
    from uploader.testing.fake.gate import Gate
    from uploader.testing.fake.limits import Limits
    from uploader.testing.fake.log import RequestLog
    from uploader.testing.faults import Faults

_CODES: Final = {
    400: "UNSUPPORTED",
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "NAME_UNKNOWN",
    413: "SIZE_INVALID",
    429: "TOOMANYREQUESTS",
}


class Incoming:
    """The body of one request, read at most once."""

    def __init__(self, request: web.BaseRequest, notice: Callable[[], None]) -> None:
        self._request = request
        self._notice = notice
        self.received = 0

    async def pieces(self, at_most: int | None = None) -> AsyncIterator[bytes]:
        """The body, piece by piece; no more than `at_most` bytes of it."""
        if self._request.headers.get("expect", "").lower() == "100-continue":
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while at_most is None or self.received < at_most:
            piece = await self._request.content.readany()
            if not piece:
                return
            piece = piece if at_most is None else piece[: at_most - self.received]
            self.received += len(piece)
            self._notice()
            yield piece

    async def skip(self, at_most: int | None = None) -> None:
        """Read it and throw it away."""
        async for _ in self.pieces(at_most):
            pass


class Server:
    """Handles each request: log, gate, fault, decision, answer."""

    def __init__(
        self,
        decisions: Decisions,
        limits: Limits,
        gate: Gate,
        faults: Faults,
        log: RequestLog,
        *,
        latency_seconds: float,
    ) -> None:
        self._decisions = decisions
        self._limits = limits
        self._gate = gate
        self._faults = faults
        self._log = log
        self._latency_seconds = latency_seconds

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. It is on record as ended before the client can see the answer."""
        url = request.rel_url
        call = read_call(
            request.method,
            url.path,
            origin=f"{request.scheme}://{request.host}",
            query=tuple(url.query.items()),
            headers=request.headers,
        )
        place = self._log.begin(call)
        self._decisions.storage.requests_seen += 1
        body = Incoming(request, self._log.notice)
        reply: Reply | None = None
        transport = request.transport
        assert transport is not None, "handler_cancellation ends the handlers of lost connections"
        try:
            reply = await self._answer(call, body)
        finally:
            status, forbidden = (reply.status, reply.forbidden) if reply else (None, "")
            self._log.end(place, status, body.received, forbidden)
        if reply is None:
            _break(transport)
            await anyio.sleep_forever()  # until aiohttp sees the loss of the connection and cancels us
            raise AssertionError
        return await _send(request, reply)

    async def _answer(self, call: Call, body: Incoming) -> Reply | None:
        """The answer; None = break the connection."""
        if self._latency_seconds:
            await anyio.sleep(self._latency_seconds)
        reply = self._limits.refuses(call) or self._gate.refuses(call)
        if reply is not None:
            await body.skip()
            return reply
        action = self._faults.take(call)
        if action is not None:
            return await self._go_wrong(call, body, action)
        return await self._carry_out(call, body)

    async def _go_wrong(self, call: Call, body: Incoming, action: Action) -> Reply | None:
        match action:
            case Hold(event):
                await event.wait()
                return await self._carry_out(call, body)
            case Reset(after_bytes):
                await self._take_part(call, body, after_bytes)
                return None
            case Stall(release, after_bytes):
                await self._take_part(call, body, after_bytes)
                await (anyio.sleep_forever() if release is None else release.wait())
                return None
            case Answer(read_body=False):
                return _refusal(action).with_headers(connection="close")
            case Answer() | Unauthorized() | SessionLost() | RefuseMount():
                await body.skip()
                return self._refuse(call, action)
            case AcceptThenReset() | LyingDigest() | Truncate() | Late():
                return self._spoil(call, await self._carry_out(call, body), action)

    def _refuse(self, call: Call, action: Answer | Unauthorized | SessionLost | RefuseMount) -> Reply:
        match action:
            case Answer():
                return _refusal(action)
            case Unauthorized(scope):
                return self._gate.challenge(call, scope)
            case SessionLost():
                return self._decisions.uploads.lose(call)
            case RefuseMount(202):
                return cast("Reply", self._decisions.uploads.open(call))
            case RefuseMount(status):
                return _refusal(Answer(status, message="mount refused by a fault"))

    def _spoil(self, call: Call, reply: Reply, action: AcceptThenReset | LyingDigest | Truncate | Late) -> Reply | None:
        match action:
            case AcceptThenReset(requests):
                if requests:
                    self._decisions.storage.hide(call.repository, {call.reference}, requests)
                return None
            case LyingDigest():
                lie = f"sha256:{hashlib.sha256(b'a lie').hexdigest()}"
                return reply.with_headers(docker_content_digest=lie)
            case Truncate():
                return replace(reply, cut=True)
            case Late(requests):
                written = {call.reference, reply.headers.get("docker-content-digest", call.reference)}
                self._decisions.storage.hide(call.repository, written, requests)
                return reply

    async def _carry_out(self, call: Call, body: Incoming) -> Reply:
        """What an honest registry does."""
        decision = self._gate.issue(call) if call.kind == "token" else self._decisions.decide(call)
        if isinstance(decision, Reply):
            await body.skip()
            return decision
        await self._receive(decision, body)
        return decision.finish()

    async def _take_part(self, call: Call, body: Incoming, at_most: int) -> None:
        """Do as much as a registry does before the connection breaks within the body."""
        if not at_most:
            return
        decision = self._decisions.decide(call) if call.length else Reply(200)
        if isinstance(decision, Reply):
            await body.skip(at_most)
            return
        await self._receive(decision, body, at_most)
        decision.broken()

    async def _receive(self, intake: Intake, body: Incoming, at_most: int | None = None) -> None:
        complete = False
        try:
            async for piece in body.pieces(at_most):
                intake.receive(piece)
            complete = True
        finally:
            if not complete:  # the client's side broke the connection
                intake.broken()


def _refusal(answer: Answer) -> Reply:
    codes = answer.codes or (_CODES.get(answer.status, "UNKNOWN"),)
    reply = error(answer.status, codes, answer.message)
    if answer.retry_after is not None:
        reply = reply.with_headers(retry_after=str(answer.retry_after))
    if answer.body is not None:
        reply = Reply(reply.status, {**reply.headers, "content-type": "text/plain"}, answer.body)
    named = {name.lower(): value for name, value in answer.headers.items()}
    return Reply(reply.status, {**reply.headers, **named}, reply.body)


def _break(transport: asyncio.Transport) -> None:
    """Close so that the peer gets a reset, not a polite end: linger for zero seconds."""
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _send(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    headers = {"docker-distribution-api-version": "registry/2.0", **reply.headers}
    if not reply.cut:
        body = None if request.method == "HEAD" else reply.body
        response = web.Response(status=reply.status, headers=headers, body=body)
        if reply.headers.get("connection") == "close":
            response.force_close()
        return response
    stream = web.StreamResponse(status=reply.status, headers={**headers, "content-length": str(len(reply.body))})
    await stream.prepare(request)
    await stream.write(reply.body[: len(reply.body) // 2])
    cast("asyncio.Transport", request.transport).close()
    return stream
