"""One prompt, several models, side by side: bases, tuned ones, and those of engines elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from codetune.api.dialects.front import Front
from codetune.api.permissions import Access
from codetune.api.routes.shapes import refusals
from codetune.api.stream import while_connected
from codetune.serving.compare import MOST_MODELS, Compared
from codetune.serving.query import MOST_TEMPERATURE, Chat, Fim, Prompt, Query, Text

ACCESS: Access = {"POST /api/v1/compare": "use"}
_LONGEST = 4_000_000  # characters
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Turn(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=_LONGEST)


class Comparison(BaseModel):
    """What is asked of whom: a text to go on with, a gap to fill, or a conversation."""

    model_config = ConfigDict(extra="forbid")

    models: list[Name] = Field(
        min_length=1,
        max_length=MOST_MODELS,
        description="Of /api/v1/models, in the order in which they are asked.",
    )
    prompt: str | None = Field(None, max_length=_LONGEST, description="What to go on with.")
    suffix: str | None = Field(
        None, max_length=_LONGEST, description="With a prompt: what stands after the gap."
    )
    file_path: str | None = Field(None, max_length=4096, description="With a suffix.")
    messages: list[Turn] | None = Field(
        None, min_length=1, max_length=1000, description="Instead of a prompt."
    )
    max_tokens: int = Field(64, ge=1, le=4096, description="Of each answer.")
    temperature: float = Field(0.0, ge=0, le=MOST_TEMPERATURE)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)

    @model_validator(mode="after")
    def _is_one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("say either 'prompt' or 'messages'")
        if self.suffix is not None and self.prompt is None:
            raise ValueError("'suffix' goes with 'prompt'")
        return self

    def query(self) -> Query:
        """The internal request, without a model."""
        prompt: Prompt = Text(self.prompt or "")
        if self.messages is not None:
            prompt = Chat([turn.model_dump() for turn in self.messages])
        elif self.suffix is not None:
            prompt = Fim(self.prompt or "", self.suffix, self.file_path)
        return Query(
            [prompt], max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed
        )


class AnswerSeen(BaseModel):
    """One model's answer, or why there is none."""

    asked: str
    model: str = Field(description="Who answered.")
    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int
    first_token_seconds: float | None
    seconds: float
    error: str | None


class Answers(BaseModel):
    """An answer for each model that was named, in that order."""

    answers: list[AnswerSeen]


def routes(front: Front) -> APIRouter:
    """The route of /api/v1/compare."""
    router = APIRouter(prefix="/api/v1/compare", tags=["models"])

    @router.post("", responses=refusals())
    async def compare(request: Request, body: Comparison) -> Answers:
        """Ask one model after the other; what one cannot answer is said in its place."""
        found = await while_connected(request, front.compare(request, body.query(), body.models))
        return Answers(answers=[_seen(one) for one in found])

    return router


def _seen(one: Compared) -> AnswerSeen:
    return AnswerSeen.model_validate(one, from_attributes=True)
