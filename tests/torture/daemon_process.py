"""A daemon in a process of its own, with short leases, that may be stopped, blocked or made to die at its work."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import structlog

from tests.component.a_daemon import StorePlace, working
from tests.e2e.a_daemon import Serving, reading
from uploader import api, wiring
from uploader.model.events import LayerSettled
from uploader.service.allowed import Allowed
from uploader.service.daemon import DaemonSettings
from uploader.service.options import PushOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from uploader.model.events import Emit, Event
    from uploader.service.job_format import PushJob
    from uploader.service.report import Report
    from uploader.service.sharing import Shared

DIED: Final = 9
POISON: Final = "poison"


@dataclass(frozen=True, slots=True)
class Orders:
    """`block_seconds`: for so long the loop stands still, once, when the first layer is there; or until the file
    `block_until` is there, if that is sooner.

    A job whose repository is called `POISON` ends the process.
    """

    url: str
    locks: str
    root: str
    ttl: float
    margin: float
    at_once: int = 1
    jobs: int = 4
    block_seconds: float = 0.0
    block_until: str = ""


class _Pushes:
    """`api.push_beside`, with what the orders say. Mutable: whether the loop was blocked already."""

    def __init__(self, orders: Orders, shared: Shared, options: PushOptions) -> None:
        self._orders = orders
        self._push = partial(api.push_beside, shared=shared, allowed=Allowed((Path(orders.root),)), defaults=options)
        self._blocked = False

    async def __call__(self, job: PushJob, *, emit: Emit, **more: Any) -> Report:
        if job.to.endswith(f"/{POISON}"):
            os._exit(DIED)

        def emit_and_block(event: Event) -> None:
            emit(event)
            if isinstance(event, LayerSettled) and self._orders.block_seconds and not self._blocked:
                self._blocked = True
                _log.info("blocked")
                end = time.monotonic() + self._orders.block_seconds
                while time.monotonic() < end and not Path(self._orders.block_until or "/nowhere").exists():
                    time.sleep(0.02)

        return await self._push(job, emit=emit_and_block, **more)


_log = structlog.get_logger("torture")


async def _serve(orders: Orders) -> None:
    settings = DaemonSettings(
        at_once=orders.at_once, ttl_seconds=orders.ttl, margin_seconds=orders.margin, drain_seconds=0.0
    )
    options = PushOptions(jobs=orders.jobs, state=None)
    with wiring.share(options, {}) as shared:
        shared.registries._user_agent = f"daemon-{os.getpid()}"  # so that a registry knows who writes
        push = _Pushes(orders, shared, options)
        place = StorePlace(orders.url, Path(orders.locks))
        async with working(Path(orders.root), push=push, settings=settings, place=place) as works:
            _log.info("ready", url=works.url)
            await anyio.sleep_forever()


@asynccontextmanager
async def daemon_process(orders: Orders) -> AsyncIterator[Serving]:
    """Run one, from when it works until the block ends; then it is killed."""
    async with reading(command_line(orders)) as daemon:
        yield daemon


def command_line(orders: Orders) -> list[str]:
    """What starts it."""
    return [sys.executable, "-m", "tests.torture.daemon_process", json.dumps(asdict(orders))]


def main() -> None:
    """Serve until killed; the log, on standard error, is JSON."""
    structlog.configure(
        processors=[structlog.processors.EventRenamer("msg"), structlog.processors.JSONRenderer(default=str)],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    anyio.run(_serve, Orders(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
