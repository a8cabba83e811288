"""The part of the extraction that needs one document at a time: it runs in processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from codetune.dataset.instruct.code import CodePairs
from codetune.dataset.instruct.config import InstructionOptions
from codetune.dataset.instruct.filters import reason_against
from codetune.dataset.instruct.pairs import Pair
from codetune.dataset.instruct.prose import ProsePairs, is_documentation, named_code, sections
from codetune.records import Document
from codetune.syntax.definitions import Range, definitions
from codetune.syntax.languages import IS_CODE
from codetune.syntax.test_cases import imported_names, is_test_path, test_cases


@dataclass(frozen=True, slots=True)
class Place:
    """A definition that a test or a section may be about."""

    document: str  # id
    path: str
    language: str
    what: str
    qualified: str
    whole: Range
    doc: Range | None


@dataclass(frozen=True, slots=True)
class Asking:
    """A test or a section whose code is to be found."""

    document: str  # id
    path: str
    language: str
    name: str
    whole: Range
    calls: tuple[str, ...]
    imports: frozenset[str]


@dataclass
class Extracted:
    """What a batch of documents gives."""

    pairs: list[Pair] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    places: list[Place] = field(default_factory=list)
    tests: list[Asking] = field(default_factory=list)
    sections: list[Asking] = field(default_factory=list)

    def add(self, pair: Pair, options: InstructionOptions) -> None:
        """Keep a pair, or count why it is not kept."""
        reason = reason_against(pair, options)
        if reason is None:
            self.pairs.append(pair)
        else:
            self.dropped[reason] += 1


class Extracting:
    """Makes the pairs of documents; every process has one."""

    def __init__(self, seed: int, commit: str | None, options: InstructionOptions) -> None:
        self._options = options
        self._code = CodePairs(seed, commit)
        self._prose = ProsePairs(seed, commit)

    def __call__(self, documents: list[Document]) -> Extracted:
        made = Extracted()
        for document in documents:
            if document.language in IS_CODE:
                self._read_code(document, made)
            elif is_documentation(document):
                self._read_prose(document, made)
        return made

    def _read_code(self, document: Document, made: Extracted) -> None:
        found = definitions(document.text, document.language)
        for pair in self._code.of(document, found):
            if pair.kind in self._options.kinds:
                made.add(pair, self._options)
        if "test" in self._options.kinds:
            self._find_tests(document, made)
        if not is_test_path(document.path):
            made.places += [
                Place(document.id, document.path, document.language, one.kind,
                      one.qualified, one.whole, one.doc)
                for one in found
                if one.body and not one.is_test and not one.qualified.startswith("tests.")
            ]  # fmt: skip

    def _find_tests(self, document: Document, made: Extracted) -> None:
        cases = test_cases(document.text, document.language, document.path)
        imports = imported_names(document.text, document.language) if cases else frozenset()
        for case in cases:
            asked = Asking(
                document.id,
                document.path,
                document.language,
                case.name,
                case.whole,
                tuple(dict.fromkeys(case.calls)),
                imports,
            )
            made.tests.append(asked)

    def _read_prose(self, document: Document, made: Extracted) -> None:
        if "question" in self._options.kinds:
            for pair in self._prose.of(document):
                made.add(pair, self._options)
        if "explain" not in self._options.kinds:
            return
        for section in sections(document.text, document.language):
            name = named_code(document.text, section)
            if name is not None:
                whole = (section.start, section.end)
                made.sections.append(
                    Asking(document.id, document.path, document.language, name, whole, (name,),
                           frozenset())
                )  # fmt: skip
