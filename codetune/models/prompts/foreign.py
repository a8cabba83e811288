"""Fill-in-the-middle markup that an editor wrote itself, often for another family's base."""

from __future__ import annotations

import re
from typing import NamedTuple


class ContextFile(NamedTuple):
    """A text from elsewhere that is shown to the model before the file at the cursor."""

    text: str
    path: str | None = None


class ForeignFim(NamedTuple):
    """The parts of a raw prompt; `repo` and `path` where its header names them.

    `context` are the files that its markup puts before the one at the cursor, the nearest first.
    """

    prefix: str
    suffix: str
    repo: str | None = None
    path: str | None = None
    context: tuple[ContextFile, ...] = ()


# prefix, suffix, middle marks. Editors send these texts; tokenizers hold other spellings.
_MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite, StableCode
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    ("<|fim▁begin|>", "<|fim▁hole|>", "<|fim▁end|>"),  # … as some editors spell it
)
_CODELLAMA = re.compile(r"^\s?▁?<PRE> (?P<prefix>.*?) ▁?<SUF>(?P<suffix>.*?) ▁?<MID>$", re.S)
_CODESTRAL = re.compile(r"^\[SUFFIX\](?P<suffix>.*?)\[PREFIX\](?P<prefix>.*)$", re.S)
_REPO = re.compile(r"(?:<\|repo_name\|>|<repo_name>|<reponame>)(?P<repo>[^\n<]*)\n?")
_FILE = re.compile(r"<\|file_sep\|>|<file_sep>|<filename>")
_PATH = re.compile(r"[^\s<>(){}\[\]'\"=;:,]*[./\\][^\s<>(){}\[\]'\"=;,]+")  # and not a line of code


def transcode(prompt: str) -> ForeignFim | None:
    """Read a raw prompt's FIM markup; None where it has none, or none that is unambiguous.

    Each mark has to occur exactly once, so that code about FIM markup is not taken for it. A
    prompt that begins with the prefix mark and ends with the middle mark may have those two in
    its text, too.
    """
    for marks in _MARKS:
        prefix, suffix, middle = marks
        if prompt.count(suffix) != 1:
            continue
        if prompt.count(prefix) == prompt.count(middle) == 1:
            return _by_marks(prompt, *marks)
        if prompt.startswith(prefix) and prompt.endswith(middle):
            before, after = prompt[len(prefix) : -len(middle)].split(suffix)
            return _with_header("", before, after)
    for pattern in (_CODELLAMA, _CODESTRAL):
        if match := pattern.match(prompt):
            return ForeignFim(match["prefix"], match["suffix"])
    return None


def _by_marks(prompt: str, prefix: str, suffix: str, middle: str) -> ForeignFim | None:
    at_prefix, at_suffix, at_middle = (prompt.index(mark) for mark in (prefix, suffix, middle))
    between = prompt[at_prefix + len(prefix) : at_suffix]
    after_suffix = prompt[at_suffix + len(suffix) : at_middle]
    after_middle = prompt[at_middle + len(middle) :]
    if not at_prefix < at_suffix < at_middle or (between and after_middle):
        return None
    # Prefix-suffix-middle ends with the middle mark; suffix-prefix-middle goes on after it.
    return _with_header(prompt[:at_prefix], between or after_middle, after_suffix)


def _with_header(header: str, prefix: str, suffix: str) -> ForeignFim:
    """What stands before the prefix mark, or, as StarCoder has it, right behind it."""
    if not header:
        if not (_REPO.match(prefix) or _FILE.match(prefix)):
            return ForeignFim(prefix, suffix)
        repo, files = _files(prefix)
        here = files.pop()
        return ForeignFim(here.text, suffix, repo, here.path, tuple(reversed(files)))
    repo, files = _files(header)
    path = None
    if not files[-1].text:
        path = files.pop().path
    files = [file for file in files if file.text.strip()]
    return ForeignFim(prefix, suffix, repo, path, tuple(reversed(files)))


def _files(text: str) -> tuple[str | None, list[ContextFile]]:
    """The repository's name and the files that a header shows; at least one, if only its text."""
    repo = _REPO.match(text)
    first, *others = _FILE.split(text[repo.end() :] if repo else text)
    files = [ContextFile(first)] if first or not others else []
    for piece in others:
        line, newline, rest = piece.partition("\n")
        named = newline and (not line or _PATH.fullmatch(line))
        files.append(ContextFile(rest, line or None) if named else ContextFile(piece))
    return (repo["repo"] or None) if repo else None, files
