"""The Tabby agent's dialect: segments in, one text out, and what became of it in the editor."""

from __future__ import annotations

import asyncio
import os
import platform
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import Response

from codetune import __version__
from codetune.api.auth import actor_of
from codetune.api.dialects import bodies
from codetune.api.dialects.answering import Run, respond
from codetune.api.dialects.bodies import LOOKING, described, read_body
from codetune.api.dialects.front import Front
from codetune.api.dialects.openai_shapes import Completions
from codetune.api.permissions import Access
from codetune.errors import SourceError
from codetune.models.prompts import ContextFile
from codetune.serving.log import Logged
from codetune.serving.query import Fim, Query, Text

ACCESS: Access = {
    "GET /v1/health": "use",
    "GET /v1beta/server_setting": "public",
    "POST /v1/events": "use",
}

_PROTOCOL = "v0.32.0"  # the release of Tabby whose API is spoken here; agents ask for 0.9 or later
_CHOICES = 1  # of a completion
_MAX_TOKENS = 128  # the agent does not say; it shows a few lines


class Snippet(BaseModel):
    """A piece of another file; declarations have no score."""

    filepath: str = ""
    body: str
    score: float = 0.0


class Segments(BaseModel):
    """What stands around the cursor."""

    prefix: str
    suffix: str | None = None
    filepath: str | None = None
    git_url: str | None = None
    declarations: list[Snippet] | None = None
    relevant_snippets_from_changed_files: list[Snippet] | None = None
    relevant_snippets_from_recently_opened_files: list[Snippet] | None = None
    clipboard: str | None = None


class DebugOptions(BaseModel):
    """Of these, `raw_prompt` changes the answer."""

    raw_prompt: str | None = None


class CompletionRequest(bodies.Request):
    """`POST /v1/completions` with segments."""

    segments: Segments
    model: str | None = None
    language: str | None = None
    temperature: float | None = None
    seed: int | None = None
    debug_options: DebugOptions | None = None


class Event(bodies.Request):
    """`POST /v1/events`."""

    type: Literal["view", "select", "dismiss"]
    completion_id: str
    choice_index: int = Field(0, ge=0, lt=_CHOICES)
    view_id: str | None = None
    elapsed: int | None = None
    select_kind: str | None = None


def routes(front: Front) -> APIRouter:
    """Health, settings and events; completions share OpenAI's path."""
    router = APIRouter(tags=["Tabby"])

    @router.get("/v1/health", **described(refusals=LOOKING))
    async def health(request: Request) -> dict[str, Any]:
        """What serves, as the agent shows it."""
        model = (await front.resolve(request, None)).id
        return {"status": "ok", "model": model, "chat_model": model, **_machine()}

    @router.get("/v1beta/server_setting", **described(refusals={}))
    async def setting() -> dict[str, Any]:
        """There is no telemetry here, and the client is asked to have none either."""
        return {"disable_client_side_telemetry": True}

    @router.post("/v1/events", **described(Event, refusals=LOOKING))
    async def events(request: Request) -> Response:
        """Keep what became of a completion."""
        event = read_body(Event, await request.body())
        if (kept := front.unlogged.get(event.completion_id)) is not None:
            await asyncio.wait([kept])  # an editor may be faster than the database
        details = event.model_dump(include={"view_id", "elapsed", "select_kind"}, exclude_none=True)
        await run_in_threadpool(
            front.log.event,
            actor_of(request).id,
            event.completion_id,
            event.type,
            choice=event.choice_index,
            details=details,
        )
        return Response(status_code=200, media_type="application/json")

    return router


async def complete(request: Request, front: Front, body: CompletionRequest) -> Response:
    """A completion that the log knows, so that its events find it."""
    raw = body.debug_options.raw_prompt if body.debug_options else None
    query = Query(
        [_fim(body.segments) if raw is None else Text(raw)],
        model=body.model or None,
        max_tokens=_MAX_TOKENS,
        temperature=body.temperature or 0.0,
        seed=body.seed,
    )
    run = await front.start(request, query)
    shape = _Choices(echo=False, with_usage=False)
    response = await respond(request, run, shape, stream=False)
    whole = run.wholes[0]
    entry = Logged(
        id=shape.id,
        owner=actor_of(request).id,
        model=run.model,
        dialect="tabby",
        language=body.language,
        path=body.segments.filepath,
        prompt_tokens=run.prompt_tokens,
        tokens=whole.finish.tokens,
        seconds=whole.last,
        texts={
            "prefix": body.segments.prefix,
            "suffix": body.segments.suffix or "",
            "text": whole.text,
        },
        kind=run.kind,
    )
    # The editor waits for its answer, not for the log; a server that ends waits for both.
    kept = asyncio.ensure_future(run_in_threadpool(front.log.completion, entry))
    front.unlogged[entry.id] = kept
    kept.add_done_callback(lambda _: front.unlogged.pop(entry.id))
    response.background = BackgroundTask(asyncio.wait, [kept])
    return response


class _Choices(Completions):
    def whole(self, run: Run) -> dict[str, Any]:
        choices = [{"index": n, "text": whole.text} for n, whole in enumerate(run.wholes)]
        return {"id": self.id, "choices": choices}


def _fim(segments: Segments) -> Fim:
    # Declarations first: they are what the code at the cursor names.
    found = [
        *(segments.declarations or []),
        *(segments.relevant_snippets_from_changed_files or []),
        *(segments.relevant_snippets_from_recently_opened_files or []),
    ]
    context = tuple(ContextFile(snippet.body, snippet.filepath or None) for snippet in found)
    repo = _repository(segments.git_url)
    return Fim(segments.prefix, segments.suffix or "", segments.filepath, repo, context=context)


def _repository(git_url: str | None) -> str | None:
    """host/owner/name as in training; None for what is no address."""
    from codetune.sources.identity import parse_address

    try:
        return parse_address(git_url).name if git_url else None
    except SourceError:
        return None


def _machine() -> dict[str, Any]:
    """The fields that the agent's schema wants; there is no build of this version to name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    version = {
        "build_date": "",
        "build_timestamp": "",
        "git_sha": "",
        "git_describe": f"{_PROTOCOL}-codetune-{__version__}",
    }
    return {
        "device": "cpu",
        "arch": platform.machine(),
        "cpu_info": platform.processor() or platform.machine(),
        "cpu_count": cores or 1,
        "cuda_devices": [],
        "version": version,
    }
