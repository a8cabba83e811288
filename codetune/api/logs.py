"""The server's log on standard error: lines for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from codetune.api.watch import LOG as REQUESTS
from codetune.tracing import REQUEST_ID

Format = Literal["text", "json"]
# uvicorn's own format is not set up where there is a root handler.
_SAID = ("method", "route", "status")  # of a request, by its message
_QUIET = ("uvicorn.access", "alembic", "httpx", "httpcore")


class JsonLines(logging.Formatter):
    """One JSON object a line, `time`, `level`, `logger` and `message` in each."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = _fields(record)
        if (made := REQUEST_ID.get()) and "request_id" not in fields:
            said["request_id"] = made
        said |= fields
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=True, default=str)


class PlainLines(logging.Formatter):
    """A line for people: the time, what happened, and the fields that are known of it."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        told = "".join(
            f" {key}={value}"
            for key, value in fields.items()
            if value is not None and key not in _SAID
        )
        level = "" if record.levelno < logging.WARNING else f" {record.levelname}"
        line = f"{_time(record)}{level} {record.getMessage()}{told}"
        # Names come from clients: they must not begin a line of their own.
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        if record.exc_info:
            line += f"\n{self.formatException(record.exc_info)}"
        return line


@contextmanager
def logging_to(stream: TextIO, form: Format) -> Iterator[None]:
    """Within the block the log goes to `stream`: every request, and warnings of everything."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else PlainLines())
    root, levels = logging.getLogger(), {}
    for name in _QUIET:
        levels[name] = logging.getLogger(name).level
        logging.getLogger(name).setLevel(logging.WARNING)
    levels[REQUESTS.name] = REQUESTS.level
    REQUESTS.setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(record, "fields", {})
    return found


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
