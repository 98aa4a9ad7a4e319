"""Image configs: diff IDs, environment and platform to bytes (OCI image-spec, config.md)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uploader.model.digest import Digest
    from uploader.model.package import Package
    from uploader.oci.base_image import BaseImage

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def image_config(
    package: Package,
    diff_ids: Sequence[Digest],
    *,
    created: str,
    base: BaseImage | None = None,
    labels: Mapping[str, str] | None = None,
    more: Mapping[str, object] | None = None,
) -> bytes:
    """The config of a package's image: the same bytes for the same package, layers and `created` (RFC 3339).

    `diff_ids` are those above the base image. What the base image's config says stays, and its history is extended;
    `more` are further top-level keys.
    """
    document: dict[str, Any] = json.loads(base.config) if base else {}
    below = document.get("rootfs", {}).get("diff_ids", [])
    settings: dict[str, Any] = document.get("config") or {}
    settings["Env"] = _environment(package, settings.get("Env") or [])
    if labels:
        settings["Labels"] = dict(sorted({**(settings.get("Labels") or {}), **labels}.items()))
    document |= {
        "created": created,
        "architecture": package.platform.architecture,
        "os": package.platform.os,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [*below, *(str(diff_id) for diff_id in diff_ids)]},
    }
    if package.platform.variant:
        document["variant"] = package.platform.variant
    if isinstance(history := document.get("history"), list):
        step = {"created": created, "created_by": "uploader"}
        document["history"] = [*history, *([step] * len(diff_ids))]
    document |= json.loads(package.config)
    document |= more or {}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace")


def _environment(package: Package, base: Sequence[str]) -> list[str]:
    """The package's variables over the base image's; its PATH goes on with the base image's instead of the default."""
    variables = dict(entry.partition("=")[::2] for entry in base)
    path = variables.get("PATH") or DEFAULT_PATH
    variables |= package.env
    if "PATH" in package.env:
        variables["PATH"] = package.env["PATH"].removesuffix(DEFAULT_PATH) + (
            path if package.env["PATH"].endswith(DEFAULT_PATH) else ""
        )
    else:
        variables["PATH"] = path
    return [f"{name}={value}" for name, value in sorted(variables.items())]


def diff_ids_of(config: bytes) -> tuple[str, ...]:
    """The diff IDs in a config, as text; () when it is no config."""
    try:
        document = json.loads(config)
        diff_ids = document["rootfs"]["diff_ids"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(str(entry) for entry in diff_ids) if isinstance(diff_ids, list) else ()
