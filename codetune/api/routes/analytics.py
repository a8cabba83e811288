"""Analytics: counts, and how good completions are to those who read them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from codetune.api.auth import actor_of
from codetune.api.permissions import Access
from codetune.api.routes.shapes import refusals
from codetune.workspace.analytics import Analytics
from codetune.workspace.workspace import Workspace

ACCESS: Access = {"GET /api/v1/analytics": "read"}


class QualitySeen(BaseModel):
    """A model's completions whose fate editors reported."""

    model: str
    completions: int
    shown: int
    accepted: int
    dismissed: int
    accept_rate: float | None = Field(description="Accepted of those shown; null: none shown.")
    prompt_tokens: int
    tokens: int


class NumbersSeen(BaseModel):
    """What there is; everybody's for administrators, one's own otherwise."""

    sources: int
    datasets: int
    models: int
    versions: int
    jobs: dict[str, int] = Field(description="By state.")
    quality: list[QualitySeen]


def routes(workspace: Workspace) -> APIRouter:
    """The route of /api/v1/analytics."""
    router = APIRouter(prefix="/api/v1/analytics", tags=["analytics"])
    analytics = Analytics(workspace)

    @router.get("", responses=refusals())
    def numbers(
        request: Request,
        days: Annotated[int, Query(ge=1, le=3650, description="Of completions.")] = 30,
    ) -> NumbersSeen:
        """Counts of what there is now, and of completions in the last days."""
        found = analytics.numbers(actor_of(request), days)
        return NumbersSeen.model_validate(found, from_attributes=True)

    return router
