"""Texts become vectors: names, windows and limits, the same for every dialect and engine.

What a vector is, says `serving.engines.embedder`; a model of `remote:ENGINE` gives its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from codetune.errors import BadRequestError, RegistryError, nearest
from codetune.serving.complete import REMOTE, Completer, Spent, Voice
from codetune.serving.engine import Passage, Servable

MOST_TEXTS = 2048  # OpenAI's limits, as those of tokens
MOST_TOKENS, LONGEST = 300_000, 8192  # of all texts, and of one
Given = str | Sequence[int]


@dataclass(frozen=True)
class Embedded:
    """The vectors of some texts [texts, size], float32, and the tokens that were read."""

    model: str
    engine: str  # one of `Engine.engines`
    vectors: np.ndarray
    tokens: int

    def spent(self) -> Spent:
        """What they took: texts are read, and nothing is generated."""
        return Spent(prompt_tokens=self.tokens)


async def embed(
    completer: Completer,
    texts: Sequence[Given],
    model: str | None,
    *,
    resolve: Callable[[str | None], Servable],
    truncate: bool = False,
) -> Embedded:
    """The vectors of `texts`, in their order; with `truncate` long ones are cut, else refused.

    Raises:
        BadRequestError: there is no text, an empty one, or too much of it.
        RegistryError, ModelError, UnservableModelError, OverloadedError, DeadlineError,
        ServingError
    """
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise BadRequestError(
            f"There are {len(texts)} texts; 1 to {MOST_TEXTS} can be asked for.", param="input"
        )
    if any(not len(text) for text in texts):
        raise BadRequestError("An empty text has no vector.", param="input")
    if model is not None and model.startswith(REMOTE):
        return await _remote(completer, texts, model)

    def prepare() -> tuple[Servable, list[Passage]]:
        found = resolve(model)
        voice = completer.voice(found)
        return found, _passages(voice, texts, truncate=truncate)

    servable, passages = await asyncio.to_thread(prepare)
    vectors = await completer.engine.embed(servable, passages)
    tokens = sum(len(passage.ids) - passage.start for passage in passages)
    return Embedded(servable.id, completer.engine.name_of(servable), vectors, tokens)


async def _remote(completer: Completer, texts: Sequence[Given], name: str) -> Embedded:
    engine, _, model = name.removeprefix(REMOTE).partition("/")
    if engine not in completer.remotes:
        advice = nearest(engine, completer.remotes)
        raise RegistryError(f"There is no engine '{engine}'.", advice=advice)
    vectors, tokens = await completer.remotes[engine].vectors(texts, model or None)
    return Embedded(name, engine, vectors, tokens)


def _passages(voice: Voice, texts: Sequence[Given], *, truncate: bool) -> list[Passage]:
    """The texts' ids; what a base wants before every text is read and not averaged."""
    renderer = voice.renderer
    start = renderer.start(None, None)
    room = min(voice.window, LONGEST) - len(start)
    made, total = [], 0
    for number, text in enumerate(texts):
        ids = renderer.plain(text) if isinstance(text, str) else list(text)
        if not all(0 <= i < renderer.vocab_size for i in ids):
            raise BadRequestError(
                f"Token ids have to be 0 to {renderer.vocab_size - 1}.", param="input"
            )
        if len(ids) > room and not truncate:
            raise BadRequestError(
                f"Text {number} has {len(ids)} tokens; at most {room} are read for one vector.",
                param="input",
                advice="Send it in parts.",
            )
        made.append(Passage([*start, *ids[:room]], len(start)))
        total += len(made[-1].ids)
        if total > MOST_TOKENS:
            raise BadRequestError(
                f"The texts have more than {MOST_TOKENS} tokens together.",
                param="input",
                advice="Send fewer at a time.",
            )
    return made
