"""The HTTP API as an OpenAPI document."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from uploader.jobs import STATES
from uploader.service.job_format import job_schema
from uploader.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_QUERY: Final = {
    ("GET", "/v1/jobs"): [
        {"name": "state", "in": "query", "schema": {"enum": list(STATES)}},
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}},
        {"name": "cursor", "in": "query", "schema": {"type": "string"}},
    ],
    ("GET", "/v1/jobs/{id}/events"): [{"name": "Last-Event-ID", "in": "header", "schema": {"type": "integer"}}],
    ("POST", "/v1/jobs"): [{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}}],
}


def describe(routes: Iterable[tuple[str, str, str, str]]) -> dict[str, Any]:
    """The document for (method, path, what it does, scope)."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, about, scope in routes:
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, about, scope)
    job = {key: value for key, value in job_schema().items() if key != "$schema"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "uploader", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {"Job": job},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(method: str, path: str, about: str, scope: str) -> dict[str, Any]:
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(path)
    ]
    operation: dict[str, Any] = {
        "summary": about.strip(),
        "parameters": [*named, *_QUERY.get((method, path), [])],
        "responses": {"2XX": {"description": "done"}, "default": {"description": "an error, as RFC 9457 describes"}},
        "security": [] if scope == "open" else [{"token": [scope]}],
    }
    if (method, path) == ("POST", "/v1/jobs"):
        one = {"$ref": "#/components/schemas/Job"}
        schema = {"oneOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": 1000}]}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation
