"""Tunings: jobs of the whole way from a source to a model with a scorecard."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from codetune.api.auth import actor_of
from codetune.api.permissions import Access
from codetune.api.routes.jobs import JobSeen, State, follow_routes, queued
from codetune.api.routes.shapes import Key, Listing, Part, listing, refusals
from codetune.workspace.orders import Mixed, Order, Orders
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/tuning": "read",
    "POST /api/v1/tuning": "create",
    "GET /api/v1/tuning/{job_id}": "read",
    "GET /api/v1/tuning/{job_id}/progress": "read",
    "GET /api/v1/tuning/{job_id}/events": "read",
    "GET /api/v1/tuning/{job_id}/log": "read",
    "POST /api/v1/tuning/{job_id}/cancel": "write",
    "POST /api/v1/tuning/{job_id}/retry": "write",
}


class MixedDataset(BaseModel):
    """A dataset of yours beside the source."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    id: str = Field(max_length=40)
    share: float | None = Field(None, gt=0, lt=1, description="Of all training tokens.")
    weight: float | None = Field(
        None, gt=0, description="Instead: its tokens in relation to the source's; 1 by default."
    )


class Wanted(BaseModel):
    """What a job reads, and with which options."""

    model_config = ConfigDict(extra="forbid")

    source_id: str | None = Field(None, max_length=40, description="A source of yours.")
    source: str | None = Field(
        None, min_length=1, max_length=4096, description="Instead: an address or a path."
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="Options as codetune.yaml has them; one that does not exist is refused.",
    )
    datasets: list[MixedDataset] = Field(
        default_factory=list, max_length=32, description="Training data beside the source."
    )
    priority: int = Field(
        0, ge=-100, le=100, description="Higher comes first; above 0 for administrators."
    )

    def order(self, kind: str, **more: Any) -> Order:
        """The same for the queue."""
        mixed = [Mixed(one.id, one.share, one.weight) for one in self.datasets]
        return Order(
            kind,
            source_id=self.source_id,
            source=self.source,
            config=self.config,
            datasets=mixed,
            priority=self.priority,
            **more,
        )


class NewTuning(Wanted):
    """A tuning to be made."""

    name: str | None = Field(
        None, min_length=1, max_length=96, description="Of the model; the source's by default."
    )
    base: str | None = Field(
        None, min_length=1, max_length=512, description="A base, or a model of yours to go on from."
    )


def routes(workspace: Workspace) -> APIRouter:
    """The routes of /api/v1/tuning."""
    router = APIRouter(prefix="/api/v1/tuning", tags=["tuning"])
    orders = Orders(workspace)

    @router.get("", responses=refusals())
    def list_tunings(
        request: Request,
        part: Part,
        state: Annotated[State | None, Query(description="Only these.")] = None,
    ) -> Listing[JobSeen]:
        """Your tunings, the newest first."""
        page = orders.list(actor_of(request), part, kinds=("tune",), state=state)
        return Listing(**listing(page, orders.shown(page.items)))

    @router.post("", status_code=202, response_model=JobSeen, responses=refusals(409, 429))
    def create_tuning(request: Request, body: NewTuning, key: Key = None) -> Response:
        """Queue a tuning: collect, clean, build, train, evaluate, register."""
        order = body.order("tune", name=body.name, base=body.base)
        return queued(workspace, request, key, body, order)

    follow_routes(router, workspace, ("tune",))
    return router
