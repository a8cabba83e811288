"""The outermost layer: every request gets an id, is counted, and leaves one line in the log.

What is written down is how a request went, never what it said: no path as it was sent, no
prompt, no answer, no name of a user.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codetune.serving.usage import Asked
from codetune.tracing import REQUEST_ID, request_id

if TYPE_CHECKING:
    from codetune.registry.access import Actor
    from codetune.serving.complete import Spent
    from codetune.serving.usage import UsageBook

LOG = logging.getLogger("codetune.requests")
NOBODY_LISTENS = 499  # nginx's number for it: the client was gone before it was answered
UNKNOWN = "(none)"  # the route of what no route is declared for


@dataclass
class RequestRecord:
    """What is known of a request, while it runs and when it has ended."""

    id: str
    method: str
    route: str  # the template, never the path
    actor: Actor | None = None
    answers: list[Counted] = field(default_factory=list)
    error: str | None = None  # the code of the failure that it was answered with
    status: int = 0
    seconds: float = 0.0  # until the last byte was sent, or nobody listened any more
    cut_off: bool = False  # the client was gone before the last byte

    @property
    def outcome(self) -> str:
        """How it ended: ok, refused, failed, or cancelled by the client."""
        if self.status >= 500 or (self.error is not None and self.status < 400):
            return "failed"  # a stream that broke off had said 200 before
        if self.cut_off or self.status == NOBODY_LISTENS:
            return "cancelled"
        return "refused" if self.status >= 400 else "ok"

    def line(self) -> dict[str, Any]:
        """What the log says of it."""
        spent = [answers.spent() for answers in self.answers]
        firsts = [one.first for one in spent if one.first is not None]
        line: dict[str, Any] = {
            "request_id": self.id,
            "user": None if self.actor is None else self.actor.id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "outcome": self.outcome,
            "ms": round(self.seconds * 1000, 1),
        }
        if self.answers:
            line |= {
                "model": ", ".join(dict.fromkeys(answers.model for answers in self.answers)),
                "engine": ", ".join(dict.fromkeys(answers.engine for answers in self.answers)),
                "prompt_tokens": sum(one.prompt_tokens for one in spent),
                "tokens": sum(one.tokens for one in spent),
                "first_token_ms": round(min(firsts) * 1000, 1) if firsts else None,
            }
        if self.error is not None:
            line["error"] = self.error
        return line

    def write_down(self, usage: UsageBook) -> None:
        """Count what models did for this request; nothing for one that was turned away."""
        if self.actor is None:
            return
        for answers in self.answers:
            spent, cancelled = answers.spent(), self.outcome == "cancelled"
            if not (spent.tokens or spent.prompt_tokens or cancelled or self.outcome == "ok"):
                continue
            asked = Asked(
                requests=1,
                cancelled=int(cancelled),
                prompt_tokens=spent.prompt_tokens,
                completion_tokens=spent.tokens,
                seconds=self.seconds,
                answered=int(spent.first is not None),
                first_seconds=spent.first or 0.0,
            )
            usage.add(self.actor.id, answers.model, asked)


class Counted(Protocol):
    """What a model did for a request."""

    @property
    def model(self) -> str: ...
    @property
    def engine(self) -> str: ...
    def spent(self) -> Spent: ...


class Watch:
    """ASGI middleware around everything else; `ended` hears of each request once."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        route_of: Callable[[str, str], str | None],
        begun: Callable[[], None],
        ended: Callable[[RequestRecord], None],
    ) -> None:
        """`route_of` finds a declared route's "METHOD /template" by method and path."""
        self._app, self._route_of = app, route_of
        self._begun, self._ended = begun, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        record = self._record(scope)
        scope.setdefault("state", {}).update(record=record, request_id=record.id)
        REQUEST_ID.set(record.id)
        self._begun()
        complete = False

        async def watched(message: Message) -> None:
            nonlocal complete
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = [*message.get("headers", []), (b"x-request-id", record.id.encode())]
                message = {**message, "headers": headers}
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                complete = True
                record.seconds = time.perf_counter() - started

        try:
            await self._app(scope, receive, watched)
        except Exception:
            record.error = record.error or "internal_error"
            raise
        finally:
            if not complete:
                record.cut_off = True
                record.seconds = time.perf_counter() - started
            record.actor = scope["state"].get("actor")
            self._ended(record)
            if LOG.isEnabledFor(logging.INFO):
                said = (record.method, record.route, record.status)
                LOG.info("%s %s %d", *said, extra={"fields": record.line()})

    def _record(self, scope: Scope) -> RequestRecord:
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        declared = self._route_of(scope["method"], scope["path"]) or f"(none) {UNKNOWN}"
        method, route = declared.split(" ", 1)
        return RequestRecord(request_id(given), method, route)


def record_of(request: Request) -> RequestRecord:
    """What is written down of the request that is being answered."""
    record: RequestRecord = request.state.record
    return record
