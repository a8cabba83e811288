"""The completion server's own paths: a completion at the cursor, and tuning on a project."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from codetune.api.auth import actor_of
from codetune.api.dialects.front import Front
from codetune.api.permissions import Access
from codetune.api.routes.answers import ask
from codetune.api.routes.shapes import Key, created, refusals
from codetune.errors import BadRequestError
from codetune.serving.query import Fim, Prompt, Text
from codetune.workspace.orders import Order, Orders
from codetune.workspace.sources import Sources
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "POST /generate": "use",
    "POST /finetune/project": "create",
}
_LONGEST = 4_000_000  # characters


class Place(BaseModel):
    """A place in a file."""

    file_path: str | None = Field(None, max_length=4096)
    prior_context: str = Field(max_length=_LONGEST, description="What stands before the cursor.")
    proceeding_context: str | None = Field(
        None, max_length=_LONGEST, description="What stands after it; null: only go on."
    )
    max_decode_length: int = Field(128, ge=1, le=1_000_000, description="Tokens, at most.")
    model: str | None = Field(
        None, max_length=256, description="One of /api/v1/models; your newest promoted one else."
    )


class Generated(BaseModel):
    """What was written at the cursor."""

    generated_text: str
    score: float | None = Field(
        description="Mean natural log-probability of its tokens: 0 is certain, less is less so; "
        "null where an engine elsewhere has answered."
    )


class Project(BaseModel):
    """What to tune on."""

    project_dict: dict[str, str] = Field(
        default_factory=dict, description="The project's files: path → text."
    )
    documents: list[str] = Field(
        default_factory=list, max_length=10_000, description="Texts beside the code."
    )
    language: str | None = Field(
        None,
        max_length=64,
        description="Taken, and not needed: each file's language is found by its name.",
    )
    libraries: list[str] = Field(default_factory=list, description="Not possible yet: leave out.")
    urls: list[str] = Field(
        default_factory=list, max_length=1, description="Instead of files: a git repository."
    )


class Started(BaseModel):
    """Where to look for what was started."""

    job_id: str
    source_id: str
    status_endpoint: str


def routes(workspace: Workspace, front: Front) -> APIRouter:
    """The routes of a completion server."""
    router = APIRouter(tags=["completion server"])
    sources, orders = Sources(workspace), Orders(workspace)

    @router.post("/generate", responses=refusals(409, 429, 504))
    async def generate(request: Request, body: Place) -> Generated:
        """Complete at the cursor: between two texts, or after one."""
        prompt: Prompt = Text(body.prior_context)
        if body.proceeding_context is not None:
            prompt = Fim(body.prior_context, body.proceeding_context, body.file_path)
        length = body.max_decode_length
        answer = await ask(front, request, prompt, body.model, length, scored=True)
        return Generated(generated_text=answer.text, score=answer.score)

    @router.post(
        "/finetune/project", status_code=202, response_model=Started, responses=refusals(409, 429)
    )
    def finetune(request: Request, body: Project, key: Key = None) -> Response:
        """Tune a model on a project's files and documents, or on a repository."""

        def start() -> Started:
            actor, files = actor_of(request), _files(body)
            source = (
                sources.add(actor, body.urls[0])
                if files is None
                else sources.write(actor, "project", files, "project")
            )
            try:
                job = orders.submit(actor, Order("tune", source_id=source.id))
            except BaseException:
                if files is not None:  # nobody was told of it; each try would leave another one
                    sources.delete(actor, source.id)
                raise
            return Started(
                job_id=job.id,
                source_id=source.id,
                status_endpoint=f"/api/v1/tuning/{job.id}/progress",
            )

        return created(workspace, request, key, body.model_dump(), start, status=202)

    return router


def _files(body: Project) -> dict[str, str] | None:
    """All texts by their paths; None where a repository is named instead.

    Raises:
        BadRequestError: there is neither, or both, or something is asked for that is not possible.
    """
    if body.urls:
        for field in ("project_dict", "documents", "libraries"):
            if getattr(body, field):
                raise BadRequestError(f"Say either 'urls' or '{field}'.", param=field)
        return None
    if body.libraries:
        raise BadRequestError(
            "Documentation cannot be looked up here.",
            param="libraries",
            advice="Send its texts as 'documents'.",
        )
    texts = {f"documents/{n:04}.md": text for n, text in enumerate(body.documents, 1)}
    if not (body.project_dict or texts):
        raise BadRequestError("There is nothing to tune on.", param="project_dict")
    return {**body.project_dict, **texts}
