"""The daemon's HTTP API: jobs in, states, reports and events out. `ROUTES` is all of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import anyio
import anyio.to_thread
from aiohttp import web

from uploader.errors import InputError, JobStoreError
from uploader.jobs import FINAL, STATES, JobId
from uploader.model.reference import Repository, parse_destination, parse_image
from uploader.service.http_access import find_caller
from uploader.service.http_reading import (
    MOST_BODY_BYTES,
    cursor_of,
    event_id_of,
    job_id_of,
    number_of,
    read_json,
)
from uploader.service.job_format import PushJob, read_each, read_job, read_payload
from uploader.service.job_view import rfc3339, show_job
from uploader.service.openapi import describe
from uploader.service.problems import Refused, problems
from uploader.service.tokens import Caller, Tokens
from uploader.version import __version__

if TYPE_CHECKING:
    from uploader.jobs import Job, JobEvent, JobStore, Submitted
    from uploader.model.reference import Destination
    from uploader.service.allowed import Allowed
    from uploader.service.daemon import Daemon
    from uploader.service.options import PushOptions

MOST_JOBS: Final = 1000
_MOST_STREAMS: Final = 100
_ALIVE_SECONDS: Final = 15.0
_EVENT_WAIT_SECONDS: Final = 1.0
_CHECK_SECONDS: Final = 5.0
_CALLER: Final = web.RequestKey("caller", Caller)

Handler = Callable[["Api", web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What jobs may be, how often they are tried, and who may ask; without tokens anybody who can reach us.

    A body must be whole within `body_seconds`; the head of a request `head_seconds` after the connection was made, or
    the request before it answered. Proxies give up idle connections after a minute, so that is longer.
    """

    allowed: Allowed
    defaults: PushOptions
    tokens: Tokens | None = None
    max_attempts: int = 5
    body_seconds: float = 60.0
    head_seconds: float = 75.0


class Api:
    """Mutable: whether it closes, and how many follow events."""

    def __init__(self, store: JobStore, daemon: Daemon, settings: ApiSettings) -> None:
        self.closing = False
        self.head_seconds = settings.head_seconds
        self._store = store
        self._daemon = daemon
        self._settings = settings
        self._streams = 0

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application(middlewares=[problems, self._authorize], client_max_size=MOST_BODY_BYTES)
        for route in ROUTES:
            app.router.add_route(route.method, route.path, partial(route.handler, self))
        return app

    @web.middleware
    async def _authorize(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        route = next((one for one in ROUTES if one.fits(request)), None)
        if route is not None and route.scope != "open":
            caller = find_caller(request, self._settings.tokens)
            if route.scope == "full" and caller.scope != "full":
                raise Refused(403, f"the token {caller.name!r} may only read")
            request[_CALLER] = caller
        return await handler(request)

    # -- jobs

    async def submit(self, request: web.Request) -> web.Response:
        """Take in one job, or a list of them: all or none."""
        document = await read_json(request, self._settings.body_seconds)
        several = isinstance(document, list)
        if isinstance(document, list) and not 0 < len(document) <= MOST_JOBS:
            raise InputError(f"a list holds 1 to {MOST_JOBS} jobs, not {len(document)}")
        read = partial(self._read, request[_CALLER], request.headers.get("Idempotency-Key"))
        jobs = await anyio.to_thread.run_sync(read_each, document, read)
        answers = await self._store.submit([job.spec(self._settings.max_attempts) for job in jobs])
        status = 202 if any(answer.created for answer in answers) else 200
        shown = [_submitted(answer) for answer in answers]
        if several:
            return web.json_response({"jobs": shown}, status=status)
        return web.json_response(shown[0], status=status, headers={"Location": f"/v1/jobs/{answers[0].id}"})

    def _read(self, caller: Caller, key: str | None, document: object, place: str) -> PushJob:
        job = read_job(document, self._settings.defaults)
        admitted = self._settings.allowed.admit(job)
        _check_caller(caller, job, parse_destination(admitted.to))
        return job if job.key is not None or not key else replace(job, key=f"{key}{place}")

    async def jobs(self, request: web.Request) -> web.Response:
        """Jobs, newest first."""
        state = request.query.get("state")
        if state is not None and state not in STATES:
            raise InputError(f"state is one of {', '.join(STATES)}")
        limit = number_of(request, "limit", 100)
        page = await self._store.jobs(state=state, limit=limit, cursor=cursor_of(request))
        return web.json_response({"jobs": [show_job(job) for job in page.jobs], "next": page.next})

    async def job(self, request: web.Request) -> web.Response:
        """One job as it stands."""
        return web.json_response(show_job(await self._find(request)))

    async def report(self, request: web.Request) -> web.Response:
        """The report that the job's latest try left."""
        job = await self._find(request)
        report = await self._store.report(job.id)
        if report is None:
            raise Refused(404, f"job {job.id} has left no report yet")
        return web.Response(body=report, content_type="application/json")

    async def cancel(self, request: web.Request) -> web.Response:
        """End a job that waits, or ask the daemon that works on it to stop."""
        await self._find_theirs(request)
        match await self._store.cancel(job_id_of(request)):
            case "cancelled":
                return web.json_response({"cancelled": True})
            case "requested":
                return web.json_response({"cancelled": False, "requested": True}, status=202)
            case "already-final":
                raise Refused(409, f"job {job_id_of(request)} has ended already")
            case _:
                raise Refused(404, f"there is no job {job_id_of(request)}")

    async def retry(self, request: web.Request) -> web.Response:
        """Try an ended job once more, with all its attempts."""
        job = await self._find_theirs(request)
        if not await self._store.retry(job.id):
            why = f"job {job.id} is {job.state}; only failed, dead and cancelled ones can be retried"
            raise Refused(409, f"{why}, and not while another job with the same key waits")
        return web.json_response({"retried": 1}, status=202)

    async def retry_dead(self, request: web.Request) -> web.Response:
        """Try all dead jobs once more."""
        _check_speaks_for_all(request[_CALLER])
        return web.json_response({"retried": await self._store.retry_dead()}, status=202)

    async def _find(self, request: web.Request) -> Job:
        job = await self._store.get(job_id_of(request))
        if job is None:
            raise Refused(404, f"there is no job {job_id_of(request)}")
        return job

    async def _find_theirs(self, request: web.Request) -> Job:
        """The job, which must be one that the caller could have submitted."""
        job = await self._find(request)
        if request[_CALLER].destinations is not None:
            content = read_payload(job.payload)
            where = await anyio.to_thread.run_sync(self._settings.allowed.where, content.to)
            _check_caller(request[_CALLER], content, where)
        return job

    # -- events

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happened to a job, as server-sent events, until it has ended; goes on behind Last-Event-ID."""
        job = await self._find(request)
        after = event_id_of(request)
        if self._streams >= _MOST_STREAMS:
            raise Refused(503, f"{_MOST_STREAMS} streams of events are open already", {"Retry-After": "5"})
        self._streams += 1
        try:
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            )
            await response.prepare(request)
            with suppress(ConnectionError):  # the client may go
                await self._stream(job.id, after, request, response)
        finally:
            self._streams -= 1
        return response

    async def _stream(self, job: JobId, after: int, request: web.Request, response: web.StreamResponse) -> None:
        """Ends, for the client to come back, when the store does not answer or the daemon goes."""
        said_at = anyio.current_time()
        while not self.closing and request.transport is not None:
            try:
                ended = await self._has_ended(job)
                events = await self._store.events(job, after=after, wait=0.0 if ended else _EVENT_WAIT_SECONDS)
            except JobStoreError:
                return
            for event in events:
                await response.write(_as_sse(event))
                after = event.seq
            if ended and not events:
                return
            if events or anyio.current_time() - said_at >= _ALIVE_SECONDS:
                said_at = anyio.current_time()
                await response.write(b": alive\n\n")

    async def _has_ended(self, job: JobId) -> bool:
        found = await self._store.get(job)
        return found is None or found.state in FINAL

    # -- the daemon

    async def workers(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """The daemons that share the store."""
        workers = [
            {
                "id": worker.id,
                "name": worker.name,
                "host": worker.host,
                "pid": worker.pid,
                "started": rfc3339(worker.started),
                "seen": rfc3339(worker.seen),
                "leases": worker.leases,
            }
            for worker in await self._store.workers()
        ]
        return web.json_response({"workers": workers})

    async def stats(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Counts of jobs by state, the age of the oldest that waits, and how many daemons there are."""
        stats = await self._store.stats()
        return web.json_response(
            {
                "jobs": dict(stats.jobs),
                "oldest_ready_seconds": round(stats.oldest_ready_seconds, 3),
                "workers": stats.workers,
            }
        )

    async def pause(self, request: web.Request) -> web.Response:
        """Let this daemon begin no more jobs, until it is resumed or started anew; it still takes jobs in."""
        _check_speaks_for_all(request[_CALLER])
        self._daemon.pause()
        return web.json_response({"paused": True})

    async def resume(self, request: web.Request) -> web.Response:
        """Let this daemon begin jobs again."""
        _check_speaks_for_all(request[_CALLER])
        self._daemon.resume()
        return web.json_response({"paused": False})

    async def drain(self, request: web.Request) -> web.Response:
        """Let this daemon end, as SIGTERM does."""
        _check_speaks_for_all(request[_CALLER])
        self._daemon.drain()
        return web.json_response({"draining": True}, status=202)

    async def livez(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Whether the daemon's loop and heartbeats run; never depends on the store or on registries."""
        alive = self._daemon.alive
        body = {"alive": alive, "running": self._daemon.running, "paused": self._daemon.paused}
        return web.json_response(body, status=200 if alive else 503)

    async def readyz(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Whether jobs can be taken in: the store writes, and the daemon does not drain."""
        problem = "draining" if self._daemon.draining else None
        if problem is None:
            problem = "the job store does not answer"
            with anyio.move_on_after(_CHECK_SECONDS):
                try:
                    await self._store.check()
                    problem = None
                except JobStoreError as error:
                    problem = f"the job store cannot be used ({error.problem}): {error}"
        body = {"ready": problem is None} | ({"problem": problem} if problem else {})
        return web.json_response(body, status=200 if problem is None else 503)

    async def metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """For Prometheus."""
        stats = None
        with anyio.move_on_after(_CHECK_SECONDS), suppress(JobStoreError):
            stats = await self._store.stats()
        text = self._daemon.metrics.text(stats, self._daemon.running)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def version(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Which uploader this is."""
        return web.json_response({"version": __version__})

    async def openapi(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """This description."""
        described = [(one.method, one.path, str(one.handler.__doc__), one.scope) for one in ROUTES]
        return web.json_response(describe(described))


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked for; `open` needs no token."""

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    scope: Literal["open", "read", "full"]

    def fits(self, request: web.Request) -> bool:
        """Whether it is what was matched; HEAD is asked for where GET is."""
        resource = request.match_info.route.resource
        method = "GET" if request.method == "HEAD" else request.method
        return resource is not None and resource.canonical == self.path and method == self.method


ROUTES: Final = (
    Route("POST", "/v1/jobs", Api.submit, "full"),
    Route("GET", "/v1/jobs", Api.jobs, "read"),
    Route("POST", "/v1/jobs:retry-dead", Api.retry_dead, "full"),
    Route("GET", "/v1/jobs/{id}", Api.job, "read"),
    Route("GET", "/v1/jobs/{id}/report", Api.report, "read"),
    Route("GET", "/v1/jobs/{id}/events", Api.events, "read"),
    Route("POST", "/v1/jobs/{id}/cancel", Api.cancel, "full"),
    Route("POST", "/v1/jobs/{id}/retry", Api.retry, "full"),
    Route("GET", "/v1/workers", Api.workers, "read"),
    Route("GET", "/v1/stats", Api.stats, "read"),
    Route("POST", "/v1/pause", Api.pause, "full"),
    Route("POST", "/v1/resume", Api.resume, "full"),
    Route("POST", "/v1/drain", Api.drain, "full"),
    Route("GET", "/metrics", Api.metrics, "read"),
    Route("GET", "/livez", Api.livez, "open"),
    Route("GET", "/readyz", Api.readyz, "open"),
    Route("GET", "/healthz", Api.readyz, "open"),
    Route("GET", "/version", Api.version, "open"),
    Route("GET", "/openapi.json", Api.openapi, "open"),
)


def _check_speaks_for_all(caller: Caller) -> None:
    if caller.destinations is not None:
        raise Refused(403, f"the token {caller.name!r} has destinations of its own, and this is about everybody's jobs")


def _check_caller(caller: Caller, job: PushJob, where: Destination) -> None:
    """Beside what the daemon allows; `where` is the job's destination, as it really lies.

    A base image is read with the daemon's login: so only from where one may write.
    """
    places = [where]
    if isinstance(image := job.options.get("base_image"), str):
        places += [place for place in (parse_image(image).where,) if isinstance(place, Repository)]
    for place in places:
        if not caller.may_push_to(place):
            raise Refused(403, f"the token {caller.name!r} may not push to {place}")


def _submitted(answer: Submitted) -> dict[str, object]:
    return {"id": answer.id, "created": answer.created}


def _as_sse(event: JobEvent) -> bytes:
    data = json.dumps({"job": event.job, "at": rfc3339(event.at), "kind": event.kind, "detail": event.detail})
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n".encode()
