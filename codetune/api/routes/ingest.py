"""Jobs that collect and clean a source, and the state of any job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from codetune.api.auth import actor_of
from codetune.api.permissions import Access
from codetune.api.routes.jobs import JobSeen, State, job_seen, queued
from codetune.api.routes.shapes import Key, Listing, Part, listing, refusals
from codetune.api.routes.tuning import Wanted
from codetune.workspace.orders import Orders
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/ingest": "read",
    "POST /api/v1/ingest": "create",
    "GET /api/v1/ingest/{job_id}": "read",
}


def routes(workspace: Workspace) -> APIRouter:
    """The routes of /api/v1/ingest."""
    router = APIRouter(prefix="/api/v1/ingest", tags=["ingest"])
    orders = Orders(workspace)

    @router.get("", responses=refusals())
    def list_ingests(
        request: Request,
        part: Part,
        state: Annotated[State | None, Query(description="Only these.")] = None,
    ) -> Listing[JobSeen]:
        """Your jobs that collect, clean or build, the newest first."""
        page = orders.list(actor_of(request), part, kinds=("ingest", "dataset"), state=state)
        return Listing(**listing(page, orders.shown(page.items)))

    @router.post("", status_code=202, response_model=JobSeen, responses=refusals(409, 429))
    def ingest(request: Request, body: Wanted, key: Key = None) -> Response:
        """Queue a job that collects a source and cleans it; what has not changed is kept."""
        return queued(workspace, request, key, body, body.order("ingest"))

    @router.get("/{job_id}", responses=refusals())
    def get_ingest(request: Request, job_id: str) -> JobSeen:
        """One job, of any kind."""
        return job_seen(orders, workspace.jobs.get(actor_of(request), job_id))

    return router
