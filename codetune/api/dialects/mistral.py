"""Mistral's fill-in-the-middle dialect, which Continue's `mistral` and `openai` providers speak.

Its answers look like chats. Every chunk of a stream has `choices[0].delta.content`, the last one
too: Continue's parser does not look whether it is there.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import AliasChoices, Field
from starlette.responses import Response

from codetune.api.dialects import bodies
from codetune.api.dialects.answering import Run, respond
from codetune.api.dialects.bodies import described, event, read_body
from codetune.api.dialects.front import Front
from codetune.api.dialects.openai_shapes import DONE, Chats, usage
from codetune.api.permissions import Access
from codetune.api.stream import EVENTS
from codetune.serving.engine import Piece
from codetune.serving.query import Fim, Query

ACCESS: Access = {"POST /v1/fim/completions": "use"}


class FimRequest(bodies.Request):
    """`POST /v1/fim/completions`."""

    model: str | None = None
    prompt: str
    suffix: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    random_seed: int | None = Field(None, validation_alias=AliasChoices("random_seed", "seed"))
    stop: str | list[str] | None = None
    stream: bool | None = False


def routes(front: Front) -> APIRouter:
    """The one route of this dialect that is not OpenAI's as well."""
    router = APIRouter(prefix="/v1/fim", tags=["Mistral"])

    @router.post("/completions", **described(FimRequest, stream=EVENTS))
    async def completions(request: Request) -> Response:
        """Fill in what stands between `prompt` and `suffix`."""
        body = read_body(FimRequest, await request.body())
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        query = Query(
            [Fim(body.prompt, body.suffix or "")],
            model=body.model or None,
            max_tokens=body.max_tokens,
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.random_seed,
            stops=[text for text in stop if text],
            stream=bool(body.stream),
        )
        run = await front.start(request, query)
        return await respond(request, run, _Fims(), stream=bool(body.stream))

    return router


class _Fims(Chats):
    prefix = "fim-"

    def opening(self, run: Run) -> list[bytes]:
        return []

    def piece(self, run: Run, index: int, piece: Piece) -> list[bytes]:
        reason = piece.finish.reason if piece.finish else None
        delta = {"role": "assistant", "content": piece.text}
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": reason}
        last = {"usage": usage(run)} if piece.finish else {}
        return [event({**self._head(run, self.chunk_kind), "choices": [choice], **last})]

    def closing(self, run: Run) -> list[bytes]:
        return [DONE]
