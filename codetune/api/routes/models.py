"""Models that may be asked; bases that are fetched, and models of one's own that are uploaded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.responses import Response

from codetune.api.auth import actor_of
from codetune.api.dialects.bodies import Sent
from codetune.api.dialects.front import Front, not_listed
from codetune.api.permissions import Access
from codetune.api.routes.exports import noted
from codetune.api.routes.jobs import JobSeen, queued
from codetune.api.routes.shapes import Key, Listing, Part, created, listing, refusals
from codetune.export.config import Precision
from codetune.serving.catalog import Listed
from codetune.workspace.deliveries import Deliveries, options_of
from codetune.workspace.orders import Order
from codetune.workspace.pages import slice_of
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "POST /api/v1/models/pull": "create",
    "POST /api/v1/models/push": "share",
    "GET /api/v1/models": "use",
    "GET /api/v1/models/{name:path}": "use",
}


class Pull(Sent):
    """A base that is to be brought here."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        min_length=1,
        max_length=512,
        validation_alias=AliasChoices("model", "repo_id", "name"),
        description="owner/name of the Hugging Face hub, or a folder that the administrator "
        "allows; also as 'repo_id' or 'name'.",
    )


class Push(Sent):
    """A model of yours that is to be uploaded."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        min_length=1,
        max_length=128,
        validation_alias=AliasChoices("model", "name"),
        description="Its id, name or name:version; also as 'name'.",
    )
    repo_id: str = Field(
        min_length=3,
        max_length=200,
        validation_alias=AliasChoices("repo_id", "repository"),
        description="owner/name on the hub; also as 'repository'.",
    )
    private: bool = Field(True, description="Whether it is made, and has to be, private.")
    dtype: Precision | None = Field(None, description="Precision of the weights; auto by default.")
    endpoint: str | None = Field(
        None,
        max_length=512,
        description="Another hub: with accounts, one that the administrator names.",
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

    deliveries = Deliveries(workspace)

    @router.post("/push", status_code=202, response_model=JobSeen, responses=refusals(409, 429))
    def push(request: Request, body: Push, key: Key = None) -> Response:
        """Queue a job that exports a model, compares it, and uploads it with your hub.token."""
        options = options_of({"dtype": body.dtype})

        def make() -> JobSeen:
            more = {"endpoint": body.endpoint, "public": not body.private}
            job = deliveries.push(actor_of(request), body.model, options, body.repo_id, **more)
            act, place = "model.push", body.repo_id
            return noted(workspace, request, act, job, repository=place, private=body.private)

        return created(workspace, request, key, body.model_dump(), make, status=202)

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
