"""Embeddings as OpenAI's, Ollama's and llama.cpp's clients ask for them.

What a vector is says `serving.engines.embedder`; all of them have length 1.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from codetune.api.dialects.bodies import ASKING, described, dump, read_body
from codetune.api.dialects.embedding_requests import (
    ContentRequest,
    EmbeddingRequest,
    EmbedRequest,
    PromptRequest,
)
from codetune.api.dialects.front import Front
from codetune.api.dialects.ollama_models import missing, tag_of
from codetune.api.permissions import Access
from codetune.api.stream import while_connected
from codetune.errors import BadRequestError
from codetune.serving.embed import Embedded, Given

ACCESS: Access = {
    "POST /v1/embeddings": "use",
    "POST /api/embed": "use",
    "POST /api/embeddings": "use",
    "POST /embedding": "use",
    "POST /embeddings": "use",
}


def routes(front: Front) -> APIRouter:
    """The routes of all three dialects."""
    router = APIRouter()
    _openai(router, front)
    _ollama(router, front)
    _llamacpp(router, front)
    return router


def _openai(router: APIRouter, front: Front) -> None:
    @router.post("/v1/embeddings", tags=["OpenAI"], **described(EmbeddingRequest, refusals=ASKING))
    async def embeddings(request: Request) -> Response:
        """Vectors of texts: the mean of the model's last hidden states, of length 1."""
        body = read_body(EmbeddingRequest, await request.body())
        made = await while_connected(request, front.embed(request, body.texts(), body.model))
        _check_size(made, body.dimensions)
        as_text = body.encoding_format == "base64"

        def parts() -> Iterator[str]:
            yield '{"object":"list","data":['
            for number, vector in enumerate(made.vectors):
                comma = "," if number else ""
                said = base64.b64encode(vector.tobytes()).decode() if as_text else vector.tolist()
                entry = {"object": "embedding", "index": number, "embedding": said}
                yield comma + dump(entry)
            usage = {"prompt_tokens": made.tokens, "total_tokens": made.tokens}
            yield f'],"model":{dump(made.model)},"usage":{dump(usage)}}}'

        return await _sent(parts())


def _ollama(router: APIRouter, front: Front) -> None:
    @router.post("/api/embed", tags=["Ollama"], **described(EmbedRequest, refusals=ASKING))
    async def embed(request: Request) -> Response:
        """Vectors of texts; what is longer than the window is cut, unless `truncate` is false."""
        started = time.perf_counter()
        body = read_body(EmbedRequest, await request.body())
        texts = body.texts()
        head = {"model": body.model, "load_duration": 0}
        if not texts:  # as with answers, an empty request loads the model
            await _load(front, request, body.model)
            return await _sent(iter([dump({**head, "embeddings": []})]))
        cut = body.truncate is not False
        with missing(body.model):
            wanted = front.embed(request, texts, tag_of(body.model), truncate=cut)
            made = await while_connected(request, wanted)
        _check_size(made, body.dimensions)

        def parts() -> Iterator[str]:
            head["total_duration"] = round((time.perf_counter() - started) * 1e9)
            head["prompt_eval_count"] = made.tokens
            yield dump(head)[:-1] + ',"embeddings":['
            for number, vector in enumerate(made.vectors):
                yield ("," if number else "") + dump(vector.tolist())
            yield "]}"

        return await _sent(parts())

    @router.post("/api/embeddings", tags=["Ollama"], **described(PromptRequest, refusals=ASKING))
    async def embeddings(request: Request) -> Response:
        """The vector of one prompt: Ollama's older way."""
        body = read_body(PromptRequest, await request.body())
        if not body.prompt:
            await _load(front, request, body.model)
            return await _sent(iter(['{"embedding":[]}']))
        with missing(body.model):
            wanted = front.embed(request, [body.prompt], tag_of(body.model), truncate=True)
            made = await while_connected(request, wanted)
        return await _sent(iter([dump({"embedding": made.vectors[0].tolist()})]))


def _llamacpp(router: APIRouter, front: Front) -> None:
    @router.post("/embedding", tags=["llama.cpp"], **described(ContentRequest, refusals=ASKING))
    @router.post("/embeddings", tags=["llama.cpp"], **described(ContentRequest, refusals=ASKING))
    async def embedding(request: Request) -> Response:
        """Vectors of texts or ids, as its server gives them with mean pooling."""
        body = read_body(ContentRequest, await request.body())
        texts: list[Given] = body.texts()
        made = await while_connected(request, front.embed(request, texts, body.model))

        def parts() -> Iterator[str]:
            yield "["
            for number, vector in enumerate(made.vectors):
                entry = {"index": number, "embedding": [vector.tolist()]}
                yield ("," if number else "") + dump(entry)
            yield "]"

        return await _sent(parts())


async def _load(front: Front, request: Request, name: str) -> None:
    with missing(name):
        model = await front.resolve(request, tag_of(name))
        await run_in_threadpool(front.completer.load, model)


async def _sent(parts: Iterator[str]) -> Response:
    """JSON in pieces: between two of them the thread that writes answers may go on."""
    body = await run_in_threadpool(lambda: "".join(parts).encode())
    return Response(body, media_type="application/json")


def _check_size(made: Embedded, dimensions: int | None) -> None:
    """A mean of states cannot be cut to fewer numbers and stay what it is."""
    size = made.vectors.shape[1]
    if dimensions is not None and dimensions != size:
        raise BadRequestError(
            f"The vectors of '{made.model}' have {size} numbers, and cannot have {dimensions}.",
            param="dimensions",
            advice="Leave 'dimensions' out.",
        )
