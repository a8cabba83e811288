"""A question to a model, answered as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from codetune.api.dialects.front import Front
from codetune.api.stream import while_connected
from codetune.errors import ConflictError
from codetune.serving.complete import REMOTE
from codetune.serving.config import EMBEDDED_ENGINE
from codetune.serving.query import Chat, Prompt, Query


@dataclass(frozen=True)
class Answered:
    """What a model said, and the mean natural log-probability of its tokens, where it is known."""

    text: str
    model: str
    score: float | None


async def ask(
    front: Front,
    request: Request,
    prompt: Prompt,
    model: str | None,
    max_tokens: int,
    *,
    scored: bool = False,
) -> Answered:
    """The likeliest answer of a model; `scored`: with its score, if it is computed here.

    Raises:
        RegistryError: the asker has no model of that name; and as `Front.start`.
    """
    logprobs = 0 if scored and await _is_here(front, request, model) else None
    query = Query([prompt], model=model, max_tokens=max_tokens, temperature=0.0, logprobs=logprobs)
    run = await front.start(request, query)
    try:
        (whole,) = await while_connected(request, run.collect())
    finally:
        run.cancel()
    if logprobs is None:
        return Answered(whole.text, run.model, None)
    scores = [score.logprob for score in whole.scores]
    return Answered(whole.text, run.model, sum(scores) / len(scores) if scores else 0.0)


async def _is_here(front: Front, request: Request, model: str | None) -> bool:
    """Whether this server computes the answers of a model, and so their probabilities."""
    if model is not None and model.startswith(REMOTE):
        return False
    found = await front.resolve(request, model)
    return front.completer.engine.name_of(found) == EMBEDDED_ENGINE


def question(text: str) -> Chat:
    """A conversation that begins with a question."""
    return Chat([{"role": "user", "content": text}])


async def newest_tuned(front: Front, request: Request) -> str:
    """The asker's newest promoted model, else their newest one.

    Raises:
        ConflictError: they have none yet.
    """
    chosen = await front.resolve(request, None)
    if chosen.kind != "base":
        return chosen.id
    tuned = [entry for entry in await front.listed(request) if entry.kind != "base"]
    if not tuned:
        raise ConflictError(
            "No model is tuned yet.", advice="Start one: POST /fine-tune/start or /api/v1/tuning."
        )
    return max(tuned, key=lambda entry: entry.created).root
