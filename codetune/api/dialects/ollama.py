"""Ollama's dialect: NDJSON streams by default, errors as plain strings, times in nanoseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response

from codetune import __version__
from codetune.api.dialects.answering import Run, respond
from codetune.api.dialects.bodies import LOOKING, described, read_body
from codetune.api.dialects.front import Front
from codetune.api.dialects.ollama_models import as_listed, as_shown, missing, tag_of
from codetune.api.dialects.ollama_requests import (
    Asking,
    ChatRequest,
    GenerateRequest,
    ShowRequest,
)
from codetune.api.dialects.ollama_shapes import Lines, instant
from codetune.api.permissions import Access
from codetune.api.stream import LINES
from codetune.models.prompts import transcode
from codetune.serving.complete import REMOTE, Voice
from codetune.serving.engine import Servable
from codetune.serving.query import Chat, Fim, Prompt, Text

ACCESS: Access = {
    "GET /": "public",
    "GET /api/version": "public",
    "GET /api/tags": "use",
    "GET /api/ps": "use",
    "POST /api/show": "use",
    "POST /api/generate": "use",
    "POST /api/chat": "use",
}

_PROTOCOL = "0.12.0"  # the release of Ollama whose API is spoken here; some editors ask for 0.6.4

_WELCOME = f"""\
codetune {__version__} is running.

/v1/models      the models that it serves
/openapi.json   everything that can be asked of it

How to set up an editor: docs/editors.md of codetune.
"""


def routes(front: Front) -> APIRouter:
    """The routes below /api, and the greeting."""
    router = APIRouter(tags=["Ollama"])
    _listing(router, front)
    _asking(router, front)
    return router


def _listing(router: APIRouter, front: Front) -> None:
    """What there is."""

    @router.get("/", **described(refusals={}, answers="text/plain"))
    @router.head("/", include_in_schema=False)
    async def greeting(request: Request) -> Response:
        """What clients look for before they ask; in a browser, what this is."""
        asks_for_a_page = "text/html" in request.headers.get("accept", "")
        return PlainTextResponse(_WELCOME if asks_for_a_page else "Ollama is running")

    @router.get("/api/version", **described(refusals={}))
    @router.head("/api/version", include_in_schema=False)
    async def version() -> dict[str, str]:
        """The release of Ollama whose API is spoken, and our own."""
        return {"version": _PROTOCOL, "codetune": __version__}

    @router.get("/api/tags", **described(refusals=LOOKING))
    async def tags(request: Request) -> dict[str, Any]:
        """The models that may be asked for."""
        pairs = await front.pairs(request)
        return {"models": await run_in_threadpool(lambda: [as_listed(*pair) for pair in pairs])}

    @router.get("/api/ps", **described(refusals=LOOKING))
    async def ps(request: Request) -> dict[str, Any]:
        """The models that were asked last and are still in memory."""
        loaded = front.completer.engine.loaded()
        return {
            "models": [
                {**as_listed(entry, model), "expires_at": _FOREVER, "size_vram": 0}
                for entry, model in await front.pairs(request)
                if entry.id == entry.root and model is not None and str(model.folder) in loaded
            ]
        }

    @router.post("/api/show", **described(ShowRequest, refusals=LOOKING))
    async def show(request: Request) -> dict[str, Any]:
        """What a model is like; its template has .Suffix if it fills in the middle."""
        name = read_body(ShowRequest, await request.body()).model
        model, voice = await _find(front, request, name)
        return await run_in_threadpool(as_shown, name, model, voice)


def _asking(router: APIRouter, front: Front) -> None:
    """What answers."""

    @router.post("/api/generate", **described(GenerateRequest, stream=LINES))
    async def generate(request: Request) -> Response:
        """Go on with a prompt; with `suffix`, fill in what stands between the two."""
        body = read_body(GenerateRequest, await request.body())
        body.check()
        if not body.prompt and not body.suffix:
            return await _loaded(front, request, body, {"response": ""})
        if body.suffix:
            gap = Fim(body.prompt, body.suffix)
            return await _answer(front, request, body, gap, chat=False)
        templated = not body.raw  # what an engine elsewhere does with a template is its affair
        if templated and not _is_elsewhere(front, body.model):
            _, voice = await _find(front, request, body.model)
            templated = voice.renderer.has_chat_template
        prompt = _prompt(body, templated)
        return await _answer(front, request, body, prompt, chat=False)

    @router.post("/api/chat", **described(ChatRequest, stream=LINES))
    async def answer_chat(request: Request) -> Response:
        """Answer a conversation."""
        return await chat(front, request)


async def chat(front: Front, request: Request) -> Response:
    """The answer to a `ChatRequest`, whole or as a stream of lines.

    Raises:
        BadRequestError: it is none; and as `Front.start`.
    """
    body = read_body(ChatRequest, await request.body())
    body.check()
    if not body.messages:
        empty = {"message": {"role": "assistant", "content": ""}}
        return await _loaded(front, request, body, empty)
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    return await _answer(front, request, body, Chat(messages), chat=True)


async def _find(front: Front, request: Request, name: str) -> tuple[Servable, Voice]:
    with missing(name):
        return await front.voice(request, tag_of(name))


def _is_elsewhere(front: Front, name: str) -> bool:
    """Whether an engine elsewhere is asked for this model, of which nothing is known here."""
    called = tag_of(name)
    engine = called.removeprefix(REMOTE).partition("/")[0]
    return called.startswith(REMOTE) and engine in front.completer.remotes


async def _loaded(front: Front, request: Request, body: Asking, empty: dict[str, Any]) -> Response:
    """An empty request loads the model, or lets it go; what is idle goes by itself here."""
    reason = "unload" if body.keep_alive in (0, "0", "0s") else "load"
    if not _is_elsewhere(front, body.model):
        model, _ = await _find(front, request, body.model)
        if reason == "load":
            await run_in_threadpool(front.completer.load, model)
    done = {"model": body.model, "created_at": instant(), **empty}
    return JSONResponse({**done, "done": True, "done_reason": reason})


async def _answer(
    front: Front, request: Request, body: Asking, prompt: Prompt, *, chat: bool
) -> Response:
    with missing(body.model):
        run: Run = await front.start(request, body.query(prompt, tag_of(body.model)))
    shape = Lines(body.model, chat=chat)
    return await respond(request, run, shape, stream=body.stream is not False)


def _prompt(body: GenerateRequest, templated: bool) -> Prompt:
    """With the model's template, if it has one, unless the prompt is raw or marked up already."""
    if not templated or transcode(body.prompt):
        return Text(body.prompt)
    system = [{"role": "system", "content": body.system}] if body.system else []
    return Chat([*system, {"role": "user", "content": body.prompt}])


_FOREVER = datetime(9999, 1, 1, tzinfo=UTC).isoformat().replace("+00:00", "Z")
