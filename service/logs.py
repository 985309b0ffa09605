"""Set up the logs of a process: events on stderr, one line each, never prompt text.

What libraries say through `logging` takes the same way, so that nothing reaches stderr as it came over the wire.
"""

import logging
import sys

import structlog

from core.observing import LogSettings
from service.log_text import as_one_line

# Libraries are heard from here on, whatever our own level: below, they tell of every connection.
LIBRARY_LEVEL = logging.WARNING


def configure_logs(settings: LogSettings, **bound: object) -> None:
    """Write events of `settings.level` and above; `bound` fields (role, worker) go with each."""
    is_json = settings.format == "json"
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if is_json
        # An exception is text by then: behind a margin, and without the variables that the decorated ones print.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            as_one_line,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(**bound)
    logging.basicConfig(handlers=[_ToEvents()], level=max(level, LIBRARY_LEVEL), force=True)


class _ToEvents(logging.Handler):
    """Turns a library's record into an event."""

    def emit(self, record: logging.LogRecord) -> None:
        # What a library says may quote what it was sent; so may the error it met, whose kind has to do.
        kind = record.exc_info[0] if record.exc_info else None
        structlog.get_logger().log(
            record.levelno, "library_log", logger=record.name, message=record.getMessage(), error=kind and kind.__name__
        )
