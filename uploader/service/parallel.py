"""The same small thing for many items, a bounded number at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio

from uploader.errors import UploaderError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

_T = TypeVar("_T")


async def for_each(items: Iterable[_T], work: Callable[[_T], Awaitable[None]], *, at_once: int) -> None:
    """Run `work` for every item, `at_once` of them at a time; the first error ends the others, and is raised."""
    left = iter(items)
    failures: list[UploaderError] = []

    async def worker() -> None:
        for item in left:
            try:
                await work(item)
            except UploaderError as error:  # out of the task group, which would make a group of it
                failures.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(worker)
    if failures:
        raise failures[0]
