"""Instructions from a corpus: every document and change is asked, the answers are chosen among."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codetune.artifacts import home
from codetune.dataset.instruct.changes import ChangePairs
from codetune.dataset.instruct.code import dedented, without_doc
from codetune.dataset.instruct.config import InstructionOptions
from codetune.dataset.instruct.extraction import Asking, Extracted, Extracting, Place
from codetune.dataset.instruct.links import Links
from codetune.dataset.instruct.output import InstructionFiles
from codetune.dataset.instruct.pairs import KINDS, Pair
from codetune.dataset.instruct.phrasing import phrase
from codetune.dataset.instruct.prose import cleaned
from codetune.dataset.instruct.select import Pool
from codetune.dataset.windows import WindowSet
from codetune.progress import Progress
from codetune.records import Document
from codetune.syntax.definitions import Definition
from codetune.tables import read_rows
from codetune.workers import Workers

Batches = Callable[[], Iterable[list[Document]]]


@dataclass
class Made:
    """How many instructions of each kind there are, and why others are not."""

    kinds: Counter[str] = field(default_factory=Counter)
    characters: int = 0  # of questions, inputs and answers
    dropped: Counter[str] = field(default_factory=Counter)
    teacher: dict[str, object] = field(default_factory=dict)

    def summary(self) -> dict[str, Mapping[str, object]]:
        """The dataset's summary of its instructions."""
        return {
            "instructions": {kind: self.kinds[kind] for kind in KINDS if self.kinds[kind]},
            "instructions_dropped": dict(self.dropped.most_common()),
            **({"teacher": self.teacher} if self.teacher else {}),
        }


@dataclass
class InstructionMaker:
    """Makes the instructions of one dataset; `documents` can be read more than once."""

    documents: Batches
    seed: int
    commit: str | None
    options: InstructionOptions
    workers: Workers
    changes: Path | None = None
    held_out: WindowSet | None = None
    progress: Progress = field(default_factory=Progress)

    def write(self, folder: Path) -> Made:
        """Write `sft.jsonl` and `sft_readable.json`."""
        made = Made()
        with InstructionFiles(folder) as files:
            for pair in self._worded(self.pairs(folder, made), made):
                files.add(pair.row())
                made.characters += pair.size
        return made

    def _worded(self, pairs: Iterator[Pair], made: Made) -> Iterator[Pair]:
        """The pairs, some of them in a teacher's words if one is wanted."""
        if self.options.teacher.url is None:
            yield from pairs
            return
        from codetune.dataset.teacher.rewording import Teacher  # httpx takes time to import

        teacher = Teacher(self.options.teacher, home() / "teacher", self.progress)
        yield from teacher.reword(list(pairs))
        made.teacher = teacher.outcome.summary()

    def pairs(self, folder: Path, made: Made | None = None) -> Iterator[Pair]:
        """The chosen pairs, kind by kind; `folder` takes a temporary file, `made` the counts."""
        made = made or Made()
        with Pool(folder / ".candidates.jsonl", self.seed, self.options) as pool:
            self._fill(pool, made)
            for pair in pool.chosen(self.held_out):
                made.kinds[pair.kind] += 1
                yield pair
            made.dropped += pool.dropped

    def _fill(self, pool: Pool, made: Made) -> None:
        places: list[Place] = []
        tests: list[Asking] = []
        sections: list[Asking] = []
        arguments = (self.seed, self.commit, self.options)
        for extracted in self.workers.map(Extracting, arguments, iter(self.documents())):
            _take(extracted, pool, made)
            places += extracted.places
            tests += extracted.tests
            sections += extracted.sections
        links = Links(places)
        pairs = LinkedPairs(self.documents, self.seed, self.commit)
        wanted = [(asked, place, "test") for asked, place in links.tests(tests)]
        wanted += [(asked, place, "explain section") for asked, place in links.sections(sections)]
        made.dropped["function_not_found"] += len(tests) - sum(k == "test" for *_, k in wanted)
        linked = Extracted()
        for pair in pairs.of(wanted):
            linked.add(pair, self.options)
        _take(linked, pool, made)
        if self.changes is not None and self.changes.exists():
            rows = _runs(read_rows(self.changes))
            for extracted in self.workers.map(ChangePairs, (self.seed, self.options), rows):
                _take(extracted, pool, made)


class LinkedPairs:
    """Pairs whose question and answer stand in two files."""

    def __init__(self, documents: Batches, seed: int, commit: str | None) -> None:
        self._documents, self._seed, self._commit = documents, seed, commit

    def of(self, wanted: list[tuple[Asking, Place, str]]) -> Iterator[Pair]:
        """The pairs, in the order of the answers' files."""
        places = {place for _, place, _ in wanted}
        code: dict[Place, str] = {}
        by_document: dict[str, list[Place]] = {}
        for place in places:
            by_document.setdefault(place.document, []).append(place)
        asked: dict[str, list[tuple[Asking, Place, str]]] = {}
        for entry in wanted:
            asked.setdefault(entry[0].document, []).append(entry)
        for document in self._each():
            for place in by_document.get(document.id, ()):
                code[place] = _code(document.text, place)
        for document in self._each():
            for asking, place, kind in asked.get(document.id, ()):
                yield self._pair(document, asking, place, kind, code[place])

    def _each(self) -> Iterator[Document]:
        for batch in self._documents():
            yield from batch

    def _pair(self, document: Document, asking: Asking, place: Place, kind: str, code: str) -> Pair:
        answer = dedented(document.text, asking.whole)
        key = f"{asking.document}{asking.whole}"
        names = {"what": place.what, "name": place.qualified, "path": place.path}
        names["test"] = asking.name.rpartition(".")[2] if "." in asking.name else asking.name
        return Pair(
            kind.partition(" ")[0],
            phrase(kind, self._seed, key, **names),
            code,
            cleaned(answer) if kind == "explain section" else answer,
            document.repo,
            document.path,
            asking.whole,
            document.licence,
            document.language,
            self._commit,
            names=place.qualified,
            document=document.id,
        )


def _code(text: str, place: Place) -> str:
    name = place.qualified
    return without_doc(text, Definition(place.what, name, name, place.whole, place.doc, None))


def _take(extracted: Extracted, pool: Pool, made: Made) -> None:
    for pair in extracted.pairs:
        pool.add(pair)
    made.dropped += extracted.dropped


def _runs(rows: Iterator[dict[str, Any]], size: int = 500_000) -> Iterator[list[dict[str, Any]]]:
    """Rows in runs of about `size` characters."""
    run: list[dict[str, Any]] = []
    length = 0
    for row in rows:
        run.append(row)
        length += len(row["before"]) + len(row["after"])
        if length >= size:
            yield run
            run, length = [], 0
    if run:
        yield run


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of an `sft.jsonl` in order, one in memory at a time."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Pair.of_row(json.loads(line))
