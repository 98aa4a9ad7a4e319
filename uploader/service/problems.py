"""Errors of the HTTP API as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from uploader.errors import InputError, JobStoreError, KeyTakenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

_log = structlog.get_logger("uploader.http")


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """The answer that says what is wrong."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return web.Response(
        status=status,
        text=json.dumps(body, ensure_ascii=False),
        content_type="application/problem+json",
        headers=headers,
    )


class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """The request is answered with this status."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every error becomes a problem; a bug says no more than that it is one."""
    try:
        return await handler(request)
    except Refused as refused:
        return problem(refused.status, refused.detail, refused.headers)
    except KeyTakenError as error:
        return problem(422, str(error))
    except InputError as error:
        return problem(400, str(error))
    except JobStoreError as error:
        return problem(503, f"the job store cannot be used now: {error}", {"Retry-After": "5"})
    except web.HTTPException as error:
        kept = {name: value for name, value in error.headers.items() if name in {"Allow", "Location"}}
        return problem(error.status, error.text or error.reason, kept)
    except ConnectionError:
        raise  # the client is gone
    except Exception:  # the edge of one request
        _log.exception("a bug ended this request", method=request.method, path=request.path)
        return problem(500, "a bug in uploader ended this request; the daemon's log has more")
