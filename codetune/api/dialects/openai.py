"""OpenAI's dialect: models, completions (with `suffix`: fill in the middle) and chat.

The Tabby agent posts to the same path as completions do; its bodies have `segments`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from codetune.api.dialects import tabby
from codetune.api.dialects.answering import Run, Unsaid, respond
from codetune.api.dialects.bodies import LOOKING, described, read_body
from codetune.api.dialects.front import Front, not_listed
from codetune.api.dialects.openai_requests import ChatRequest, CompletionRequest, turns_of
from codetune.api.dialects.openai_shapes import Chats, Completions
from codetune.api.permissions import Access
from codetune.api.stream import EVENTS
from codetune.errors import BadRequestError
from codetune.serving.catalog import Listed
from codetune.serving.query import Chat, Fim, Prompt, Query, Text

ACCESS: Access = {
    "GET /v1/models": "use",
    "GET /v1/models/{name:path}": "use",
    "POST /v1/completions": "use",
    "POST /v1/chat/completions": "use",
}


def routes(front: Front) -> APIRouter:
    """The routes below /v1."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])
    _models(router, front)
    _answering(router, front)
    return router


def _models(router: APIRouter, front: Front) -> None:
    """What may be asked."""

    @router.get("/models", **described(refusals=LOOKING))
    async def models(request: Request) -> dict[str, Any]:
        """The models that may be asked for."""
        return {"object": "list", "data": [_model(entry) for entry in await front.offered(request)]}

    @router.get("/models/{name:path}", **described(refusals=LOOKING))
    async def model(request: Request, name: str) -> dict[str, Any]:
        """One model."""
        listed = {entry.id: entry for entry in await front.offered(request)}
        if name not in listed:
            raise not_listed(name, list(listed.values()))
        return _model(listed[name])


def _answering(router: APIRouter, front: Front) -> None:
    """What answers."""

    @router.post("/completions", **described(CompletionRequest, stream=EVENTS))
    async def completions(request: Request) -> Response:
        """Go on with a text; with `suffix`, fill in what stands between the two."""
        raw = await request.body()
        body = read_body(CompletionRequest, raw)
        if (body.model_extra or {}).get("segments") is not None:
            return await tabby.complete(request, front, read_body(tabby.CompletionRequest, raw))
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise BadRequestError("'best_of' has to equal 'n' here.", param="best_of")
        if body.echo and body.logprobs is not None:
            raise BadRequestError("'echo' with 'logprobs' is not possible here.", param="echo")
        run = await _start(front, request, body, _prompts(body), body.logprobs)
        shape = Completions(echo=bool(body.echo), with_usage=body.with_usage)
        return await respond(request, run, shape, stream=bool(body.stream))

    @router.post("/chat/completions", **described(ChatRequest, stream=EVENTS))
    async def chat(request: Request) -> Response:
        """Answer a conversation."""
        body = read_body(ChatRequest, await request.body())
        if not body.wants_text:
            raise BadRequestError("Only text can be answered here.", param="response_format")
        messages = turns_of(body.messages)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        run = await _start(front, request, body, [Chat(messages)], logprobs)
        return await respond(
            request, run, Chats(with_usage=body.with_usage), stream=bool(body.stream)
        )


async def _start(
    front: Front,
    request: Request,
    body: CompletionRequest | ChatRequest,
    prompts: list[Prompt],
    logprobs: int | None,
) -> Run:
    run = await front.start(request, _query(body, prompts, logprobs))
    if body.warms:
        run.cuts = [Unsaid() for _ in run.wholes]
    return run


def _prompts(body: CompletionRequest) -> list[Prompt]:
    """A string, strings, ids or lists of ids; with a suffix, the text before the gap."""
    given = body.prompt
    many: list[Any] = [given] if isinstance(given, str) or _is_ids(given) else list(given)
    if body.suffix is None:
        return [Text(one) for one in many]
    if not all(isinstance(one, str) for one in many):
        raise BadRequestError("With 'suffix' the prompt has to be text.", param="prompt")
    return [Fim(one, body.suffix, body.path, body.repo) for one in many]


def _is_ids(given: list[Any]) -> bool:
    return bool(given) and isinstance(given[0], int)


def _query(
    body: CompletionRequest | ChatRequest, prompts: list[Prompt], logprobs: int | None
) -> Query:
    most = body.max_tokens if body.n_predict is None else body.n_predict
    return Query(
        prompts=prompts,
        model=body.model or None,
        # llama.cpp's clients mean "as many as you like" by -1, and "read the prompt" by 0.
        max_tokens=1 if body.warms else None if most == -1 else most,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(body.top_k or 0, 0),
        min_p=body.min_p or 0.0,
        seed=body.seed,
        stops=body.stops,
        n=1 if body.n is None else body.n,
        logprobs=logprobs,
        stream=bool(body.stream),
    )


def _model(entry: Listed) -> dict[str, Any]:
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": entry.owner,
        "kind": entry.kind,
        "root": entry.root,
        "parent": entry.parent,
    }
