"""Windows line ends: models learn `\\n` alone, and a file with `\\r\\n` gets its own kind back."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from codetune.serving.engine import Generation, Piece, TokenScore
from codetune.serving.query import Fim, Prompt, Query, Text

_WINDOWS = "\r\n"
_BARE = re.compile(r"(?<!\r)\n")


def as_learned(query: Query) -> Query:
    """The query with the line ends of training (`corpus.decode`).

    A stop is looked for in what the model writes, and so it has them, too.
    """
    if not any(map(_has_windows, query.prompts)):
        return query
    prompts = [_unix_prompt(prompt) for prompt in query.prompts]
    return replace(query, prompts=prompts, stops=[_unix(stop) for stop in query.stops])


def as_asked(query: Query, generations: Sequence[Generation]) -> list[Generation]:
    """The answers to `query`, `n` for each prompt, with the line ends of their prompts."""
    windows = [_is_from_windows(prompt) for prompt in query.prompts]
    return [
        WindowsGeneration(one) if windows[number // query.n] else one
        for number, one in enumerate(generations)
    ]


class WindowsGeneration:
    """An answer with Windows line ends; its tokens are counted as they were generated."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    @property
    def generated(self) -> int:
        return self._generation.generated

    @property
    def first(self) -> float | None:
        return self._generation.first

    @property
    def prompt_tokens(self) -> int | None:
        return self._generation.prompt_tokens

    def cancel(self) -> None:
        self._generation.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        before = scored = ""
        try:
            async for piece in self._generation:
                told = [scored, *(score.text for score in piece.scores)]
                scores = tuple(map(_scored, piece.scores, told))
                yield replace(piece, text=_windows(piece.text, before), scores=scores)
                before, scored = piece.text or before, told[-1]
        finally:
            self.cancel()


def _windows(text: str, before: str = "") -> str:
    """`text` behind `before`; a `\\r\\n` that the model wrote itself stays one, cut or not."""
    if before.endswith("\r") and text.startswith("\n"):
        return "\n" + _BARE.sub(_WINDOWS, text[1:])
    return _BARE.sub(_WINDOWS, text)


def _scored(score: TokenScore, before: str) -> TokenScore:
    """Clients lay the tokens' texts over the answer's."""
    top = tuple((_windows(text, before), value) for text, value in score.top)
    return replace(score, text=_windows(score.text, before), top=top)


def _texts(prompt: Prompt) -> tuple[str, str]:
    """What stands before the cursor and behind it; token ids are nobody's to change."""
    if isinstance(prompt, Fim):
        return prompt.prefix + prompt.begun, prompt.suffix
    return (prompt.text if isinstance(prompt, Text) and isinstance(prompt.text, str) else ""), ""


def _has_windows(prompt: Prompt) -> bool:
    return any(_WINDOWS in text for text in _texts(prompt))


def _is_from_windows(prompt: Prompt) -> bool:
    """Whether the line end that is nearest to the cursor is: files may have both."""
    before, behind = _texts(prompt)
    before, mark, _ = before.rpartition("\n")
    if not mark:
        before, mark, _ = behind.partition("\n")
    return bool(mark) and before.endswith("\r")


def _unix_prompt(prompt: Prompt) -> Prompt:
    if isinstance(prompt, Fim):
        return replace(
            prompt,
            prefix=_unix(prompt.prefix),
            suffix=_unix(prompt.suffix),
            begun=_unix(prompt.begun),
            context=[file._replace(text=_unix(file.text)) for file in prompt.context],
        )
    if isinstance(prompt, Text) and isinstance(prompt.text, str):
        return Text(_unix(prompt.text))
    return prompt


def _unix(text: str) -> str:
    return text.replace(_WINDOWS, "\n")
