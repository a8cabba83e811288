"""Pairs from definitions: explanation, documentation, completion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from codetune.dataset.catalogue import seeded
from codetune.dataset.instruct.pairs import Pair
from codetune.dataset.instruct.phrasing import phrase
from codetune.records import Document
from codetune.syntax.comments import comment_text, description_of
from codetune.syntax.definitions import Definition, Range
from codetune.syntax.test_cases import is_test_path

_FORMS = {
    "python": "docstring",
    "java": "Javadoc comment",
    "javascript": "JSDoc comment",
    "typescript": "JSDoc comment",
    "tsx": "JSDoc comment",
}
_CALLABLE = frozenset({"function", "method", "constructor"})
_FEWEST_LINES = 3  # of a body that is worth completing
_LINES_TO_CUT = 7  # of a body that is cut inside


class CodePairs:
    """Makes the pairs of one document's definitions."""

    def __init__(self, seed: int, commit: str | None) -> None:
        self._seed, self._commit = seed, commit

    def of(self, document: Document, found: list[Definition]) -> Iterator[Pair]:
        """Explanations, documentation and completions, in the order of the file."""
        for one in found:
            if one.is_test:
                continue
            if one.doc is not None:
                yield from self._documented(document, one, one.doc)
            if one.kind in _CALLABLE and one.body and not is_test_path(document.path):
                yield from self._completion(document, one, one.body)
        yield from self._module(document)

    def _documented(self, document: Document, one: Definition, doc: Range) -> Iterator[Pair]:
        raw = dedented(document.text, doc)
        said = description_of(comment_text(raw, document.language))
        code = without_doc(document.text, one)
        kind = "explain" if one.kind in _CALLABLE else "explain type"
        yield self._pair(document, one, kind, code, said, doc)
        form = _FORMS.get(document.language, "doc comment")
        yield self._pair(document, one, "document", code, raw, doc, form=form)

    def _completion(self, document: Document, one: Definition, body: Range) -> Iterator[Pair]:
        text, start = document.text, one.whole[0]
        lines = [n for n in range(body[0], body[1]) if text[n] == "\n"]
        if len(lines) < _FEWEST_LINES - 1:
            return
        chance = seeded(self._seed, "cut", document.id, one.whole)
        documented = one.doc is not None
        if not documented and len(lines) >= _LINES_TO_CUT:
            cut = lines[int(len(lines) * chance.uniform(0.25, 0.6))] + 1
            kind = "complete rest"
        else:
            cut, kind = _past_line_end(text, body), "complete body"
        first = min(start, one.doc[0]) if one.doc else start
        given, rest = dedented(text, (first, cut)), dedented(text, (cut, body[1]), at=start)
        yield self._pair(document, one, kind, given.rstrip("\n"), rest, (cut, body[1]))

    def _pair(
        self,
        document: Document,
        one: Definition,
        kind: str,
        given: str,
        answer: str,
        span: Range,
        **names: str,
    ) -> Pair:
        key = f"{document.id}{one.whole}"
        names = {"what": one.kind, "name": one.qualified, "path": document.path} | names
        return Pair(
            kind.partition(" ")[0],
            phrase(kind, self._seed, key, **names),
            given,
            answer,
            document.repo,
            document.path,
            span,
            document.licence,
            document.language,
            self._commit,
            names=f"{one.qualified} {signature_of(document.text, one)}",
            document=document.id,
        )

    def _module(self, document: Document) -> Iterator[Pair]:
        """A module's own documentation as the answer to what it is for."""
        doc = module_doc(document.text, document.language)
        if doc is None:
            return
        said = description_of(comment_text(document.text[slice(*doc)], document.language))
        yield Pair(
            "explain",
            phrase("explain module", self._seed, document.id, path=document.path),
            "",
            said,
            document.repo,
            document.path,
            doc,
            document.licence,
            document.language,
            self._commit,
            names=PurePosixPath(document.path).stem,
            document=document.id,
        )


def module_doc(text: str, language: str) -> Range | None:
    """Where a file documents itself: Python's first docstring, Rust's `//!`, Go's package doc."""
    if language == "python":
        start = len(text) - len(text.lstrip())
        while text.startswith("#", start):
            start = text.find("\n", start) + 1 or len(text)
            start += len(text[start:]) - len(text[start:].lstrip())
        for quotes in ('"""', "'''"):
            if text.startswith(quotes, start):
                end = text.find(quotes, start + 3)
                return (start, end + 3) if end > 0 else None
        return None
    mark, stop = {"rust": ("//!", ""), "go": ("// Package ", "package ")}.get(language, ("", ""))
    if not mark:
        return None
    start = text.find(mark) if text[:3000].find(mark) >= 0 else -1
    if start < 0 or (start > 0 and text[start - 1] != "\n"):
        return None
    end = start
    lead = mark.split()[0]
    while text.startswith(lead, end):
        end = text.find("\n", end) + 1 or len(text)
    if stop and not text.startswith(stop, end):
        return None
    return start, end


def dedented(text: str, span: Range, at: int | None = None) -> str:
    """`text[span]` without the indentation of the line that `at` (or its start) stands on."""
    place = span[0] if at is None else at
    line = text.rfind("\n", 0, place) + 1
    indent = text[line:place]
    piece = text[slice(*span)]
    if not indent or indent.strip():
        return piece
    if at is not None:
        piece = piece.removeprefix(indent)
    return piece.replace("\n" + indent, "\n")


def without_doc(text: str, one: Definition) -> str:
    """A definition's code, without its docstring where it has one inside."""
    doc, (start, end) = one.doc, one.whole
    if doc is None or doc[0] < start:
        return dedented(text, one.whole)
    line = text.rfind("\n", 0, doc[0]) + 1
    after = text.find("\n", doc[1]) + 1 or end
    while after < end and (blank := text.find("\n", after, end)) >= 0:
        if text[after:blank].strip():
            break
        after = blank + 1
    cut = max(line, start), min(after, end)
    return dedented(text, (start, cut[0])) + dedented(text, (cut[1], end), at=start)


def signature_of(text: str, one: Definition) -> str:
    """What stands before the body, or the whole first line."""
    start, end = one.whole
    if one.doc is not None and one.doc[0] >= start:
        return text[start : one.doc[0]]
    return text[start : one.body[0] if one.body else text.find("\n", start, end)][:400]


def _past_line_end(text: str, body: Range) -> int:
    """The body's start, or that of its next line if nothing more stands on this one."""
    line_end = text.find("\n", body[0], body[1])
    if line_end >= 0 and not text[body[0] : line_end].strip():
        return line_end + 1
    return body[0]
