"""llama.cpp's dialect, as llama.vim and llama.vscode speak it.

Accepted and without effect, as in its server: `t_max_prompt_ms`, `id_slot`; and `cache_prompt`,
since what a tenant has read is always reused. An adapter counts wholly or not at all: any scale
above 0 selects it, and the answer's `generation_settings` say so.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from codetune import __version__
from codetune.api.dialects import llamacpp_requests as bodies
from codetune.api.dialects.answering import Run, Unsaid, respond
from codetune.api.dialects.bodies import LOOKING, described, read_body
from codetune.api.dialects.front import Front
from codetune.api.dialects.llamacpp_adapters import Adapters
from codetune.api.dialects.llamacpp_shapes import Contents
from codetune.api.dialects.openai_requests import turns_of
from codetune.api.permissions import Access
from codetune.api.stream import EVENTS
from codetune.errors import BadRequestError, ModelError
from codetune.models.prompts import ContextFile
from codetune.serving.query import Fim, Prompt, Text

ACCESS: Access = {
    "POST /infill": "use",
    "POST /completion": "use",
    "GET /props": "use",
    "POST /tokenize": "use",
    "POST /detokenize": "use",
    "POST /apply-template": "use",
    "GET /lora-adapters": "use",
    "POST /lora-adapters": "use",
}


def routes(front: Front) -> APIRouter:
    """Its routes outside of /v1; those below are OpenAI's."""
    router = APIRouter(tags=["llama.cpp"])
    adapters = Adapters(front)
    _answering(router, front, adapters)
    _props(router, front)
    _tokens(router, front)
    _adapters(router, adapters)
    return router


def _answering(router: APIRouter, front: Front, adapters: Adapters) -> None:
    """What answers."""

    async def answer(
        request: Request, body: bodies.Sampled, prompts: list[Prompt], as_list: bool
    ) -> Response:
        model, lora = await adapters.chosen(request, body)
        run = await front.start(request, body.query(prompts, model))
        run.cuts = _cuts(body, run)
        asked = run.query.max_tokens
        shape = Contents(
            lora=lora, fields=body.response_fields, asked=asked, as_list=as_list or run.query.n > 1
        )
        return await respond(request, run, shape, stream=bool(body.stream))

    @router.post("/infill", **described(bodies.InfillRequest, stream=EVENTS))
    async def infill(request: Request) -> Response:
        """Fill in what stands between prefix and suffix; `prompt` is what is there already."""
        body = read_body(bodies.InfillRequest, await request.body())
        # Editors append what they saw last: that stands nearest to the cursor.
        chunks = reversed(body.input_extra or [])
        context = tuple(ContextFile(chunk.text, chunk.filename or None) for chunk in chunks)
        fim = Fim(body.input_prefix, body.input_suffix, begun=body.prompt, context=context)
        return await answer(request, body, [fim], as_list=False)

    @router.post("/completion", **described(bodies.CompletionRequest, stream=EVENTS))
    async def completion(request: Request) -> Response:
        """Go on with a text, or with ids; several give a list."""
        body = read_body(bodies.CompletionRequest, await request.body())
        given = body.prompt
        one = isinstance(given, str) or not given or isinstance(given[0], int)
        texts: list[Any] = [given] if one else list(given)
        return await answer(request, body, [Text(text) for text in texts], as_list=not one)


def _props(router: APIRouter, front: Front) -> None:
    """What the server is like."""

    @router.get("/props", **described(refusals=LOOKING))
    async def props(request: Request, model: str | None = None) -> dict[str, Any]:
        """What the server and a model are like."""
        found, voice = await front.voice(request, model)
        options = front.completer.options
        settings = {"n_ctx": voice.window, "params": dict(_SETTINGS), "is_processing": False}
        return {
            "default_generation_settings": settings,
            "total_slots": options.max_running,
            "model_alias": found.id,
            "model_path": found.id,
            "chat_template": voice.renderer.template,
            "modalities": {"vision": False, "audio": False},
            "build_info": f"codetune {__version__}",
        }


def _tokens(router: APIRouter, front: Front) -> None:
    """Texts and ids."""

    @router.post("/tokenize", **described(bodies.TokenizeRequest, refusals=LOOKING))
    async def tokenize(request: Request) -> dict[str, Any]:
        """The ids of a text; names of control tokens in it are text."""
        body = read_body(bodies.TokenizeRequest, await request.body())
        body.check()
        _, voice = await front.voice(request, body.model)
        renderer = voice.renderer
        ids = await run_in_threadpool(renderer.plain, body.content)
        ids = (renderer.start(None, None) if body.add_special else []) + ids
        if not body.with_pieces:
            return {"tokens": ids}
        return {"tokens": [{"id": i, "piece": _piece(renderer.decode_bytes([i]))} for i in ids]}

    @router.post("/detokenize", **described(bodies.DetokenizeRequest, refusals=LOOKING))
    async def detokenize(request: Request) -> dict[str, Any]:
        """The text of ids."""
        body = read_body(bodies.DetokenizeRequest, await request.body())
        _, voice = await front.voice(request, body.model)
        if any(token >= voice.renderer.vocab_size for token in body.tokens):
            raise BadRequestError(
                f"Token ids have to be 0 to {voice.renderer.vocab_size - 1}.", param="tokens"
            )
        content = await run_in_threadpool(voice.renderer.decode, body.tokens, keep_control=True)
        return {"content": content}

    @router.post("/apply-template", **described(bodies.TemplateRequest, refusals=LOOKING))
    async def apply_template(request: Request) -> dict[str, Any]:
        """A conversation as the model reads it."""
        body = read_body(bodies.TemplateRequest, await request.body())
        messages = turns_of(body.messages)
        _, voice = await front.voice(request, body.model)
        try:
            ids = await run_in_threadpool(voice.renderer.chat, messages)
        except ModelError as error:
            raise BadRequestError(error.message, param="messages", advice=error.advice) from error
        return {"prompt": voice.renderer.decode(ids, keep_control=True)}


def _adapters(router: APIRouter, adapters: Adapters) -> None:
    """Adapters by number."""

    @router.get("/lora-adapters", **described(refusals=LOOKING))
    async def list_adapters(request: Request) -> list[dict[str, Any]]:
        """The adapters that the asker may use, by numbers that stay while none is deleted."""
        return await adapters.listed(request)

    @router.post("/lora-adapters", **described(bodies.Loras, refusals=LOOKING))
    async def choose_adapter(request: Request) -> Response:
        """Choose the adapter for the asker's requests that name neither model nor adapter."""
        chosen = read_body(bodies.Loras, await request.body()).root
        await adapters.choose(request, chosen)
        return JSONResponse({"success": True})


# What a request that says nothing gets.
_SETTINGS = {"n_predict": -1, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}


def _cuts(body: bodies.Sampled, run: Run) -> list[Any]:
    if body.warms:
        return [Unsaid() for _ in run.wholes]
    indent, limit = body.n_indent or 0, body.t_max_predict_ms or 0.0
    if indent <= 0 and limit <= 0:
        return []
    return [bodies.Ending(indent, limit) for _ in run.wholes]


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
