"""A base's chat template, rendered in a sandbox; markup inside messages stays plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from codetune.errors import ModelError
from codetune.models.prompts.answers import (
    Marks,
    Span,
    UntrackableError,
    marked_spans,
    probed_spans,
    with_ends,
    with_probes,
)

Message = Mapping[str, Any]  # {"role": …, "content": …} and what else a template knows


class Piece(NamedTuple):
    """A text without control tokens, or one control token's id; `answer` is None outside of one."""

    value: str | int
    answer: int | None = None


class ChatTemplate:
    """A compiled template; `parts` gives the text between its control tokens."""

    def __init__(
        self,
        source: str,
        markup: Mapping[str, int],
        names: Mapping[str, str],
        stops: frozenset[int] = frozenset(),
    ) -> None:
        """`names` are the template's variables bos_token, eos_token, …; `stops` end an answer."""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        from codetune.models.prompts.generation import END, START, Generation

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(f"The base's chat template cannot be read: {error}.") from error
        self._errors = TemplateError
        self._names = dict(names)
        self._markup, self._stops = markup, stops
        self._marked = re.search(r"\{%-?\s*generation\b", source) is not None
        self._mark_names = START, END
        longest_first = sorted(markup, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def parts(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, **variables: Any
    ) -> list[str | int]:
        """The rendered chat as plain texts and control token ids, in order.

        Raises:
            ModelError: the template refuses these messages.
        """
        marks = Marks.unused_in(messages, variables)
        text = self._render(messages, marks, add_generation_prompt, variables)
        return [piece.value for piece in self._pieces(text, marks, [])]

    def answered(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, **variables: Any
    ) -> tuple[list[Piece], list[bool]]:
        """The rendered chat cut where answers begin and end, and whether each has an end token.

        An answer is what the base would have written after its generation prompt: everything
        up to the token that ends its turn, and that one, too.

        Raises:
            ModelError: the template refuses these messages.
            UntrackableError: it cannot be said where the answers stand.
        """
        marks = Marks.unused_in(messages, variables)

        def render(some: Sequence[Message], prompt: bool, *, mark: bool = False) -> str:
            return self._render(some, marks, prompt, variables, mark=mark)

        answers = [n for n, message in enumerate(messages) if message.get("role") == "assistant"]
        if self._marked:
            marked = render(messages, add_generation_prompt, mark=True)
            text, spans = marked_spans(marked, marks, len(answers))
        else:
            text = render(messages, add_generation_prompt)
            probed = render(with_probes(messages, marks), add_generation_prompt)
            spans = probed_spans(text, probed, marks, messages, answers, render)
        spans, ended = with_ends(text, spans, self._stop_after, self._ends_with_stop)
        return self._pieces(text, marks, spans), ended

    def _render(
        self,
        messages: Sequence[Message],
        marks: Marks,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
        *,
        mark: bool = False,
    ) -> str:
        """The template's text; names of control tokens in messages are broken by a guard."""
        start, end = self._mark_names
        try:
            return self._template.render(
                messages=self._guarded(list(messages), marks.guard),
                add_generation_prompt=add_generation_prompt,
                **self._names,
                **self._guarded(dict(variables), marks.guard),
                **{start: marks.start if mark else "", end: marks.end if mark else ""},
            )
        except (self._errors, TypeError, ValueError, KeyError, OverflowError) as error:
            raise ModelError(
                f"The base's chat template refuses these messages: {error}.",
                advice="Check the roles and their order; some bases take no system message.",
            ) from error

    def _pieces(self, text: str, marks: Marks, spans: Sequence[Span]) -> list[Piece]:
        """`text` cut at control tokens and at the borders of `spans`."""
        cuts = sorted({border for span in spans for border in span})
        pieces: list[Piece] = []
        number = 0  # of the first span that does not end before the place reached

        def add(start: int, end: int, token: int | None) -> None:
            nonlocal number
            while number < len(spans) and spans[number].end <= start:
                number += 1
            inside = number < len(spans) and spans[number].start <= start
            value: str | int = text[start:end].replace(marks.guard, "") if token is None else token
            if value != "":
                pieces.append(Piece(value, number if inside else None))

        def add_text(start: int, end: int) -> None:
            for cut in [c for c in cuts if start < c < end] if cuts else ():
                add(start, cut, None)
                start = cut
            add(start, end, None)

        at = 0
        for match in self._pattern.finditer(text):
            add_text(at, match.start())
            add(match.start(), match.end(), self._markup[match[0]])
            at = match.end()
        add_text(at, len(text))
        return pieces

    def _stop_after(self, text: str, place: int, limit: int) -> int | None:
        """The end of the stop token that follows `place`, behind blanks at most."""
        match = self._pattern.search(text, place, limit)
        if match is None or text[place : match.start()].strip():
            return None
        return match.end() if self._markup[match[0]] in self._stops else None

    def _ends_with_stop(self, text: str) -> bool:
        found = list(self._pattern.finditer(text))
        if not found or text[found[-1].end() :].strip():
            return False
        return self._markup[found[-1][0]] in self._stops

    def _guarded(self, value: Any, guard: str) -> Any:
        """`value` with each control token's name broken by `guard`, which is taken out later.

        The template sees whole messages, so that its own conditions on them keep working.
        """
        if isinstance(value, str):
            return self._pattern.sub(lambda m: m[0][:1] + guard + m[0][1:], value)
        if isinstance(value, Mapping):
            return {key: self._guarded(item, guard) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._guarded(item, guard) for item in value]
        return value


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


__all__ = ["ChatTemplate", "Message", "Piece", "UntrackableError"]
