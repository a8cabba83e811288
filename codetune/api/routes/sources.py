"""Sources: what is tuned on, named by address or path, or sent as an archive."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from codetune.api.auth import actor_of
from codetune.api.permissions import Access
from codetune.api.routes.shapes import Key, Listing, Part, created, listing, refusals
from codetune.store.sources import Source
from codetune.workspace.sources import UPLOADED, Sources
from codetune.workspace.uploads import Sent, digest_of_file
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/sources": "read",
    "POST /api/v1/sources": "create",
    "POST /api/v1/sources/upload": "create",
    "GET /api/v1/sources/{source_id}": "read",
    "DELETE /api/v1/sources/{source_id}": "delete",
}


class NewSource(BaseModel):
    """A source that is somewhere already."""

    model_config = ConfigDict(extra="forbid")

    location: str = Field(
        min_length=1,
        max_length=4096,
        description="The address of a git repository; or a folder, repository or archive on the "
        "server: without accounts any, with accounts below a folder that the administrator names.",
    )
    name: str | None = Field(None, min_length=1, max_length=96, description="What it is called.")


class SourceSeen(BaseModel):
    """A source."""

    id: str
    name: str
    kind: str = Field(description="git, folder or archive; upload, documents or project if sent.")
    location: str | None = Field(description="Address or path; null for what was sent.")
    created: datetime
    updated: datetime


def routes(workspace: Workspace) -> APIRouter:
    """The routes of /api/v1/sources."""
    router = APIRouter(prefix="/api/v1/sources", tags=["sources"])
    _making(router, workspace)
    _looking(router, workspace)
    return router


def _making(router: APIRouter, workspace: Workspace) -> None:
    """Named, or sent."""
    sources = Sources(workspace)

    @router.post("", status_code=201, response_model=SourceSeen, responses=refusals(409))
    def add_source(request: Request, body: NewSource, key: Key = None) -> Response:
        """Name a source. The same location again is the same source."""
        return created(
            workspace,
            request,
            key,
            body.model_dump(),
            lambda: seen(sources.add(actor_of(request), body.location, body.name)),
        )

    @router.post("/upload", status_code=201, response_model=SourceSeen, responses=refusals(409))
    def upload_source(
        request: Request,
        file: Annotated[UploadFile, File(description="A zip or tar archive.")],
        name: Annotated[str | None, Form(min_length=1, max_length=96)] = None,
        key: Key = None,
    ) -> Response:
        """Send an archive of a repository or folder."""
        sent = Sent(file.filename or "archive", file.file)
        return created(
            workspace,
            request,
            key,
            [sent.name, name, digest_of_file(sent.file) if key else None],
            lambda: seen(sources.send(actor_of(request), "upload", [sent], name)),
        )


def _looking(router: APIRouter, workspace: Workspace) -> None:
    """What there is, and what is deleted of it."""
    sources = Sources(workspace)

    @router.get("", responses=refusals())
    def list_sources(
        request: Request,
        part: Part,
        kind: Annotated[str | None, Query(max_length=32, description="Only these.")] = None,
    ) -> Listing[SourceSeen]:
        """Your sources, the newest first."""
        page = sources.list(actor_of(request), part, kind)
        return Listing(**listing(page, [seen(row) for row in page.items]))

    @router.get("/{source_id}", responses=refusals())
    def get_source(request: Request, source_id: str) -> SourceSeen:
        """One source."""
        return seen(sources.get(actor_of(request), source_id))

    @router.delete("/{source_id}", status_code=204, responses=refusals(409))
    def delete_source(request: Request, source_id: str) -> None:
        """Forget a source; what was sent is deleted."""
        sources.delete(actor_of(request), source_id)


def seen(row: Source) -> SourceSeen:
    """A source as clients see it."""
    return SourceSeen(
        id=row.id,
        name=row.name,
        kind=row.kind,
        location=None if row.kind in UPLOADED else row.location,
        created=row.created,
        updated=row.updated,
    )
