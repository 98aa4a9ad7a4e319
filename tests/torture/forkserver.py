"""The process that the tortures fork theirs off. It has imported what they need, which would take them their life."""

from __future__ import annotations

from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

_PRELOADED: Final = [
    "tests.torture.job_processes",
    "tests.torture.pushing",
    "uploader.packing.codecs",
    "uploader.registry.bandwidth",
    "uploader.registry.client",
    "uploader.sources.graph_file",
]
"""Of all of them: a process has one such server, and what it imports is settled by whoever asks first."""


def forkserver() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context
