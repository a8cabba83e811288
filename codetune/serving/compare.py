"""One prompt, several models, side by side: the base, tuned ones, and remote ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from codetune.errors import BadRequestError, CodetuneError
from codetune.serving.complete import REMOTE, Answers, Completer
from codetune.serving.engine import Servable
from codetune.serving.query import Query

MOST_MODELS = 16


@dataclass(frozen=True)
class Compared:
    """One model's answer, or why there is none; times are in seconds."""

    asked: str  # the name that was asked for
    model: str  # who answered
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int = 0
    first_token_seconds: float | None = None
    seconds: float = 0.0
    error: str | None = None


async def compare(
    completer: Completer,
    query: Query,
    models: Sequence[str],
    *,
    resolve: Callable[[str | None], Servable] | None = None,
    started: Callable[[Answers], None] = lambda _: None,
    worded: Callable[[CodetuneError], str] | None = None,
) -> list[Compared]:
    """The answers of `models` to the one prompt of `query`, in their order.

    They are asked one after another, so that each has the machine to itself. What one of them
    cannot answer is said in its place, in the words of `worded`, and keeps nobody else from
    answering. `started` hears of each answer when it begins.

    Raises:
        BadRequestError: the query is none, asks for several answers, or names no models.
    """
    query.check()
    if len(query.prompts) != 1 or query.n != 1:
        raise BadRequestError("A comparison takes one prompt and one answer of each model.")
    if not 1 <= len(models) <= MOST_MODELS:
        raise BadRequestError(
            f"{len(models)} models were named; 1 to {MOST_MODELS} can be compared.", param="models"
        )
    found = []
    for name in models:
        asked = replace(query, model=name, stream=True)
        try:
            found.append(await _answer(completer, asked, name, resolve, started))
        except CodetuneError as error:
            found.append(Compared(name, name, error=(worded or _plainly)(error)))
    return found


async def _answer(
    completer: Completer,
    query: Query,
    name: str,
    resolve: Callable[[str | None], Servable] | None,
    heard: Callable[[Answers], None],
) -> Compared:
    if not name.startswith(REMOTE):  # the time to read weights from disk says nothing of a model
        servable = await asyncio.to_thread(resolve or completer.catalog.resolve, name)
        await asyncio.to_thread(completer.load, servable)
    started = time.perf_counter()
    answers = await completer.start(query, resolve=resolve)
    heard(answers)
    text, first = "", None
    async for piece in answers.generations[0]:
        if first is None and piece.text:
            first = time.perf_counter() - started
        text += piece.text
        if piece.finish:
            counted = piece.finish.prompt_tokens
            return Compared(
                asked=name,
                model=piece.finish.model or answers.model,
                text=text,
                finish_reason=piece.finish.reason,
                prompt_tokens=answers.prompt_tokens if counted is None else counted,
                completion_tokens=piece.finish.tokens,
                first_token_seconds=first,
                seconds=time.perf_counter() - started,
            )
    raise AssertionError("a generation ends with a finish or an error")


def _plainly(error: CodetuneError) -> str:
    return f"{error.message} {error.advice}".strip()
