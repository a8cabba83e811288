"""The repository pipeline's own paths: ingest, training data, tuning, questions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from codetune.api.auth import actor_of
from codetune.api.dialects.front import Front
from codetune.api.permissions import Access
from codetune.api.routes.answers import ask, newest_tuned, question
from codetune.api.routes.jobs import JobSeen, job_seen
from codetune.api.routes.shapes import Key, Listing, Part, created, listing, refusals
from codetune.errors import BadRequestError, ConflictError
from codetune.registry.access import Actor
from codetune.workspace.orders import Order, Orders
from codetune.workspace.sources import Sources
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "POST /ingest": "create",
    "GET /ingest/status": "read",
    "GET /ingest/status/{job_id}": "read",
    "POST /fine-tune/generate-data": "create",
    "POST /fine-tune/start": "create",
    "POST /query": "use",
    "GET /models/info": "use",
}
_KINDS = ("ingest", "dataset", "tune")
_REMOTE = "gemini"  # the name that the pipeline's guide gives to a model elsewhere
_TUNED = "fine-tuned"


class Reading(BaseModel):
    """What a job reads; nothing: the source that was ingested last."""

    model_config = ConfigDict(extra="forbid")

    source: str | None = Field(
        None, min_length=1, max_length=4096, description="An address or a path."
    )
    source_id: str | None = Field(None, max_length=40)
    name: str | None = Field(None, min_length=1, max_length=96, description="Of the model.")
    config: dict[str, Any] = Field(default_factory=dict, description="As codetune.yaml has it.")


class Started(BaseModel):
    """Where to look for what was started."""

    job_id: str
    status_endpoint: str


class Question(BaseModel):
    """A question to a model."""

    q: str = Field(min_length=1, max_length=1_000_000)
    model: str | None = Field(
        None,
        max_length=256,
        description=f"{_TUNED}: your newest tuned one; {_REMOTE}: the remote engine of that name; "
        "or one of /api/v1/models. It may also stand in the address.",
    )
    max_tokens: int = Field(512, ge=1, le=100_000)


class AnswerSeen(BaseModel):
    """What the model said."""

    answer: str
    model: str


class ModelsInfo(BaseModel):
    """Which models a question may go to."""

    models: list[str]
    fine_tuned: str | None = Field(description="What 'fine-tuned' stands for; null: none yet.")
    remote: list[str]


def routes(workspace: Workspace, front: Front) -> APIRouter:
    """The routes of a repository pipeline."""
    router = APIRouter(tags=["repository pipeline"])
    _starting(router, workspace)
    _following(router, workspace)
    _asking(router, front)
    return router


def _starting(router: APIRouter, workspace: Workspace) -> None:
    """Ingests, training data and tunings are queued."""
    orders, sources = Orders(workspace), Sources(workspace)

    starts: dict[str, Any] = {
        "status_code": 202,
        "response_model": Started,
        "responses": refusals(409, 429),
    }

    def start(request: Request, kind: str, body: Reading | None, key: str | None) -> Response:
        actor, wanted = actor_of(request), body or Reading()
        name = wanted.name if kind == "tune" else None

        def make() -> Started:
            source_id = _source_of(sources, actor, wanted)
            order = Order(kind, source_id=source_id, config=wanted.config, name=name)
            job = orders.submit(actor, order)
            return Started(job_id=job.id, status_endpoint=f"/ingest/status/{job.id}")

        return created(workspace, request, key, wanted.model_dump(), make, status=202)

    @router.post("/ingest", **starts)
    def ingest(request: Request, body: Reading | None = None, key: Key = None) -> Response:
        """Collect and clean a repository; again, only what has changed is read anew."""
        return start(request, "ingest", body, key)

    @router.post("/fine-tune/generate-data", **starts)
    def generate_data(request: Request, body: Reading | None = None, key: Key = None) -> Response:
        """Build training data of what was ingested."""
        return start(request, "dataset", body, key)

    @router.post("/fine-tune/start", **starts)
    def start_tuning(request: Request, body: Reading | None = None, key: Key = None) -> Response:
        """Tune a model on what was ingested."""
        return start(request, "tune", body, key)


def _following(router: APIRouter, workspace: Workspace) -> None:
    """What has become of them."""
    orders = Orders(workspace)

    @router.get("/ingest/status", responses=refusals())
    def all_states(request: Request, part: Part) -> Listing[JobSeen]:
        """Your jobs, the newest first."""
        page = orders.list(actor_of(request), part, kinds=_KINDS)
        return Listing(**listing(page, orders.shown(page.items)))

    @router.get("/ingest/status/{job_id}", responses=refusals())
    def one_state(request: Request, job_id: str) -> JobSeen:
        """One job of any kind."""
        return job_seen(orders, workspace.jobs.get(actor_of(request), job_id))


def _asking(router: APIRouter, front: Front) -> None:
    """Questions, and the models that they may go to."""

    @router.post("/query", responses=refusals(409, 429, 504))
    async def query(
        request: Request,
        body: Question,
        model: Annotated[str | None, Query(max_length=256)] = None,
    ) -> AnswerSeen:
        """Ask a model a question."""
        if model is not None and body.model is not None and model != body.model:
            raise BadRequestError("The body and the address name two models.", param="model")
        name = body.model or model
        if name == _TUNED:
            name = await newest_tuned(front, request)
        elif name == _REMOTE or (name is None and _REMOTE in front.completer.remotes):
            name = f"remote:{_REMOTE}"
        answer = await ask(front, request, question(body.q), name, body.max_tokens)
        return AnswerSeen(answer=answer.text, model=answer.model)

    @router.get("/models/info", responses=refusals())
    async def info(request: Request) -> ModelsInfo:
        """The models that a question may go to."""
        try:
            tuned = await newest_tuned(front, request)
        except ConflictError:
            tuned = None
        names = [entry.id for entry in await front.listed(request)]
        return ModelsInfo(models=names, fine_tuned=tuned, remote=sorted(front.completer.remotes))


def _source_of(sources: Sources, actor: Actor, wanted: Reading) -> str:
    """The source that is named, or the actor's last one.

    Raises:
        ConflictError: there is none yet.
    """
    if wanted.source is not None and wanted.source_id is not None:
        raise BadRequestError("Say either 'source_id' or 'source'.", param="source")
    if wanted.source_id is not None:
        return wanted.source_id
    if wanted.source is not None:
        return sources.add(actor, wanted.source).id
    newest = sources.newest(actor)
    if newest is None:
        raise ConflictError(
            "Nothing is ingested yet.",
            advice='Name a repository: POST /ingest {"source": "https://host/owner/name"}',
        )
    return newest.id
