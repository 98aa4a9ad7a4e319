"""Lists of tags, page by page (distribution-spec, "Listing Tags")."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from uploader.errors import InputError
from uploader.model.reference import Tag, parse_tag

if TYPE_CHECKING:
    from uploader.oci.http import Response

_NEXT_PAGE = re.compile(r'<([^<>]{1,4096})>\s*;\s*rel="?next"?', re.IGNORECASE)


def tags_of(answer: Response) -> list[Tag] | None:
    """The tags of one page, those that are none passed over; None when the answer is no list of tags."""
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or "tags" not in document:
        return None
    tags = document["tags"] or []
    return [tag for tag in map(_tag, tags) if tag is not None] if isinstance(tags, list) else None


def next_page(url: str, answer: Response) -> str | None:
    """The next page's path and query; whatever host the Link names, it is asked of this registry."""
    match = _NEXT_PAGE.search(answer.header("link"))
    with suppress(ValueError):
        parts = urlsplit(urljoin(url, match[1] if match else ""))
        return f"{parts.path}?{parts.query}" if match else None
    return None


def _tag(text: object) -> Tag | None:
    with suppress(InputError):
        return parse_tag(text) if isinstance(text, str) else None
    return None
