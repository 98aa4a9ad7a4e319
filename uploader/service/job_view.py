"""A job as the HTTP API shows it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uploader.jobs import Job


def show_job(job: Job) -> dict[str, object]:
    """A job as the API shows it."""
    try:
        content = json.loads(job.payload.decode("utf-8", "surrogatepass"))
    except ValueError:
        content = {}
    return {
        "id": job.id,
        "state": job.state,
        "sources": content.get("sources", []),
        "to": content.get("to", ""),
        "options": content.get("options", {}),
        "key": job.key,
        "priority": job.priority,
        "attempts": job.attempts,
        "created": rfc3339(job.created),
        "started": rfc3339(job.started),
        "finished": rfc3339(job.finished),
        "progress": job.progress,
        "error": job.error,
    }


def rfc3339(seconds: float | None) -> str | None:
    """A time in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
