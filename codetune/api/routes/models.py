"""Models that may be asked: bases, one's own, and shared ones; and bases that are fetched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.responses import Response

from codetune.api.dialects.front import Front, not_listed
from codetune.api.permissions import Access
from codetune.api.routes.jobs import JobSeen, queued
from codetune.api.routes.shapes import Key, Listing, Part, listing, refusals
from codetune.serving.catalog import Listed
from codetune.workspace.orders import Order
from codetune.workspace.pages import slice_of
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "POST /api/v1/models/pull": "create",
    "GET /api/v1/models": "use",
    "GET /api/v1/models/{name:path}": "use",
}


class Pull(BaseModel):
    """A base that is to be brought here."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        min_length=1,
        max_length=512,
        validation_alias=AliasChoices("model", "repo_id", "name"),
        description="owner/name of the Hugging Face hub, or a folder that the administrator "
        "allows; also as 'repo_id' or 'name'.",
    )


class ModelSeen(BaseModel):
    """A name that completions may be asked of."""

    id: str
    root: str = Field(description="The version that a short name stands for.")
    kind: str = Field(description="base, adapter or full; remote: an engine elsewhere.")
    owner: str = Field(description="codetune, or the engine that answers.")
    parent: str | None = Field(description="The base that it was tuned from.")
    created: datetime


def routes(workspace: Workspace, front: Front) -> APIRouter:
    """The routes of /api/v1/models."""
    router = APIRouter(prefix="/api/v1/models", tags=["models"])

    @router.post("/pull", status_code=202, response_model=JobSeen, responses=refusals(409, 429))
    def pull(request: Request, body: Pull, key: Key = None) -> Response:
        """Queue a job that fetches a base to tune on: safetensors only, and no code."""
        order = Order("pull", source=body.model)
        return queued(workspace, request, key, body, order)

    @router.get("", responses=refusals())
    async def list_models(
        request: Request,
        part: Part,
        kind: Annotated[str | None, Query(max_length=16, description="Only these.")] = None,
    ) -> Listing[ModelSeen]:
        """The models that you may ask."""
        found = [e for e in await front.offered(request) if kind is None or e.kind == kind]
        page = slice_of(found, part)
        return Listing(**listing(page, [_seen(entry) for entry in page.items]))

    @router.get("/{name:path}", responses=refusals())
    async def get_model(request: Request, name: str) -> ModelSeen:
        """One of them."""
        entries = await front.offered(request)
        for entry in entries:
            if entry.id == name:
                return _seen(entry)
        raise not_listed(name, entries)

    return router


def _seen(entry: Listed) -> ModelSeen:
    return ModelSeen(
        id=entry.id,
        root=entry.root,
        kind=entry.kind,
        owner=entry.owner,
        parent=entry.parent,
        created=datetime.fromtimestamp(entry.created, UTC),
    )
