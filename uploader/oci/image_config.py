"""Image configs: diff IDs, environment and platform to bytes (OCI image-spec, config.md)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uploader.model.digest import Digest
    from uploader.model.package import Package

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def image_config(
    package: Package, diff_ids: Sequence[Digest], *, created: str, labels: Mapping[str, str] | None = None
) -> bytes:
    """The config of a package's image: the same bytes for the same package, layers and `created` (RFC 3339)."""
    settings: dict[str, Any] = {"Env": [f"{name}={value}" for name, value in _environment(package)]}
    if labels:
        settings["Labels"] = dict(sorted(labels.items()))
    document: dict[str, Any] = {
        "created": created,
        "architecture": package.platform.architecture,
        "os": package.platform.os,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]},
    }
    if package.platform.variant:
        document["variant"] = package.platform.variant
    document.update(json.loads(package.config))
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _environment(package: Package) -> list[tuple[str, str]]:
    return sorted({"PATH": DEFAULT_PATH, **package.env}.items())


def diff_ids_of(config: bytes) -> tuple[str, ...]:
    """The diff IDs in a config, as text; () when it is no config."""
    try:
        document = json.loads(config)
        diff_ids = document["rootfs"]["diff_ids"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(str(entry) for entry in diff_ids) if isinstance(diff_ids, list) else ()
