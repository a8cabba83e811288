"""Conversations become tokens: loss on the answers alone, and no answer is ever cut.

What does not fit the window loses context, in this order: the oldest turns; then lines out of the
middle of the longest message that is not an answer, so that both its instruction (at the start)
and its question (at the end) stay. An example whose last answer leaves no room for them is
refused: the caller counts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codetune.errors import ModelError
from codetune.models.prompts import Ids, Renderer
from codetune.records import Example

_LEAST_CONTEXT = 16  # tokens of a message that was cut, at least: below it, nothing is asked
_CUT = "\n…\n"  # stands where lines were taken out

Turn = Mapping[str, str]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Encoded:
    """Token ids (uint32), and which of them carry loss: answers with the token that ends them."""

    ids: Ids
    loss: Flags
    messages: tuple[Turn, ...]  # as rendered
    turns_cut: int = 0  # messages that were left out, the oldest
    answers_cut: int = 0  # how many of these were answers
    characters_cut: int = 0  # of context, out of the middle of a message

    @property
    def shortened(self) -> Counter[str]:
        """What was left out, for the counts of a stream; empty if nothing was."""
        return +Counter(
            {
                "conversations": int(bool(self.turns_cut or self.characters_cut)),
                "turns": self.turns_cut,
                "answers": self.answers_cut,
                "characters": self.characters_cut,
            }
        )


@dataclass(frozen=True)
class Refused:
    """Why an example is not trained on."""

    reason: str


class Conversations:
    """Encodes examples with messages for one base, its chat template and a window."""

    def __init__(self, renderer: Renderer, window: int) -> None:
        self.renderer, self.window = renderer, window

    def encode(self, example: Example) -> Encoded | Refused:
        """Render `example.messages`, shortened where the window needs it."""
        messages = list(example.messages or ())
        if reason := _unusable(messages):
            return Refused(reason)
        while messages[-1].get("role") != "assistant":
            messages.pop()  # nothing answers it
        try:
            return self._fit(messages)
        except ModelError as error:
            return Refused(f"template: {error.message}")

    def _fit(self, messages: list[dict[str, str]]) -> Encoded | Refused:
        ids, loss = self._render(messages)
        turns = answers = 0
        while len(ids) > self.window:
            shorter = _without_oldest_turn(messages)
            if shorter is None:
                break
            gone = len(messages) - len(shorter)
            turns += gone
            answers += sum(m["role"] == "assistant" for m in messages) - sum(
                m["role"] == "assistant" for m in shorter
            )
            messages = shorter
            ids, loss = self._render(messages)
        characters = 0
        if len(ids) > self.window:
            cut = self._cut_middle(messages, len(ids) - self.window)
            if cut is None:
                return Refused("the answer does not fit the window")
            characters = sum(len(m["content"]) for m in messages) - sum(
                len(m["content"]) for m in cut
            )
            messages = cut
            ids, loss = self._render(messages)
        return Encoded(ids, loss, tuple(messages), turns, answers, characters)

    def _render(self, messages: Sequence[Turn]) -> tuple[Ids, Flags]:
        return self.renderer.conversation(messages)

    def _cut_middle(
        self, messages: list[dict[str, str]], excess: int
    ) -> list[dict[str, str]] | None:
        """The messages with the longest input shortened until all fit; None if they cannot."""
        inputs = [n for n, message in enumerate(messages) if message["role"] != "assistant"]
        sizes = {n: len(self.renderer.plain(messages[n]["content"])) for n in inputs}
        longest = max(sizes, key=lambda n: sizes[n], default=None)
        if longest is None:
            return None
        keep = sizes[longest] - excess - len(self.renderer.plain(_CUT))
        while keep >= _LEAST_CONTEXT:
            content = self._shortened(messages[longest]["content"], keep)
            shorter = list(messages)
            shorter[longest] = {"role": messages[longest]["role"], "content": content}
            over = len(self._render(shorter)[0]) - self.window
            if over <= 0:
                return shorter
            keep -= over
        return None

    def _shortened(self, text: str, keep: int) -> str:
        """About `keep` tokens of `text`, half from its start and half from its end, whole lines."""
        ids, starts = self.renderer.plain_offsets(text)
        head = int(starts[keep // 2])
        tail = int(starts[len(ids) - (keep - keep // 2)])
        line_end = text.rfind("\n", head // 2, head)
        head = line_end if line_end >= 0 else head
        line_start = text.find("\n", tail, tail + (len(text) - tail) // 2)
        tail = line_start + 1 if line_start >= 0 else tail
        return text[:head] + _CUT + text[tail:]


def _unusable(messages: Sequence[Turn]) -> str:
    """Why these messages cannot be learned from; empty if they can."""
    if not messages:
        return "no messages"
    if any(not isinstance(message.get("content"), str) for message in messages):
        return "a message without text"
    answers = [message for message in messages if message.get("role") == "assistant"]
    if not answers:
        return "no answer"
    if not all(message["content"].strip() for message in answers):
        return "an empty answer"
    if not any(message.get("role") == "user" for message in messages):
        return "no question"
    return ""


def _without_oldest_turn(messages: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """The messages without the first question and its answers; None if it is the only one."""
    first = 1 if messages[0]["role"] == "system" else 0
    later = [n for n, m in enumerate(messages) if n > first and m["role"] == "user"]
    if not later or all(m["role"] != "assistant" for m in messages[later[0] :]):
        return None
    return messages[:first] + messages[later[0] :]
