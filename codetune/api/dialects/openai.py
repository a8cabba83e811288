"""OpenAI's dialect: models, completions (with `suffix`: fill in the middle) and chat."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from codetune.api.dialects.openai_requests import ChatRequest, CompletionRequest, read_body
from codetune.api.errors import failure_of
from codetune.api.stream import EventStream, while_connected
from codetune.errors import BadRequestError, RegistryError, nearest
from codetune.serving.catalog import Listed
from codetune.serving.complete import Answers, Completer
from codetune.serving.engine import Finish, Generation, Piece, TokenScore
from codetune.serving.query import Chat, Fim, Prompt, Query, Text

_DONE = b"data: [DONE]\n\n"


def routes(completer: Completer) -> APIRouter:
    """The routes below /v1."""
    router = APIRouter(prefix="/v1")

    @router.get("/models")
    async def models() -> dict[str, Any]:
        listed = await run_in_threadpool(completer.catalog.listed)
        return {"object": "list", "data": [_model(entry) for entry in listed]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        listed = {entry.id: entry for entry in await run_in_threadpool(completer.catalog.listed)}
        if name not in listed:
            raise RegistryError(f"There is no model '{name}'.", advice=nearest(name, listed))
        return _model(listed[name])

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        body = read_body(CompletionRequest, await request.body())
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise BadRequestError("'best_of' has to equal 'n' here.", param="best_of")
        if body.echo and body.logprobs is not None:
            raise BadRequestError("'echo' with 'logprobs' is not possible here.", param="echo")
        query = _query(body, _prompts(body), body.logprobs)
        return await _answer(request, completer, query, body.with_usage, _Completions(body))

    @router.post("/chat/completions")
    async def chat(request: Request) -> Response:
        body = read_body(ChatRequest, await request.body())
        if not body.wants_text:
            raise BadRequestError("Only text can be answered here.", param="response_format")
        messages = [message.model_dump(exclude_none=True) for message in body.messages]
        for plain, message in zip(messages, body.messages, strict=True):
            plain["content"] = message.text()
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        query = _query(body, [Chat(messages)], logprobs)
        return await _answer(request, completer, query, body.with_usage, _Chats())

    return router


class _Completions:
    """How answers look in /v1/completions."""

    kind, prefix, chunk_kind = "text_completion", "cmpl-", "text_completion"

    def __init__(self, body: CompletionRequest) -> None:
        self._echo = bool(body.echo)

    def whole(
        self, index: int, text: str, finish: Finish, scores: list[TokenScore], prompt: str
    ) -> dict[str, Any]:
        text = prompt + text if self._echo else text
        logprobs = self._logprobs(scores) if scores else None
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish.reason,
        }

    def first(self, index: int, prompt: str) -> list[dict[str, Any]]:
        return [self._chunk(index, prompt)] if self._echo and prompt else []

    def chunks(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        reason = piece.finish.reason if piece.finish else None
        return [self._chunk(index, piece.text, reason, piece.scores)]

    def _chunk(
        self,
        index: int,
        text: str,
        reason: str | None = None,
        scores: tuple[TokenScore, ...] = (),
    ) -> dict[str, Any]:
        logprobs = self._logprobs(list(scores)) if scores else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, scores: list[TokenScore]) -> dict[str, Any]:
        offsets, at = [], 0
        for score in scores:
            offsets.append(at)
            at += len(score.text)
        return {
            "tokens": [score.text for score in scores],
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [dict(score.top) for score in scores],
            "text_offset": offsets,
        }


class _Chats:
    """How answers look in /v1/chat/completions."""

    kind, prefix, chunk_kind = "chat.completion", "chatcmpl-", "chat.completion.chunk"

    def whole(
        self, index: int, text: str, finish: Finish, scores: list[TokenScore], prompt: str
    ) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(scores) if scores else None,
            "finish_reason": finish.reason,
        }

    def first(self, index: int, prompt: str) -> list[dict[str, Any]]:
        return [self._chunk(index, {"role": "assistant", "content": ""})]

    def chunks(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        scores = self._logprobs(list(piece.scores)) if piece.scores else None
        made = []
        if piece.text or scores:
            made.append(self._chunk(index, {"content": piece.text}, logprobs=scores))
        if piece.finish:
            made.append(self._chunk(index, {}, piece.finish.reason))
        return made

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, scores: list[TokenScore]) -> dict[str, Any]:
        def entry(text: str, value: float) -> dict[str, Any]:
            return {"token": text, "logprob": value, "bytes": list(text.encode())}

        content = [
            entry(score.text, score.logprob) | {"top_logprobs": [entry(*t) for t in score.top]}
            for score in scores
        ]
        return {"content": content, "refusal": None}


_Shape = _Completions | _Chats


async def _answer(
    request: Request, completer: Completer, query: Query, with_usage: bool, shape: _Shape
) -> Response:
    answers = await completer.start(query)
    head = {"id": shape.prefix + secrets.token_hex(12), "created": int(time.time())}
    head["model"] = answers.model
    try:
        if not query.stream:
            return JSONResponse(await while_connected(request, _whole(answers, query, head, shape)))
        merged = _merge(answers.generations)
        # An error before the first piece still gets its status.
        first = await while_connected(request, _next(merged))
    except BaseException:
        answers.cancel()
        raise
    request_id = str(request.state.request_id)
    events = _events(answers, query, head, shape, with_usage, request_id, first, merged)
    return EventStream(events)


async def _whole(
    answers: Answers, query: Query, head: dict[str, Any], shape: _Shape
) -> dict[str, Any]:
    collected = await asyncio.gather(*map(_collect, answers.generations))
    choices = [
        shape.whole(index, text, finish, scores, answers.texts[index // query.n])
        for index, (text, finish, scores) in enumerate(collected)
    ]
    usage = _usage(answers, sum(finish.tokens for _, finish, _ in collected))
    return {**head, "object": shape.kind, "choices": choices, "usage": usage}


async def _events(
    answers: Answers,
    query: Query,
    head: dict[str, Any],
    shape: _Shape,
    with_usage: bool,
    request_id: str,
    first: tuple[int, Piece],
    merged: AsyncIterator[tuple[int, Piece]],
) -> AsyncIterator[bytes]:
    tokens = 0
    head = {**head, "object": shape.chunk_kind}

    def event(choice: dict[str, Any]) -> bytes:
        usage = {"usage": None} if with_usage else {}
        return _event({**head, "choices": [choice], **usage})

    try:
        for index in range(len(answers.generations)):
            for choice in shape.first(index, answers.texts[index // query.n]):
                yield event(choice)
        async for index, piece in _chain(first, merged):
            tokens += piece.finish.tokens if piece.finish else 0
            for choice in shape.chunks(index, piece):
                yield event(choice)
        if with_usage:
            yield _event({**head, "choices": [], "usage": _usage(answers, tokens)})
    except Exception as error:
        yield _event(failure_of(error, request_id).body())
    finally:
        answers.cancel()
    yield _DONE


async def _collect(generation: Generation) -> tuple[str, Finish, list[TokenScore]]:
    texts: list[str] = []
    scores: list[TokenScore] = []
    async for piece in generation:
        texts.append(piece.text)
        scores += piece.scores
        if piece.finish:
            return "".join(texts), piece.finish, scores
    raise AssertionError("a generation ends with a finish or an error")


async def _merge(generations: list[Generation]) -> AsyncIterator[tuple[int, Piece]]:
    """The pieces of all answers as they come, with the index of theirs."""
    if len(generations) == 1:
        async for piece in generations[0]:
            yield 0, piece
        return
    queue: asyncio.Queue[tuple[int, Piece | BaseException]] = asyncio.Queue()

    async def forward(index: int, generation: Generation) -> None:
        try:
            async for piece in generation:
                queue.put_nowait((index, piece))
        except Exception as error:
            queue.put_nowait((index, error))

    tasks = [asyncio.create_task(forward(i, g)) for i, g in enumerate(generations)]
    try:
        running = len(tasks)
        while running:
            index, event = await queue.get()
            if isinstance(event, BaseException):
                raise event
            running -= event.finish is not None
            yield index, event
    finally:
        for task in tasks:
            task.cancel()


async def _next(merged: AsyncIterator[tuple[int, Piece]]) -> tuple[int, Piece]:
    return await anext(merged)


async def _chain(
    first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]]
) -> AsyncIterator[tuple[int, Piece]]:
    yield first
    async for item in rest:
        yield item


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
    return Query(
        prompts=prompts,
        model=body.model or None,
        max_tokens=body.max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
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
        "owned_by": "codetune",
        "root": entry.root,
        "parent": entry.parent,
    }


def _usage(answers: Answers, tokens: int) -> dict[str, int]:
    prompt = answers.prompt_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
    }


_dump: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {_dump(data)}\n\n".encode()
