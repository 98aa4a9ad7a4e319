"""A daemon within the test: worker, store and API in one loop, against a fake registry."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from uploader import api, wiring
from uploader.jobs import JobId, JobSpec, open_store
from uploader.service.allowed import Allowed
from uploader.service.daemon import Daemon, DaemonSettings
from uploader.service.http_api import Api, ApiSettings
from uploader.service.http_server import Listen, listening
from uploader.service.job_format import PushJob, read_job
from uploader.service.options import PushOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from uploader.jobs import Job, JobEvent
    from uploader.jobs.store import SqlJobStore
    from uploader.service.daemon import Push
    from uploader.service.tokens import Tokens

LOCAL = Listen("127.0.0.1", 0)
JOBS = 8
"""Requests at once to one registry."""


def a_job(graph: Path, to: str, **options: Any) -> PushJob:
    return read_job({"sources": [str(graph)], "to": to, "options": options})


@dataclass(frozen=True, slots=True)
class StorePlace:
    """A job store, and the folder with the lock files of its processes."""

    url: str
    locks: Path | None = None


@dataclass
class Works:
    """A daemon that works; `drain` ends it."""

    store: SqlJobStore
    daemon: Daemon
    url: str
    drain: anyio.Event
    ended: anyio.Event = field(default_factory=anyio.Event)

    async def submit(self, *jobs: PushJob, **more: Any) -> list[JobId]:
        specs = [job.spec(max_attempts=5) for job in jobs]
        specs = [JobSpec(spec.payload, spec.key, spec.priority, more.get("max_attempts", 5)) for spec in specs]
        return [answer.id for answer in await self.store.submit(specs)]

    async def wait_event(self, job: JobId, *kinds: str) -> JobEvent:
        """The first event of one of these kinds."""
        after = 0
        while True:
            for event in await self.store.events(job, after=after, wait=5):
                after = event.seq
                if event.kind in kinds:
                    return event

    async def wait_end(self, job: JobId) -> Job:
        await self.wait_event(job, "succeeded", "failed", "dead", "cancelled")
        found = await self.store.get(job)
        assert found is not None
        return found


@asynccontextmanager
async def working(
    tmp_path: Path,
    *,
    push: Push | None = None,
    settings: DaemonSettings | None = None,
    allowed: Allowed | None = None,
    tokens: Tokens | None = None,
    chance: float = 0.0,
    state: bool = False,
    body_seconds: float = 60.0,
    head_seconds: float = 75.0,
    place: StorePlace | None = None,
) -> AsyncIterator[Works]:
    """`chance` 0 makes every back-off end at once; `place` is where the jobs are, SQLite in `tmp_path` by default."""
    allowed = allowed or Allowed((tmp_path,))
    options = PushOptions(jobs=JOBS, state=tmp_path / "record.db" if state else None)
    place = place or StorePlace(f"sqlite:///{tmp_path}/jobs.db")
    async with open_store(place.url, locks=place.locks) as store:
        with wiring.share(options, {}) as shared:
            push = push or partial(api.push_beside, shared=shared, allowed=allowed, defaults=options)
            daemon = Daemon(
                store,
                push,
                replace(settings or DaemonSettings(drain_seconds=0.0), lease_wait_seconds=0.1),
                chance=lambda: chance,
            )
            limits = ApiSettings(allowed, options, tokens, body_seconds=body_seconds, head_seconds=head_seconds)
            http = Api(store, daemon, limits)
            async with listening(http, LOCAL) as url, anyio.create_task_group() as group:
                works = Works(store, daemon, url, anyio.Event())
                group.start_soon(_run, works)
                yield works
                works.drain.set()
                await works.ended.wait()


async def _run(works: Works) -> None:
    await works.daemon.run(works.drain)
    works.ended.set()
