"""What a row's fields mean: five layouts, each from a row to messages or text, and back.

- alpaca: instruction, input, output; system and history ([[question, answer], …]) if given
- sharegpt: conversations, a list of {from, value}; system if given
- messages: messages, a list of {role, content} (OpenAI)
- prompt-completion: prompt, completion, two texts or two lists of messages; system if given
- text: text
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from codetune.dataset.formats.problems import RowError
from codetune.errors import DatasetError, nearest

LayoutName = Literal["alpaca", "sharegpt", "messages", "prompt-completion", "text"]
Message = dict[str, str]
Columns = Mapping[str, str]

_ROLES = {
    "user": "user", "human": "user", "prompter": "user", "instruction": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "chatgpt": "assistant", "bard": "assistant", "bing": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "observation": "tool",
}  # fmt: skip
_SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
_DEEPEST = 50  # parts of a dotted column name


@dataclass(frozen=True)
class Layout:
    """One meaning of fields; `needed` are there in every row."""

    name: LayoutName
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Fields], list[Message] | str]
    write: Callable[[Sequence[Message]], dict[str, Any]]

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.needed, *self.optional)


class Fields:
    """A row seen through the user's names for its columns."""

    def __init__(self, values: Mapping[str, Any], columns: Columns) -> None:
        self._values, self._columns = values, columns

    def get(self, field: str) -> Any:
        """The field's value, or None; a mapped name may be dotted: `meta.question`."""
        name = self._columns.get(field, field)
        if name in self._values or "." not in name:
            return self._values.get(name)
        value: Any = self._values
        for part in name.split(".", _DEEPEST):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def has(self, field: str) -> bool:
        """Whether the row has this column, be it empty."""
        return self._columns.get(field, field) in self._values

    def text(self, field: str, *, needed: bool = True) -> str:
        """The field's text.

        Raises:
            RowError: it is missing, or no text, or empty although it is needed.
        """
        return _text_of(self.get(field), self._columns.get(field, field), needed)

    def items(self, field: str) -> list[Any]:
        """The field's list; a table may hold it as JSON, or as a record of columns."""
        name = self._columns.get(field, field)
        value = self.get(field)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise RowError(name, f"is neither a list nor JSON: {error}") from error
        if isinstance(value, Mapping) and all(isinstance(v, list) for v in value.values()):
            value = [
                dict(zip(value, row, strict=False)) for row in zip(*value.values(), strict=False)
            ]
        if value is None:
            raise RowError(name, "is missing")
        if not isinstance(value, list):
            raise RowError(name, f"is a {type(value).__name__}, and a list was expected")
        return value


def layout_of(values: Mapping[str, Any], columns: Columns, wanted: str) -> Layout:
    """The layout that the user named, or the first whose fields a row has.

    Raises:
        DatasetError: none fits; the message names the row's fields.
    """
    if wanted != "auto":
        return LAYOUTS[wanted]  # type: ignore[index]
    fields = Fields(values, columns)
    # A row may leave out what its columns promise; that is this row's problem, not the file's.
    for there in (lambda name: fields.get(name) is not None, fields.has):
        for layout in LAYOUTS.values():
            if all(map(there, layout.needed)):
                return layout
    known = "; ".join(f"{one.name}: {', '.join(one.needed)}" for one in LAYOUTS.values())
    raise DatasetError(
        f"No format fits the columns {', '.join(map(str, list(values)[:20])) or '(none)'}.",
        advice=f"Known columns are {known}. Name yours: columns: {{instruction: question}} "
        "(--column instruction=question).",
    )


def usable_columns(columns: Columns) -> frozenset[str]:
    """The columns that any layout can use; of a dotted name, the one that holds it, too."""
    names = {columns.get(field, field) for one in LAYOUTS.values() for field in one.fields}
    return frozenset(names | {name.partition(".")[0] for name in names})


def check_columns(columns: Columns) -> None:
    """Refuse names of fields that no layout has.

    Raises:
        DatasetError: with the nearest known one.
    """
    known = {field for layout in LAYOUTS.values() for field in layout.fields}
    for field in columns:
        if field not in known:
            raise DatasetError(
                f"columns: there is no field '{field}' to name a column for.",
                advice=nearest(field, known),
            )


def _text_of(value: Any, name: str, needed: bool) -> str:
    if value is None and not needed:
        return ""
    if value is None:
        raise RowError(name, "is missing")
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        if other := [
            p for p in value if p.get("type") != "text" or not isinstance(p.get("text"), str)
        ]:
            raise RowError(
                name, f"holds a part of type {other[0].get('type')!r}; only text is read"
            )
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise RowError(name, f"is a {type(value).__name__}, and text was expected")
    if needed and not value.strip():
        raise RowError(name, "is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            name, f"holds half of a surrogate pair at character {error.start + 1}"
        ) from error
    return value


def _alpaca(row: Fields) -> list[Message]:
    messages = _system(row)
    history = row.items("history") if row.get("history") else []
    for number, pair in enumerate(history):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError("history", f"turn {number + 1} is no pair of question and answer")
        for role, value in zip(("user", "assistant"), pair, strict=True):
            text = _text_of(value, f"history, turn {number + 1}", needed=True)
            messages.append({"role": role, "content": text})
    more = row.text("input", needed=False)
    instruction = row.text("instruction", needed=not more.strip())
    if not more.strip():
        user = {"role": "user", "content": instruction}
    elif not instruction.strip():
        user = {"role": "user", "content": more}
    else:
        user = {"role": "user", "content": f"{instruction}\n\n{more}", "input": more}
    return [*messages, user, {"role": "assistant", "content": row.text("output")}]


def _sharegpt(row: Fields) -> list[Message]:
    return _conversation(row, "conversations")


def _chat(row: Fields) -> list[Message]:
    return _conversation(row, "messages")


def _conversation(row: Fields, field: str) -> list[Message]:
    messages = _messages(row.items(field), field)
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError(field, "holds no answer (no turn of the assistant)")
    system = _system(row)
    return messages if messages[0]["role"] == "system" else system + messages


def _messages(turns: Sequence[Any], field: str) -> list[Message]:
    messages: list[Message] = []
    for number, turn in enumerate(turns, 1):
        where = f"{field}[{number}]"
        if not isinstance(turn, Mapping):
            raise RowError(where, f"is a {type(turn).__name__}, and an object was expected")
        said = turn.get("role", turn.get("from"))
        role = _ROLES.get(said.lower()) if isinstance(said, str) else None
        if role is None:
            raise RowError(where, f"has the role {said!r}; known: {', '.join(sorted(_ROLES))}")
        content = turn.get("content", turn.get("value"))
        if content is None and turn.get("tool_calls"):
            raise RowError(where, "holds tool calls and no text; only text is learned")
        name = f"{where}.{'content' if 'content' in turn else 'value'}"
        needed = role in ("user", "assistant")
        messages.append({"role": role, "content": _text_of(content, name, needed)})
    if not messages:
        raise RowError(field, "is empty")
    return messages


def _prompt_completion(row: Fields) -> list[Message]:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):  # as TRL's chats
        return _messages(prompt, "prompt") + _messages(completion, "completion")
    question = {"role": "user", "content": row.text("prompt")}
    return [*_system(row), question, {"role": "assistant", "content": row.text("completion")}]


def _plain(row: Fields) -> str:
    return row.text("text")


def _system(row: Fields) -> list[Message]:
    system = row.text("system", needed=False)
    return [{"role": "system", "content": system}] if system.strip() else []


def _to_alpaca(messages: Sequence[Message]) -> dict[str, Any]:
    system, turns = _pairs(messages, "alpaca")
    *history, (question, answer) = turns
    more = question.get("input", "")
    whole = question["content"]
    instruction = whole.removesuffix(f"\n\n{more}") if more else whole
    row = {
        "instruction": instruction,
        "input": more if instruction != whole else "",
        "output": answer["content"],
        "system": system,
    }
    return row | {"history": [[a["content"], b["content"]] for a, b in history]}


def _to_sharegpt(messages: Sequence[Message]) -> dict[str, Any]:
    turns = [{"from": _SHAREGPT[m["role"]], "value": m["content"]} for m in messages]
    return {"conversations": turns}


def _to_chat(messages: Sequence[Message]) -> dict[str, Any]:
    return {"messages": [{"role": m["role"], "content": m["content"]} for m in messages]}


def _to_prompt_completion(messages: Sequence[Message]) -> dict[str, Any]:
    system, turns = _pairs(messages, "prompt-completion")
    if len(turns) > 1:
        raise DatasetError(
            "A conversation of several turns cannot be written as prompt and completion.",
            advice="Write it as messages or sharegpt.",
        )
    question, answer = turns[0]
    return {"prompt": question["content"], "completion": answer["content"], "system": system}


def _pairs(messages: Sequence[Message], layout: str) -> tuple[str, list[tuple[Message, Message]]]:
    """The system message's text, and questions with their answers."""
    rest = list(messages)
    system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else ""
    pairs = list(zip(rest[::2], rest[1::2], strict=False))
    if len(rest) % 2 or any((a["role"], b["role"]) != ("user", "assistant") for a, b in pairs):
        raise DatasetError(
            f"Turns that do not go from user to assistant and back have no {layout} form.",
            advice="Write it as messages or sharegpt.",
        )
    return system, pairs


def _no_messages(_: Sequence[Message]) -> dict[str, Any]:
    raise DatasetError(
        "A conversation cannot be written as plain text without a template.",
        advice="Write it as messages, sharegpt, alpaca or prompt-completion.",
    )


LAYOUTS: dict[LayoutName, Layout] = {
    layout.name: layout
    for layout in (
        Layout("messages", ("messages",), ("system",), _chat, _to_chat),
        Layout("sharegpt", ("conversations",), ("system",), _sharegpt, _to_sharegpt),
        Layout(
            "alpaca", ("instruction", "output"), ("input", "system", "history"), _alpaca, _to_alpaca
        ),
        Layout(
            "prompt-completion",
            ("prompt", "completion"),
            ("system",),
            _prompt_completion,
            _to_prompt_completion,
        ),
        Layout("text", ("text",), (), _plain, _no_messages),
    )
}
