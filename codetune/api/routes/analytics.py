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
    dismiss_rate: float | None = Field(description="Dismissed of those shown.")
    looked_at: int = Field(description="Accepted ones that a later request showed again.")
    edit_ratio: float | None = Field(
        description="Share of their characters that was changed by then, the mean; null: none."
    )
    prompt_tokens: int
    tokens: int


class UsedSeen(BaseModel):
    """What a user asked of a model, in any dialect."""

    user_id: str
    user: str
    model: str
    requests: int
    cancelled: int = Field(description="Of the requests: the client was gone before the end.")
    prompt_tokens: int
    tokens: int
    seconds: float | None = Field(description="Of a request, the mean.")
    first_token_seconds: float | None = Field(description="To the first token, the mean.")


class NumbersSeen(BaseModel):
    """What there is; everybody's for administrators, one's own otherwise."""

    sources: int
    datasets: int
    models: int
    versions: int
    jobs: dict[str, int] = Field(description="By state.")
    quality: list[QualitySeen]
    usage: list[UsedSeen]


def routes(workspace: Workspace) -> APIRouter:
    """The route of /api/v1/analytics."""
    router = APIRouter(prefix="/api/v1/analytics", tags=["analytics"])
    analytics = Analytics(workspace)

    @router.get("", responses=refusals())
    def numbers(
        request: Request,
        days: Annotated[int, Query(ge=1, le=3650, description="Of completions and usage.")] = 30,
    ) -> NumbersSeen:
        """Counts of what there is now, and of completions and usage in the last days."""
        found = analytics.numbers(actor_of(request), days)
        return NumbersSeen.model_validate(found, from_attributes=True)

    return router
