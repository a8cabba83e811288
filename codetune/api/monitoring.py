"""What operators look at: /health, /ready and /metrics."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from codetune import __version__
from codetune.api.dialects.bodies import described
from codetune.api.metrics import Metrics, Work
from codetune.api.permissions import Access
from codetune.errors import CodetuneError
from codetune.serving.complete import Completer

if TYPE_CHECKING:
    from codetune.store.database import Database

ACCESS: Access = {
    "GET /health": "public",
    "GET /ready": "public",
    "GET /metrics": "observe",
}
_PATIENCE = 3.0  # seconds for the database to answer
_BELIEVED = 1.0  # seconds for which its answer counts
_NOT_NOW = {503: "Not now: the body's `reason` says why."}
_REFUSED = {
    401: "Nobody is known by these credentials.",
    403: "This host name, web page, role or token may not ask.",
}


class Readiness:
    """Whether requests should be sent here. Its methods belong to the event loop."""

    def __init__(self, completer: Completer, database: Database | None) -> None:
        self._completer, self._database = completer, database
        self._has_loaded = False
        self._check: asyncio.Task[str | None] | None = None
        self._checked = float("-inf")
        self.draining = False  # the server is being stopped: nobody new should come

    async def reason(self) -> str | None:
        """Why this server is not ready; None if it is."""
        if self.draining:
            return "The server is shutting down."
        # Once loaded, a base that has made room for another comes back by itself.
        self._has_loaded = self._has_loaded or self._completer.engine.stats().models > 0
        if not self._has_loaded:
            return "The base model is being loaded."
        return await self._reason_of_database() if self._database is not None else None

    async def _reason_of_database(self) -> str | None:
        """One question at a time, however many ask: a silent database must not pile them up."""
        if self._check is None or (
            self._check.done() and time.monotonic() - self._checked > _BELIEVED
        ):
            self._check = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait({self._check}, timeout=_PATIENCE)
        return self._check.result() if done else "The database is silent."

    async def _ask(self) -> str | None:
        from codetune.store.schema import is_current

        assert self._database is not None
        try:
            current = await run_in_threadpool(is_current, self._database)
        except CodetuneError:  # it may name hosts and folders; whoever asks /ready is anybody
            return "The database does not answer."
        finally:
            self._checked = time.monotonic()
        return None if current else "The database's schema is not this version's."


def work_of(database: Database) -> Work | None:
    """Jobs by state and living workers, of all servers on this database; None if it is silent."""
    from codetune.jobs.service import living
    from codetune.store.jobs import STATES, Job

    try:
        with database.session() as session:
            from sqlalchemy import func, select

            found = select(Job.state, func.count()).group_by(Job.state)
            counts = {state: int(count) for state, count in session.execute(found)}
            workers = len(living(session))
    except CodetuneError:
        return None
    return Work({state: counts.get(state, 0) for state in STATES}, workers)


def routes(completer: Completer, readiness: Readiness, metrics: Metrics) -> APIRouter:
    """The three routes."""
    router = APIRouter(tags=["monitoring"])

    @router.get("/health", **described(refusals={}))
    async def health() -> dict[str, object]:
        """The process lives, and how busy it is."""
        return {"status": "ok", "version": __version__, **completer.engine.busy()}

    @router.get("/ready", **described(refusals=_NOT_NOW))
    async def ready() -> Response:
        """Whether requests should be sent here: 200, or 503 with the reason."""
        if reason := await readiness.reason():
            return JSONResponse({"status": "not ready", "reason": reason}, 503)
        return JSONResponse({"status": "ready"})

    @router.get("/metrics", **described(refusals=_REFUSED, answers="text/plain"))
    async def page(request: Request) -> Response:
        """What this process has counted, in Prometheus' text format, or OpenMetrics'."""
        accept = request.headers.get("accept", "")
        body, media_type = await run_in_threadpool(metrics.page, accept)
        return Response(body, headers={"content-type": media_type})

    return router
