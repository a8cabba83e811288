"""Settings of one's own, and the calls of repository hosts that they let in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from codetune.accounts import audit
from codetune.api.auth import actor_of, origin_of
from codetune.api.permissions import Access
from codetune.api.routes.shapes import refusals
from codetune.workspace.settings import Settings, Shown
from codetune.workspace.webhooks import Webhooks
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/settings": "read",
    "PUT /api/v1/settings/{name}": "write",
    "DELETE /api/v1/settings/{name}": "write",
    "POST /webhook/github": "public",  # whoever knows a secret: the signature says whose
}


class Value(BaseModel):
    """What a setting shall be."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    value: str = Field(max_length=4096)


class SettingSeen(BaseModel):
    """A setting; a secret's value is never told."""

    name: str
    description: str
    secret: bool
    is_set: bool
    value: str | None
    updated: datetime | None


class Queued(BaseModel):
    """The jobs that a call has queued."""

    job_ids: list[str]


def routes(workspace: Workspace) -> APIRouter:
    """The routes of /api/v1/settings and of webhooks."""
    router = APIRouter(tags=["settings"])
    settings = Settings(workspace)

    @router.get("/api/v1/settings", responses=refusals())
    def list_settings(request: Request) -> list[SettingSeen]:
        """Your settings."""
        return [_seen(one) for one in settings.list(actor_of(request))]

    @router.put("/api/v1/settings/{name}", responses=refusals())
    def put(request: Request, name: str, body: Value) -> SettingSeen:
        """Set one."""
        shown = settings.put(actor_of(request), name, body.value)
        _note(request, "setting.put", name)
        return _seen(shown)

    @router.delete("/api/v1/settings/{name}", status_code=204, responses=refusals())
    def forget(request: Request, name: str) -> None:
        """Forget one."""
        settings.delete(actor_of(request), name)
        _note(request, "setting.delete", name)

    @router.post("/webhook/github", status_code=202, responses=refusals(429))
    async def webhook(
        request: Request,
        signature: Annotated[str, Header(alias="X-Hub-Signature-256", max_length=256)],
        event: Annotated[str, Header(alias="X-GitHub-Event", max_length=64)] = "push",
    ) -> Queued:
        """A push: the sources that are this repository are read again."""
        body = await request.body()
        webhooks = Webhooks(workspace)
        jobs = await run_in_threadpool(webhooks.receive, body, signature, event)
        return Queued(job_ids=[job.id for job in jobs])

    def _note(request: Request, act: str, name: str) -> None:
        with workspace.database.write() as session:
            audit.record(session, actor_of(request), act, name, origin_of(request))

    return router


def _seen(one: Shown) -> SettingSeen:
    return SettingSeen(
        name=one.name,
        description=one.description,
        secret=one.secret,
        is_set=one.is_set,
        value=one.value,
        updated=one.updated,
    )
