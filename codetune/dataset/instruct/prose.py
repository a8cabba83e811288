"""Pairs from documentation in Markdown and reStructuredText: a heading and its section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from codetune.dataset.instruct.pairs import Pair
from codetune.dataset.instruct.phrasing import phrase
from codetune.records import Document

_NO_DOCUMENTATION = re.compile(
    r"(?i)(?:^|/)(?:changelog|changes|history|news|release|contributors|authors|maintainers|"
    r"licen[cs]e|copying|notice|code[-_]of[-_]conduct|security|backers|sponsors|upgrade|"
    r"pull_request_template|issue_template|third)[^/]*$|(?:^|/)(?:\.github|\.changeset|"
    r"release-?notes|changelogs?)/"
)
_ATX = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
_UNDERLINE = re.compile(r"^(=+|-+|~+|\^+|\"+|'+|`+|\++|\*+|#+|:+|\.+|_+)[ \t]*$")
_TO_DO = re.compile(
    r"(?:"
    r"add|build|change|check|choose|compile|configure|connect|contribute|convert|"
    r"copy|create|customise|customize|debug|define|delete|deploy|develop|disable|"
    r"download|edit|enable|exclude|export|extend|filter|find|fix|generate|get|"
    r"handle|ignore|implement|import|include|inspect|install|integrate|invoke|limit|"
    r"link|list|load|manage|migrate|modify|monitor|move|open|override|parse|pass|"
    r"prepare|print|publish|query|read|register|remove|rename|render|replace|reset|"
    r"restart|restore|restrict|retrieve|run|save|search|secure|select|send|serve|"
    r"set|share|show|specify|start|stop|store|submit|test|track|troubleshoot|"
    r"uninstall|update|upgrade|upload|use|validate|verify|view|write"
    r")$"
)
_QUESTION = re.compile(
    r"(?i)^(?:how|what|why|when|where|which|who|can|could|does|do|is|are|should|will)\b.*"
)
_LINK_IN_HEADING = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])?|<[^>]+>|\{\s*#[^}]*\}")
_NAMED = re.compile(r"`(?:[\w.]+(?:\.|::|->))?([A-Za-z_]\w{3,})(?:\([^`()]*\))?`")
_LINES_OF_LINKS = re.compile(
    r"^\s*(?:[-*+]|\d+\.)?\s*!?\[[^\]]*\]\([^)]*\)\W*$|^\s*<[^>]*>\s*$", re.M
)
_FRONT = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->|^\[//\]: #[^\n]*$", re.DOTALL | re.MULTILINE)
_RST_MARK = re.compile(r"^\.\. (?:_[^\n]*:|\[\[\[[^\n]*|\]\]\][^\n]*|index::[^\n]*)$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A heading with the text up to the next one; `start` to `end` are the text's characters."""

    heading: str
    parents: tuple[str, ...]
    start: int
    end: int


class ProsePairs:
    """Makes the pairs of one documentation file."""

    def __init__(self, seed: int, commit: str | None) -> None:
        self._seed, self._commit = seed, commit

    def of(self, document: Document) -> Iterator[Pair]:
        """A question and its answer for every section."""
        if not is_documentation(document):
            return
        for section in sections(document.text, document.language):
            answer = cleaned(document.text[section.start : section.end])
            if answer:
                yield self._pair(document, section, answer)

    def _pair(self, document: Document, section: Section, answer: str) -> Pair:
        kind, heading = _as_question(section)
        return Pair(
            "question",
            phrase(kind, self._seed, f"{document.id}{section.start}", heading=heading,
                   path=document.path),
            "",
            answer,
            document.repo,
            document.path,
            (section.start, section.end),
            document.licence,
            document.language,
            self._commit,
            names=section.heading,
            document=document.id,
        )  # fmt: skip


def is_documentation(document: Document) -> bool:
    """Whether a document is prose that tells about the repository."""
    known = document.language in ("markdown", "rst")
    return known and not _NO_DOCUMENTATION.search(document.path)


def sections(text: str, language: str) -> list[Section]:
    """The sections of a text in order; text above the first heading belongs to none."""
    front = _FRONT.match(text)
    found = list(
        _markdown_headings(text, front.end() if front else 0)
        if language == "markdown"
        else _rst_headings(text)
    )
    made, parents = [], []  # type: ignore[var-annotated]
    for number, (level, heading, _, start) in enumerate(found):
        end = found[number + 1][2] if number + 1 < len(found) else len(text)
        parents = [(n, h) for n, h in parents if n < level]
        made.append(Section(heading, tuple(h for _, h in parents), start, end))
        parents.append((level, heading))
    return [section for section in made if section.heading]


def named_code(text: str, section: Section) -> str | None:
    """The one name of code that a section is about: in its heading, or said twice or more."""
    heading = _NAMED.findall(section.heading)
    if len(set(heading)) == 1:
        return str(heading[0])
    names = _NAMED.findall(text[section.start : section.end])
    often = sorted({name for name in names if names.count(name) >= 2})
    return str(often[0]) if len(often) == 1 else None


def cleaned(text: str) -> str:
    """A section's text without HTML comments, rules and lines that are nothing but links."""
    text = _RST_MARK.sub("", _COMMENT.sub("", text))
    if len(_LINES_OF_LINKS.findall(text)) * 2 > text.count("\n") + 1:
        return ""  # a table of contents, a row of badges
    lines = text.split("\n")
    while lines and re.fullmatch(r"\s*(?:-{3,}|\*{3,}|={3,})?\s*", lines[-1]):
        lines.pop()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n").rstrip()


def _as_question(section: Section) -> tuple[str, str]:
    """Which phrases suit the heading, and how it stands in them."""
    heading = section.heading
    if _QUESTION.match(heading) and len(heading.split()) >= 3:
        if heading.endswith("?"):
            return "question asked", heading
        if re.match(r"(?i)how to\b", heading):
            return "question how", heading[7:].strip()
        return "question", heading
    first = heading.partition(" ")[0].lower()
    if _TO_DO.match(first) and len(heading.split()) >= 2:
        return "question how", heading[0].lower() + heading[1:].rstrip(".")
    above = [h for h in section.parents[-1:] if h != heading]
    return "question", " › ".join([*above, heading])


def _markdown_headings(text: str, at: int) -> Iterator[tuple[int, str, int, int]]:
    """(level, heading, where its line starts, where its section starts), outside code fences."""
    fence, previous, previous_at = "", "", at
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end]
        mark = _FENCE.match(line)
        if mark and (not fence or (line.strip() == mark[1] and mark[1].startswith(fence))):
            fence = "" if fence else mark[1]
        elif not fence:
            heading = _ATX.match(line)
            under = re.match(r"^(=+|-{2,})[ \t]*$", line)
            if heading:
                yield len(heading[1]), _plain(heading[2]), at, min(end + 1, len(text))
            elif under and _is_title(previous):
                level = 1 if under[1][0] == "=" else 2
                yield level, _plain(previous), previous_at, min(end + 1, len(text))
        previous, previous_at = ("" if fence else line), at
        at = end + 1


def _rst_headings(text: str) -> Iterator[tuple[int, str, int, int]]:
    """A line that is underlined for its whole length; levels by first use of the underlining."""
    levels: dict[str, int] = {}
    lines, at = text.split("\n"), 0
    previous, previous_at = "", 0
    for line in lines:
        under = _UNDERLINE.match(line)
        long = len(line.rstrip()) >= len(previous.rstrip()) > 0
        if under and long and not previous[0].isspace() and not _UNDERLINE.match(previous):
            level = levels.setdefault(line[0], len(levels) + 1)
            heading = re.sub(r":\w+:`([^`<]*)(?: <[^`]*>)?`", r"\1", previous)
            yield level, _plain(heading), previous_at, min(at + len(line) + 1, len(text))
        previous, previous_at = line, at
        at += len(line) + 1


def _is_title(line: str) -> bool:
    """Whether a line above a row of dashes is a title, not a table's or list's or YAML's line."""
    return bool(re.match(r"^[^\s|>#*+:-][^|]{1,100}$", line)) and not line.endswith((":", ",", "."))


def _plain(heading: str) -> str:
    """A heading without links, images and emphasis."""
    text = _LINK_IN_HEADING.sub(r"\1", heading)
    text = re.sub(r"(\*\*|__|\*)(.+?)\1", r"\2", text)
    text = re.sub(r"^[\d.]+\s+|^[^\w`\"'(]+|:$", "", text.replace("\\", ""))
    return text.strip() if len(text) <= 150 else ""


def folder_of(path: str) -> str:
    """The folder of a path."""
    return str(PurePosixPath(path).parent)
