"""An instruction with its real answer: the record that every extractor makes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codetune.records import Example, Provenance

KINDS = ("explain", "complete", "document", "test", "commit", "question")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True)
class Pair:
    """`output` is text of the repository, and answers `instruction` about `input`.

    `names` are the names that the instruction or the input gives away: an answer made of nothing
    else is worth nothing. `span` is the answer's place in characters of the document.
    """

    kind: str
    instruction: str
    input: str
    output: str
    repo: str
    path: str
    span: tuple[int, int]
    licence: str
    language: str
    commit: str | None = None
    names: str = ""
    teacher: str = ""  # the model that worded the instruction, if one did
    document: str = ""  # the id of the document that `span` is of; none for a commit's

    @property
    def id(self) -> str:
        """32 hexadecimal digits: the same for the same place and text."""
        place = (self.kind, self.repo, self.path, self.span, self.instruction, self.input)
        return _digest(*map(str, place), self.output)

    @property
    def digest(self) -> bytes:
        """Equal for two pairs that differ in blanks, phrasing or place alone."""
        return bytes.fromhex(_digest(self.kind, _flat(self.input), _flat(self.output)))[:12]

    @property
    def answer_digest(self) -> bytes:
        """Equal for equal answers."""
        return bytes.fromhex(_digest(_flat(self.output).lower()))[:12]

    @property
    def size(self) -> int:
        """Characters of question and answer."""
        return len(self.instruction) + len(self.input) + len(self.output)

    @property
    def prompt(self) -> str:
        """What the user says: the instruction, and under it what it is about."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    def example(self) -> Example:
        """The canonical example: one turn of the user, one of the assistant."""
        return Example(
            id=self.id,
            stream="sft",
            source=Provenance(self.repo, self.commit, self.path, self.span, self.licence),
            messages=(
                {"role": "user", "content": self.prompt},
                {"role": "assistant", "content": self.output},
            ),
            language=self.language,
            kind=self.kind,
        )

    def row(self) -> dict[str, Any]:
        """The row of `sft.jsonl`."""
        source: dict[str, Any] = {
            "repo": self.repo,
            "commit": self.commit,
            "path": self.path,
            "span": list(self.span),
            "licence": self.licence,
        }
        texts = {"instruction": self.instruction, "input": self.input, "output": self.output}
        if self.teacher:
            source["teacher"] = self.teacher
        return {**texts, "kind": self.kind, "language": self.language, "source": source}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Pair:
        """The pair of a row that `row` made; "document" may stand beside what that gives."""
        source = row["source"]
        texts = {name: row[name] for name in ("instruction", "input", "output", "kind", "language")}
        span = (int(source["span"][0]), int(source["span"][1]))
        names = {name: source[name] for name in ("repo", "commit", "path", "licence")}
        more = {"teacher": source.get("teacher", ""), "document": row.get("document", "")}
        return cls(**texts, span=span, **names, **more)


def _flat(text: str) -> str:
    return _BLANKS.sub(" ", text).strip()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
