"""What stands in a request to the HTTP API: its body, ids, cursors and numbers."""

from __future__ import annotations

import re
from typing import Final

import anyio
from aiohttp import web

from uploader.errors import InputError
from uploader.jobs import JobId
from uploader.service.job_format import read_document
from uploader.service.problems import Refused

MOST_BODY_BYTES: Final = 1024 * 1024
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")  # others are no id of ours, and some no database takes


async def read_json(request: web.Request, seconds: float) -> object:
    """The body, which must be JSON and come within so many seconds; raises Refused, InputError."""
    if request.content_type != "application/json":
        raise Refused(415, "send JSON, as Content-Type: application/json")
    if (request.content_length or 0) > MOST_BODY_BYTES:
        raise Refused(413, f"a request has at most {MOST_BODY_BYTES} bytes", {"Connection": "close"})
    try:
        with anyio.fail_after(seconds):
            content = await request.read()
        return read_document(content, "request")
    except TimeoutError:
        raise Refused(408, f"the request did not come within {seconds:g} s", {"Connection": "close"}) from None
    except web.RequestPayloadError as error:
        said = " ".join(str(error).split())[:200]
        raise Refused(400, f"the body is not what its headers say: {said}", {"Connection": "close"}) from error


def job_id_of(request: web.Request) -> JobId:
    """The id in the path; raises Refused for what can be none."""
    text = request.match_info["id"]
    if _ID.fullmatch(text) is None:
        raise Refused(404, f"there is no job {text[:100]!r}")
    return JobId(text)


def cursor_of(request: web.Request) -> str | None:
    """The cursor of a page; raises InputError for what can be none."""
    text = request.query.get("cursor")
    if text is not None and _ID.fullmatch(text) is None:
        raise InputError(f"cursor is what the page before says in `next`, not {text[:50]!r}")
    return text


def number_of(request: web.Request, name: str, default: int) -> int:
    """A number of the query; raises InputError."""
    return _whole_number(request.query.get(name, str(default)), f"{name} is a number")


def event_id_of(request: web.Request) -> int:
    """The event behind which to go on; raises InputError."""
    return _whole_number(request.headers.get("Last-Event-ID", "0"), "Last-Event-ID is the id of an event")


def _whole_number(text: str, wanted: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InputError(f"{wanted}, not {text[:50]!r}")
    return int(text)
