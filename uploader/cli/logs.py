"""The daemon's log: JSON lines on standard error, text on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

Format = Literal["auto", "json", "text"]


def configure(form: Format, level: str) -> None:
    """For the whole process."""
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    if as_text:
        processors.append(structlog.dev.ConsoleRenderer(timestamp_key="ts", colors=sys.stderr.isatty()))
    else:
        processors += [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("msg"),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.getLogger().addHandler(_Libraries(logging.WARNING))


class _Libraries(logging.Handler):
    """What libraries say by `logging` becomes a line of this log, instead of bare text between its lines."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name).bind(library=record.name)
        error = record.exc_info[1] if record.exc_info else None
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if record.name == "aiohttp.server":  # bugs are caught before; this is what clients do to their connections
            log.info(record.getMessage(), error=said)
        elif type(error).__name__ == "ConnectionError":  # Python's, or redis': a broker is away, or we leave it
            log.log(min(record.levelno, logging.WARNING), record.getMessage(), error=said)
        else:
            log.log(record.levelno, record.getMessage(), exc_info=error)
