"""Exports: a model of yours as files for other programs, made by a job and fetched here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, Response

from codetune.accounts import audit
from codetune.api.auth import actor_of, origin_of
from codetune.api.permissions import Access
from codetune.api.routes.jobs import JobSeen, State, follow_routes, job_seen
from codetune.api.routes.shapes import Key, Listing, Part, created, listing, refusals
from codetune.export.config import Precision, Quantisation
from codetune.store.jobs import Job
from codetune.workspace.deliveries import Deliveries, options_of
from codetune.workspace.orders import Orders
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/exports": "read",
    "POST /api/v1/exports": "create",
    "GET /api/v1/exports/{job_id}": "read",
    "GET /api/v1/exports/{job_id}/progress": "read",
    "GET /api/v1/exports/{job_id}/events": "read",
    "GET /api/v1/exports/{job_id}/log": "read",
    "GET /api/v1/exports/{job_id}/files/{name}": "read",
    "POST /api/v1/exports/{job_id}/cancel": "write",
    "POST /api/v1/exports/{job_id}/retry": "write",
}
_BINARY = "application/octet-stream"


class NewExport(BaseModel):
    """A model, and what it is to be written as."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=128, description="Its id, name or name:version.")
    format: Literal["safetensors", "gguf"] = "safetensors"
    quantize: Quantisation | None = Field(None, description="Of a GGUF file; f16 by default.")
    dtype: Precision | None = Field(None, description="Of safetensors; auto by default.")


def routes(workspace: Workspace) -> APIRouter:
    """The routes of /api/v1/exports."""
    router = APIRouter(prefix="/api/v1/exports", tags=["exports"])
    orders, deliveries = Orders(workspace), Deliveries(workspace)

    @router.get("", responses=refusals())
    def list_exports(
        request: Request,
        part: Part,
        state: Annotated[State | None, Query(description="Only these.")] = None,
    ) -> Listing[JobSeen]:
        """Your exports, the newest first."""
        page = orders.list(actor_of(request), part, kinds=("export",), state=state)
        return Listing(**listing(page, orders.shown(page.items)))

    @router.post("", status_code=202, response_model=JobSeen, responses=refusals(409, 429))
    def create_export(request: Request, body: NewExport, key: Key = None) -> Response:
        """Queue an export: merged, written, and compared with the model before it counts."""
        options = options_of(
            {"format": body.format, "quantise": body.quantize, "dtype": body.dtype}
        )

        def make() -> JobSeen:
            job = deliveries.export(actor_of(request), body.model, options)
            return noted(workspace, request, "model.export", job)

        return created(workspace, request, key, body.model_dump(), make, status=202)

    @router.get(
        "/{job_id}/files/{name}",
        response_class=Response,
        responses={200: {"content": {_BINARY: {}}}, **refusals(409)},
    )
    def file(request: Request, job_id: str, name: str) -> FileResponse:
        """One of the files that its result names; parts of it by Range."""
        path = deliveries.file(actor_of(request), job_id, name)
        return FileResponse(path, media_type=_BINARY, filename=path.name)

    follow_routes(router, workspace, ("export",))
    return router


def noted(workspace: Workspace, request: Request, act: str, job: Job, **details: Any) -> JobSeen:
    """What was queued for a model, in the audit log; and the job as it stands."""
    model = str(job.parameters["source"])
    with workspace.database.write() as session:
        audit.record(
            session, actor_of(request), act, model, origin_of(request), job=job.id, **details
        )
    return job_seen(Orders(workspace), job)
