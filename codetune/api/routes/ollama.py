"""The tuning backend's paths for Ollama: its models, conversations, fetching and making one.

This server speaks Ollama's own API itself (`api.dialects.ollama`); here its models stand beside
those of the Ollama servers among its engines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.responses import Response

from codetune.api.auth import actor_of
from codetune.api.dialects import ollama
from codetune.api.dialects.bodies import ASKING, Sent, described, line
from codetune.api.dialects.front import Front
from codetune.api.dialects.ollama_models import as_listed
from codetune.api.dialects.ollama_requests import ChatRequest
from codetune.api.permissions import Access
from codetune.api.routes.exports import noted
from codetune.api.routes.jobs import JobSeen
from codetune.api.routes.shapes import Key, created, refusals
from codetune.api.stream import LINES, EventStream, while_connected
from codetune.errors import BadRequestError, ConflictError, NotFoundError, ServingError, nearest
from codetune.export.config import Quantisation
from codetune.export.ollama import DEFAULT_URL
from codetune.serving.complete import REMOTE
from codetune.serving.engines.remote import RemoteEngine
from codetune.workspace.deliveries import Deliveries, options_of
from codetune.workspace.workspace import Workspace

ACCESS: Access = {
    "GET /api/v1/ollama/models": "use",
    "POST /api/v1/ollama/chat": "use",
    # They fill the disk of another server.
    "POST /api/v1/ollama/pull": "manage",
    "POST /api/v1/ollama/create": "manage",
}
Said = dict[str, Any]
_UNUSABLE = {422: "A field of the body cannot be used."}


class Pull(Sent):
    """A model that an Ollama server is to fetch."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=512, validation_alias=AliasChoices("model", "name"))
    engine: str | None = Field(
        None, max_length=64, description="Which one, where there are several."
    )


class Create(BaseModel):
    """A model of the registry that an Ollama server is to have."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None, min_length=1, max_length=128, description="Its id, name or name:version."
    )
    path: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        pattern=r"^[^\x00]+$",
        description="Instead: a Modelfile or GGUF file on the server, with accounts below a "
        "folder that the administrator names.",
    )
    name: str | None = Field(
        None, max_length=200, description="What it is called in Ollama; as here by default."
    )
    quantize: Quantisation | None = Field(None, description="Of its matrices; f16 by default.")
    engine: str | None = Field(
        None, max_length=64, description="Which server, where there are several."
    )


class ServerSeen(BaseModel):
    """An Ollama server among the engines."""

    engine: str
    reachable: bool
    message: str = Field(description="Why it is not.")


class Models(BaseModel):
    """What can be asked, in Ollama's words; `engine` is null for what runs here."""

    models: list[dict[str, Any]]
    servers: list[ServerSeen]


def routes(workspace: Workspace, front: Front) -> APIRouter:
    """The routes of /api/v1/ollama."""
    router = APIRouter(prefix="/api/v1/ollama", tags=["Ollama"])
    servers = {n: e for n, e in front.completer.remotes.items() if e.options.kind == "ollama"}

    @router.get("/models", responses=refusals())
    async def models(request: Request) -> Models:
        """Your models, and those of the Ollama servers, which are asked for as `remote:…`."""
        pairs = await front.pairs(request)
        own = await run_in_threadpool(lambda: [as_listed(*pair) for pair in pairs])
        found: list[dict[str, Any]] = [{**one, "engine": None} for one in own]
        seen = []
        for name, engine in servers.items():
            health = await while_connected(request, engine.health())
            seen.append(ServerSeen(engine=name, reachable=health.ok, message=health.message))
            for model in health.models:
                called = f"{REMOTE}{name}/{model}"
                found.append({"name": called, "model": called, "engine": name})
        return Models(models=found, servers=seen)

    @router.post("/chat", **described(ChatRequest, refusals=ASKING | _UNUSABLE, stream=LINES))
    async def chat(request: Request) -> Response:
        """Answer a conversation, as Ollama's /api/chat does."""
        return await ollama.chat(front, request)

    @router.post(
        "/pull", response_class=Response, responses={200: {"content": {LINES: {}}}, **refusals(409)}
    )
    async def pull(request: Request, body: Pull) -> Response:
        """Have an Ollama server fetch a model; a line for each thing that it says of it."""
        said = _server(servers, body.engine).pull(body.model)
        first = await while_connected(request, _first(said))  # what fails at once has its status
        return EventStream(_lines(first, said), LINES)

    _creating(router, workspace, servers)
    return router


def _creating(router: APIRouter, workspace: Workspace, servers: Mapping[str, RemoteEngine]) -> None:
    deliveries = Deliveries(workspace)

    @router.post("/create", status_code=202, response_model=JobSeen, responses=refusals(409, 429))
    def create(request: Request, body: Create, key: Key = None) -> Response:
        """Queue a job that exports a model as GGUF, compares it, and has Ollama load it.

        With 'path' nothing is exported: a file that is there already is loaded as it is.
        """
        options = options_of({"format": "gguf", "quantise": body.quantize})

        def make() -> JobSeen:
            actor = actor_of(request)
            url, variable = DEFAULT_URL, None
            if servers or body.engine is not None or not actor.is_local:
                engine = _server(servers, body.engine).options
                url, variable = engine.root, engine.key_variable
            name = body.name or (body.model or "").partition(":")[0].lower()
            place: dict[str, Any] = {"name": name, "url": url, "key_variable": variable}
            if (body.model is None) == (body.path is None):
                raise BadRequestError("Say either 'model' or 'path'.", param="model")
            if body.path is not None:
                job = deliveries.load_file(actor, body.path, **place)
            else:
                job = deliveries.load(actor, str(body.model), options, **place)
            return noted(workspace, request, "model.ollama", job, name=name)

        return created(workspace, request, key, body.model_dump(), make, status=202)


def _server(servers: Mapping[str, RemoteEngine], name: str | None) -> RemoteEngine:
    """The server that is meant.

    Raises:
        ConflictError: there is none, or more than one that could be meant.
        NotFoundError: there is none of that name.
    """
    if name is not None:
        if name not in servers:
            raise NotFoundError(
                f"There is no Ollama server '{name}'.", advice=nearest(name, servers)
            )
        return servers[name]
    if len(servers) != 1:
        raise ConflictError(
            f"{len(servers)} Ollama servers are among the engines.",
            advice="Name one: 'engine'."
            if servers
            else "Name one in serving.engines, with the kind ollama.",
        )
    return next(iter(servers.values()))


async def _first(said: AsyncIterator[Said]) -> Said:
    async for one in said:
        return one
    raise ServingError("The Ollama server says nothing.")


async def _lines(
    first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[bytes]:
    yield line(first)
    try:
        async for said in rest:
            yield line(said)
    except ServingError as error:
        yield line({"error": error.message})
