"""On whose request something is done: one id from a client's header to the job's log."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

# Set by the server for each request. Threads that work for it and tasks that it starts inherit
# it; outside of a request it is empty.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def request_id(given: str | None) -> str:
    """The id that a client gave, if no log can be harmed by it; else a new one."""
    if given and _WELL_FORMED.fullmatch(given):
        return given
    return f"req-{secrets.token_hex(8)}"
