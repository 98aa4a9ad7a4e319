"""uploader: pushes graphs of packages to OCI registries.

The layers, in reading order, each resting on the ones before it:

1. `errors`, `model`: every error, and the values that everything speaks in.
2. `oci`: the protocols as pure functions, and the upload of one blob as a state machine.
3. `graph`: the rule (`plan`: what is ready, what became of it) and the engine that runs it.
4. `packing`, `sources`, `record`, `registry`, `layout`: the middle parts, which do not know each other.
5. `service`: joins them; each verb of the product is a file.
6. `wiring` chooses the parts, `api` is for Python, `cli` for people.

`testing` is the test kit, for your tests too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uploader.version import __version__

if TYPE_CHECKING:
    from uploader.api import push
    from uploader.service.options import PushOptions
    from uploader.service.report import Report

__all__ = ["PushOptions", "Report", "__version__", "push"]

_HOMES = {
    "push": "uploader.api",
    "PushOptions": "uploader.service.options",
    "Report": "uploader.service.report",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `import uploader` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)
