"""One push in a torture: in this process, or in one of its own that can be killed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import uploader
from uploader import PushOptions
from uploader.testing.virtual import run_hurried

if TYPE_CHECKING:
    from pathlib import Path

    import anyio

USER, PASSWORD = "alice", "a password"


@dataclass(frozen=True, slots=True)
class Orders:
    """What to push where; `report` is the file for the report of a push in a process of its own."""

    graph: Path
    to: str
    report: Path
    options: dict[str, Any] = field(default_factory=dict)
    speed: float = 1.0


async def push(orders: Orders, stop: anyio.Event | None = None) -> uploader.Report:
    """Push in this process and loop."""
    return await uploader.push(str(orders.graph), orders.to, PushOptions(**orders.options), stop=stop)


def push_alone(orders: Orders) -> None:
    """Push in this process, which was made for that, and write the report."""
    os.environ.update(logins(orders.report.parent))
    report = run_hurried(partial(push, orders), speed=orders.speed)
    orders.report.write_text(report.to_json())


def logins(home: Path) -> dict[str, str]:
    """The environment that holds the login of every registry in a torture."""
    return {"UPLOADER_USERNAME": USER, "UPLOADER_PASSWORD": PASSWORD, "HOME": str(home)}
