"""A base's chat template, rendered in a sandbox; markup inside messages stays plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from codetune.errors import ModelError

Message = Mapping[str, Any]  # {"role": …, "content": …} and what else a template knows

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


class ChatTemplate:
    """A compiled template; `parts` gives the text between its control tokens."""

    def __init__(self, source: str, markup: Mapping[str, int], names: Mapping[str, str]) -> None:
        """`names` are the template's variables bos_token, eos_token, …"""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(f"The base's chat template cannot be read: {error}.") from error
        self._errors = TemplateError
        self._names = dict(names)
        self._markup = markup
        longest_first = sorted(markup, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def parts(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, **variables: Any
    ) -> list[str | int]:
        """The rendered chat as plain texts and control token ids, in order.

        Raises:
            ModelError: the template refuses these messages.
        """
        guard = _unused_character(messages, variables)
        try:
            text = self._template.render(
                messages=self._guarded(list(messages), guard),
                add_generation_prompt=add_generation_prompt,
                **self._names,
                **self._guarded(variables, guard),
            )
        except (self._errors, TypeError, ValueError, KeyError, OverflowError) as error:
            raise ModelError(
                f"The base's chat template refuses these messages: {error}.",
                advice="Check the roles and their order; some bases take no system message.",
            ) from error
        parts: list[str | int] = []
        end = 0
        for match in self._pattern.finditer(text):
            parts += [text[end : match.start()].replace(guard, ""), self._markup[match[0]]]
            end = match.end()
        parts.append(text[end:].replace(guard, ""))
        return [part for part in parts if part != ""]

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


def _unused_character(*values: Any) -> str:
    """A private-use character that occurs nowhere in `values`."""
    text = json.dumps(values, ensure_ascii=False, default=str)
    return next(chr(n) for n in range(0xE000, 0xF8FF) if chr(n) not in text)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
