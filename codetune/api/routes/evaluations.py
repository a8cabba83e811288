"""Evaluations: scorecards of models, and jobs that make one without registering a model."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from codetune.api.auth import actor_of
from codetune.api.permissions import Access
from codetune.api.routes.jobs import JobSeen, queued
from codetune.api.routes.shapes import Key, Listing, Part, listing, refusals
from codetune.api.routes.tuning import NewTuning
from codetune.records import ModelCard
from codetune.workspace.evaluations import Evaluations
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/evaluations": "read",
    "POST /api/v1/evaluations": "create",
    "GET /api/v1/evaluations/{model_id}/{version}": "read",
}


class EvaluationSeen(BaseModel):
    """What a version scored against its base."""

    model: str
    version: int
    created: str
    promoted: bool = Field(description="It passed the gate, or somebody promoted it.")
    scorecard: dict[str, Any]


def routes(workspace: Workspace) -> APIRouter:
    """The routes of /api/v1/evaluations."""
    router = APIRouter(prefix="/api/v1/evaluations", tags=["evaluations"])
    evaluations = Evaluations(workspace)

    @router.get("", responses=refusals())
    def list_evaluations(
        request: Request,
        part: Part,
        model_id: Annotated[str | None, Query(max_length=40, description="Only of this.")] = None,
        promoted: Annotated[bool | None, Query(description="Only these.")] = None,
    ) -> Listing[EvaluationSeen]:
        """The scorecards that you may see, the newest first."""
        page = evaluations.list(actor_of(request), part, model_id, promoted)
        return Listing(**listing(page, [_seen(card) for card in page.items]))

    @router.post("", status_code=202, response_model=JobSeen, responses=refusals(409, 429))
    def evaluate(request: Request, body: NewTuning, key: Key = None) -> Response:
        """Queue a job that tunes and scores, and registers nothing; the scorecard is its result."""
        order = body.order("evaluate", name=body.name, base=body.base)
        return queued(workspace, request, key, body, order)

    @router.get("/{model_id}/{version}", responses=refusals())
    def get_evaluation(request: Request, model_id: str, version: int) -> EvaluationSeen:
        """One version's scorecard."""
        return _seen(evaluations.get(actor_of(request), model_id, version))

    return router


def _seen(card: ModelCard) -> EvaluationSeen:
    return EvaluationSeen(
        model=card.name,
        version=card.version,
        created=card.created,
        promoted=card.promoted,
        scorecard=card.metrics,
    )
