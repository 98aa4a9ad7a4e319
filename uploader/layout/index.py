"""The index of an image layout: tags to descriptors and back (image-spec, image-layout.md, "index.json file")."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from uploader.errors import InputError, UnusableError
from uploader.model.descriptor import Descriptor
from uploader.model.digest import Digest
from uploader.model.reference import Tag, parse_tag
from uploader.oci.media_types import OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_REF_NAME: Final = "org.opencontainers.image.ref.name"


def json_object(content: bytes) -> dict[str, Any]:
    """The JSON object; an empty one for anything else."""
    with suppress(ValueError, RecursionError):
        document = json.loads(content)
        return document if isinstance(document, dict) else {}
    return {}


def media_type_of(manifest: bytes) -> str:
    """What it says it is; in OCI's format it may leave that out (image-spec, manifest.md, "mediaType")."""
    document = json_object(manifest)
    return str(document.get("mediaType") or (OCI_INDEX if "manifests" in document else OCI_MANIFEST))


def _ref_name(entry: object) -> str | None:
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    name = annotations.get(_REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def tags_in(document: Mapping[str, Any], path: Path) -> dict[Tag, Descriptor]:
    """The tags of an index; names that are no tags are other tools' business. The first of two counts."""
    tags: dict[Tag, Descriptor] = {}
    for entry in document["manifests"]:
        with suppress(InputError):
            tag = parse_tag(_ref_name(entry) or "")
            try:
                found = Descriptor(str(entry["mediaType"]), Digest.parse(entry["digest"]), _size(entry["size"]))
            except (LookupError, TypeError, ValueError, InputError) as error:
                raise UnusableError(f"{path} is broken: the entry of tag {tag!r} is no descriptor") from error
            tags.setdefault(tag, found)
    return tags


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a size is a whole number")
    return value


def with_tags(entries: list[Any], new: Mapping[Tag, Descriptor]) -> list[Any]:
    """The entries, without those whose names `new` takes over, and `new` behind them."""
    return [entry for entry in entries if _ref_name(entry) not in new] + [
        {"mediaType": to.media_type, "digest": str(to.digest), "size": to.size, "annotations": {_REF_NAME: tag}}
        for tag, to in new.items()
    ]
