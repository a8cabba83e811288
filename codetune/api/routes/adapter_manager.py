"""The adapter manager's own paths: send documents, tune on them, ask the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from codetune.api.auth import actor_of
from codetune.api.dialects.front import Front
from codetune.api.permissions import Access
from codetune.api.routes.answers import ask, question
from codetune.api.routes.jobs import ProgressSeen, progress_seen
from codetune.api.routes.shapes import Key, created, refusals
from codetune.errors import ConflictError
from codetune.registry.ownership import saved_as
from codetune.workspace.documents import KIND, add_documents
from codetune.workspace.orders import Order, Orders
from codetune.workspace.sources import Sources
from codetune.workspace.uploads import Sent, digest_of_file
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "POST /documents": "create",
    "POST /fine-tuning/setup": "create",
    "GET /fine-tuning/status": "read",
    "POST /fine-tuning/query": "use",
}
_NAME = "documents"  # of the model
# Texts are all there is, and are learned as they stand.
_CONFIG: dict[str, Any] = {"corpus": {"prose_alone": True}, "dataset": {"use_fim": False}}


class Kept(BaseModel):
    """What is known of your documents now."""

    source_id: str
    documents: int


class Setup(BaseModel):
    """How to tune; all of it has defaults."""

    model_config = ConfigDict(extra="forbid")

    config: dict[str, Any] = Field(default_factory=dict, description="As codetune.yaml has it.")


class Started(BaseModel):
    """Where to look for what was started."""

    job_id: str
    status_endpoint: str


class Status(BaseModel):
    """Whether there is a model of your documents."""

    trained: bool
    available: bool = Field(description="The model can be asked.")
    model: str | None
    job: ProgressSeen | None = Field(description="The last tuning.")


class Said(BaseModel):
    """What the model said."""

    response: str
    model: str


def routes(workspace: Workspace, front: Front) -> APIRouter:
    """The routes of an adapter manager."""
    router = APIRouter(tags=["adapter manager"])
    _tuning(router, workspace)
    _asking(router, workspace, front)
    return router


def _tuning(router: APIRouter, workspace: Workspace) -> None:
    """Documents, and the tuning on them."""
    sources, orders = Sources(workspace), Orders(workspace)

    @router.post("/documents", status_code=201, response_model=Kept, responses=refusals(409))
    def documents(
        request: Request,
        files: Annotated[list[UploadFile] | None, File()] = None,
        file: Annotated[list[UploadFile] | None, File(description="The same.")] = None,
        key: Key = None,
    ) -> Response:
        """Send texts (UTF-8); one of the same name takes the older one's place."""
        sent = [
            Sent(one.filename or "document.txt", one.file)
            for one in (*(files or ()), *(file or ()))
        ]

        def make() -> Kept:
            source, count = add_documents(workspace, actor_of(request), sent)
            return Kept(source_id=source.id, documents=count)

        said = [[one.name, digest_of_file(one.file)] for one in sent] if key else None
        return created(workspace, request, key, said, make)

    @router.post(
        "/fine-tuning/setup", status_code=202, response_model=Started, responses=refusals(409, 429)
    )
    def setup(request: Request, body: Setup | None = None, key: Key = None) -> Response:
        """Tune a model on the documents that you have sent."""
        wanted = body or Setup()

        def make() -> Started:
            actor = actor_of(request)
            source = sources.newest(actor, (KIND,))
            if source is None:
                raise ConflictError(
                    "There are no documents yet.",
                    advice="Send some: POST /documents -F file=@notes.md",
                )
            config = _learned_as_texts(wanted.config)
            order = Order("tune", source_id=source.id, name=_NAME, config=config)
            job = orders.submit(actor, order)
            return Started(job_id=job.id, status_endpoint="/fine-tuning/status")

        return created(workspace, request, key, wanted.model_dump(), make, status=202)


def _asking(router: APIRouter, workspace: Workspace, front: Front) -> None:
    """Whether there is a model, and what it says."""
    orders = Orders(workspace)

    @router.get("/fine-tuning/status", responses=refusals())
    def status(request: Request) -> Status:
        """Whether the model is trained and can be asked."""
        actor = actor_of(request)
        name = saved_as(actor, _NAME)
        job, done = (orders.latest(actor, name, state) for state in (None, "succeeded"))
        there = any(card.name == name for card in workspace.registry.list())
        return Status(
            trained=done is not None,
            available=there,
            model=name if there else None,
            job=progress_seen(job) if job else None,
        )

    @router.post("/fine-tuning/query", responses=refusals(409, 429, 504))
    async def query(
        request: Request,
        query: Annotated[str, Form(min_length=1, max_length=1_000_000)],
        max_tokens: Annotated[int, Form(ge=1, le=100_000)] = 256,
    ) -> Said:
        """Ask the model of your documents."""
        name = saved_as(actor_of(request), _NAME)
        answer = await ask(front, request, question(query), name, max_tokens)
        return Said(response=answer.text, model=answer.model)


def _learned_as_texts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options with those that documents need; what they say themselves goes before."""
    full = dict(config)
    for section, values in _CONFIG.items():
        own = {} if full.get(section) is None else full[section]
        if isinstance(own, Mapping):  # whatever else it is, is refused with all other options
            full[section] = {**values, **own}
    return full
