"""What of a file around the cursor goes into a window: one rule for training and for serving."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from codetune.errors import ModelError
from codetune.models.prompts.foreign import ContextFile
from codetune.models.prompts.renderer import Part, Renderer
from codetune.models.prompts.words import Ids, Places

PREFIX_SHARE = 0.75  # of the room, when both sides are longer than it: what came before says more
_LEAST_ROOM = 8
_CHARACTERS_PER_TOKEN = 16  # further away than this × room, text is not even looked at
_LEAST_CONTEXT = 32  # tokens; a shorter piece of another file says nothing


class Fitted(NamedTuple):
    """The end of a prefix and the beginning of a suffix that fit together."""

    prefix: str
    suffix: str


def fit_fim(
    renderer: Renderer,
    prefix: str,
    suffix: str,
    window: int,
    max_new: int,
    *,
    repo: str | None = None,
    path: str | None = None,
    prefix_share: float = PREFIX_SHARE,
    context: Part = (),
) -> Fitted:
    """Cut `prefix` at its start and `suffix` at its end, so that the prompt and `max_new` fit.

    `len(renderer.fim_prompt(*fitted, …)) + max_new <= window`, an end token included. A side
    that needs less than its share leaves the rest to the other one. Cuts fall on line breaks
    where one is near.

    Raises:
        ModelError: `max_new` leaves no room for a prompt.
    """
    room = renderer.fim_room(window, repo=repo, path=path, context=context) - max_new
    if room < _LEAST_ROOM:
        raise ModelError(
            f"{max_new} new tokens leave no room for a prompt: the window is {window} tokens.",
            advice="Ask for fewer new tokens.",
        )
    near = room * _CHARACTERS_PER_TOKEN
    before = renderer.plain_offsets(prefix[-near:])
    after = renderer.plain_offsets(suffix[:near])
    for_suffix = max(room - round(room * prefix_share), room - len(before[0]))
    kept_suffix = _beginning(renderer, suffix[:near], after, for_suffix)
    spent = len(after[0]) if kept_suffix == suffix[:near] else len(renderer.plain(kept_suffix))
    return Fitted(_end(renderer, prefix[-near:], before, room - spent), kept_suffix)


def fit_context(renderer: Renderer, files: Iterable[ContextFile], room: int) -> list[int]:
    """The ids of as many of `files` (the most telling first) as fit into `room` tokens.

    The most telling one stands last, nearest to the cursor; the last that fits is cut.
    """
    kept: list[list[int]] = []
    for file in files:
        if room < _LEAST_CONTEXT:
            break
        if file.text.strip():
            ids = renderer.context_file(file.text[: room * _CHARACTERS_PER_TOKEN], file.path)
            kept.append(ids[:room])
            room -= len(kept[-1])
    return [i for ids in reversed(kept) for i in ids]


def _beginning(renderer: Renderer, text: str, encoded: tuple[Ids, Places], room: int) -> str:
    """The longest beginning of `text` of at most `room` tokens, by whole lines if possible."""
    ids, starts = encoded
    if len(ids) <= room:
        return text
    end = int(starts[room]) if room > 0 else 0
    line_break = text.rfind("\n", end - end // 4, end)
    end = line_break + 1 if line_break >= 0 else end
    # A cut may need more tokens than the whole did: what was one token is now two.
    while end > 0 and len(renderer.plain(text[:end])) > room:
        end -= 1
    return text[:end]


def _end(renderer: Renderer, text: str, encoded: tuple[Ids, Places], room: int) -> str:
    """The longest end of `text` of at most `room` tokens, by whole lines if possible."""
    ids, starts = encoded
    if len(ids) <= room:
        return text
    start = int(starts[len(ids) - room]) if room > 0 else len(text)
    line_break = text.find("\n", start, start + (len(text) - start) // 4)
    start = line_break + 1 if line_break >= 0 else start
    while start < len(text) and len(renderer.plain(text[start:])) > room:
        start += 1
    return text[start:]
