"""What people decided about examples: keep, drop, or another text in their place.

The file is JSON lines, one decision a line, so that an interrupted review loses nothing; the
last decision about an example counts. `codetune data review` writes it, building honours it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from codetune.dataset.formats import LAYOUTS, LayoutName
from codetune.dataset.formats.layouts import Fields
from codetune.dataset.formats.problems import RowError
from codetune.errors import DatasetError
from codetune.records import Example

Verdict = Literal["keep", "drop", "edit"]
_VERDICTS = ("keep", "drop", "edit")
_EDITED = ("messages", "text")
EDIT_THE_SET = "Change the text in its set's own file, or give the verdict keep or drop."


@dataclass(frozen=True)
class Decision:
    """A verdict about the example `id`; an edit holds the messages or the text to take."""

    id: str
    verdict: Verdict
    messages: tuple[dict[str, str], ...] | None = None
    text: str | None = None
    note: str = ""
    where: str = field(default="", compare=False)  # file and row that it was read from

    @classmethod
    def of_row(cls, row: Any, where: str) -> Decision:
        """Check a row that a person may have written.

        Raises:
            DatasetError: naming the field; `where` names file and row.
        """
        if not isinstance(row, Mapping):
            raise DatasetError(f"{where}: an object was expected.")
        if not isinstance(row.get("id"), str):
            raise DatasetError(f"{where}, field 'id': is missing.")
        verdict = row.get("verdict")
        if verdict not in _VERDICTS:
            raise DatasetError(
                f"{where}, field 'verdict': cannot be {verdict!r}.",
                advice=f"Known: {', '.join(_VERDICTS)}.",
            )
        if verdict != "edit":
            return cls(row["id"], verdict, note=str(row.get("note") or ""), where=where)
        if not any(row.get(name) for name in _EDITED):
            raise DatasetError(f"{where}: an edit needs messages or text.")
        messages, text = _messages(row, where), _text(row, where)
        return cls(row["id"], verdict, messages, text, str(row.get("note") or ""), where)

    def row(self) -> dict[str, Any]:
        """As a line of the file."""
        row: dict[str, Any] = {"id": self.id, "verdict": self.verdict}
        if self.messages is not None:
            row["messages"] = list(self.messages)
        if self.text is not None:
            row["text"] = self.text
        return row | ({"note": self.note} if self.note else {})


@dataclass
class Review:
    """Decisions by example id."""

    decisions: dict[str, Decision] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Review:
        """Read a review file.

        Raises:
            DatasetError: it cannot be read, or a line is no decision; the line is named.
        """
        review = cls()
        for decision in read_decisions(path):
            review.add(decision)
        return review

    def add(self, decision: Decision) -> None:
        """Take a decision in the place of an earlier one."""
        self.decisions[decision.id] = decision

    @property
    def dropped(self) -> frozenset[str]:
        """Ids of examples that are not to be trained on."""
        return frozenset(d.id for d in self.decisions.values() if d.verdict == "drop")

    def apply(self, example: Example) -> Example | None:
        """The example as it was decided; None if it was dropped."""
        decision = self.decisions.get(example.id)
        if decision is None or decision.verdict == "keep":
            return example
        if decision.verdict == "drop":
            return None
        if example.messages is not None and decision.messages is not None:
            return replace(example, messages=decision.messages)
        if example.text is not None and decision.text is not None:
            return replace(example, text=decision.text)
        return example


def instruction_row(messages: Sequence[dict[str, str]], where: str) -> dict[str, Any]:
    """The texts of a row of `sft.jsonl` for an edited instruction; `where` names its decision.

    Raises:
        DatasetError: such a row cannot hold these messages.
    """
    try:
        row = LAYOUTS["alpaca"].write(messages)
    except DatasetError as error:
        raise DatasetError(
            f"{where}, field 'messages': {error.message}",
            advice="Let questions and answers take turns, a question first and an answer last.",
        ) from error
    return {name: text for name, text in row.items() if text or name == "input"}


def append_decision(path: Path, decision: Decision) -> None:
    """Add a decision to a review file, which is made if there is none."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(decision.row(), ensure_ascii=False) + "\n")


def read_decisions(path: Path, *, undecided: bool = False) -> list[Decision]:
    """The decisions of a file in order; with `undecided`, rows with an empty verdict are passed.

    Raises:
        DatasetError: it cannot be read, or a line is no decision; the line is named.
    """
    found: list[Decision] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path}, row {number}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DatasetError(f"{where}: is not JSON: {error}") from error
                if undecided and isinstance(row, Mapping) and row.get("verdict") == "":
                    continue
                found.append(Decision.of_row(row, where))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The review {path} cannot be read: {error}.") from error
    return found


def _text(row: Mapping[str, Any], where: str) -> str | None:
    return None if row.get("text") is None else str(_read("text", row, where))


def _messages(row: Mapping[str, Any], where: str) -> tuple[dict[str, str], ...] | None:
    if row.get("messages") is None:
        return None
    messages = _read("messages", {"messages": row["messages"]}, where)
    if not any(message["role"] == "user" for message in messages):
        raise DatasetError(f"{where}, field 'messages': holds no question (no turn of the user).")
    return tuple(messages)


def _read(layout: LayoutName, row: Mapping[str, Any], where: str) -> Any:
    """What the row says, checked as that of a set."""
    try:
        return LAYOUTS[layout].read(Fields(row, {}))
    except RowError as error:
        raise DatasetError(f"{where}, field '{error.field}': {error.message}.") from error
