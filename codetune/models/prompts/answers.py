"""Where the answers stand in a rendered chat: what training learns, and what serving generates.

A template with generation markers says it itself. For others, marks are put into the answers'
own text and looked for in what comes out; an answer then begins where the generation prompt
ends, so that training continues exactly what serving asks to be continued. Where the pieces do
not agree, nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from codetune.errors import ModelError

_ADVICE = "Choose another template (dataset.template: chatml, alpaca, llama2 or plain)."


class UntrackableError(ModelError):
    """A template that does not tell where its answers stand."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The chat template does not show its answers: {reason}.", advice=_ADVICE)


class Span(NamedTuple):
    """Characters of a rendered chat."""

    start: int
    end: int


class Marks(NamedTuple):
    """Three private-use characters that occur in no message."""

    guard: str  # breaks the names of control tokens in messages
    start: str
    end: str

    @classmethod
    def unused_in(cls, *values: Any) -> Marks:
        text = json.dumps(values, ensure_ascii=False, default=str)
        free = (chr(n) for n in range(0xE000, 0xF8FF) if chr(n) not in text)
        return cls(next(free), next(free), next(free))

    def without(self, text: str) -> str:
        """`text` without the marks around answers; the guard stays."""
        return text.replace(self.start, "").replace(self.end, "")


def marked_spans(marked: str, marks: Marks, answers: int) -> tuple[str, list[Span]]:
    """The text without its marks, and where they stood."""
    spans: list[Span] = []
    clean: list[str] = []
    length, start = 0, -1
    for letter_run, mark in _runs(marked, marks):
        clean.append(letter_run)
        length += len(letter_run)
        if mark == marks.start:
            start = length
        elif mark == marks.end:
            spans.append(Span(start, length))
    if len(spans) != answers:
        raise UntrackableError(
            f"it marks {len(spans)} of {answers} answers with {{% generation %}}"
        )
    return "".join(clean), spans


def with_probes(messages: Sequence[Mapping[str, Any]], marks: Marks) -> list[Mapping[str, Any]]:
    """The messages with marks around each answer's text, inside of the blanks around it."""
    return [_with_probe(message, marks) for message in messages]


def _with_probe(message: Mapping[str, Any], marks: Marks) -> Mapping[str, Any]:
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str):
        return message
    core = content.strip()
    at = content.find(core)
    marked = marks.start + core + marks.end
    return {**message, "content": content[:at] + marked + content[at + len(core) :]}


def probed_spans(
    text: str,
    probed: str,
    marks: Marks,
    messages: Sequence[Mapping[str, Any]],
    answers: Sequence[int],
    render: Callable[[Sequence[Mapping[str, Any]], bool], str],
) -> list[Span]:
    """The answers' places in `text`, which is `probed` without its marks."""
    if marks.without(probed) != text:
        raise UntrackableError("it changes with what an answer's first or last letter is")
    found = _probes(probed, marks)
    if len(found) != len(answers):
        raise UntrackableError(f"it writes {len(found)} of {len(answers)} answers")
    tail = ""
    spans: list[Span] = []
    before = 0
    for span, index in zip(found, answers, strict=True):
        start = text.rfind(tail, before, span.start) if tail else -1
        if start >= 0:
            start += len(tail)
        elif index == 0:
            start = span.start
        else:
            prompt = render(messages[:index], True)
            if not text.startswith(prompt) or not before <= len(prompt) <= span.start:
                raise UntrackableError(
                    "before an answer it writes something else than its generation prompt"
                )
            start = len(prompt)
            if len(answers) > 1:
                bare = render(messages[:index], False)
                tail = prompt[len(bare) :] if prompt.startswith(bare) else ""
        spans.append(Span(start, span.end))
        before = span.end
    return spans


def with_ends(
    text: str,
    spans: Sequence[Span],
    stop_after: Callable[[str, int, int], int | None],
    ends_with_stop: Callable[[str], bool],
) -> tuple[list[Span], list[bool]]:
    """Spans that reach over the token that ends each turn, and whether there is one."""
    longer: list[Span] = []
    ended: list[bool] = []
    for number, span in enumerate(spans):
        limit = spans[number + 1].start if number + 1 < len(spans) else len(text)
        has_stop = ends_with_stop(text[span.start : span.end])
        stop = None if has_stop else stop_after(text, span.end, limit)
        longer.append(span if stop is None else Span(span.start, stop))
        ended.append(has_stop or stop is not None)
    return longer, ended


def _probes(probed: str, marks: Marks) -> list[Span]:
    """Places, in the text without marks, of each end mark and the start mark before it.

    A template may drop an answer's beginning (a model's thoughts in earlier turns): then the
    answer's place is only known by its end.
    """
    spans: list[Span] = []
    length, start = 0, -1
    for letter_run, mark in _runs(probed, marks):
        length += len(letter_run)
        if mark == marks.start:
            start = length
        elif mark == marks.end:
            spans.append(Span(start if start >= 0 else length, length))
            start = -1
    return spans


def _runs(text: str, marks: Marks) -> list[tuple[str, str]]:
    """The texts between marks, each with the mark that follows it ('' at the end)."""
    parts = [*re.split(f"([{marks.start}{marks.end}])", text), ""]
    return list(zip(parts[::2], parts[1::2], strict=True))
