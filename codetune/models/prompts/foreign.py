"""Fill-in-the-middle markup that an editor wrote itself, often for another family's base."""

from __future__ import annotations

import re
from typing import NamedTuple


class ForeignFim(NamedTuple):
    """The parts of a raw prompt; `repo` and `path` where its header names them."""

    prefix: str
    suffix: str
    repo: str | None = None
    path: str | None = None


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
_HEADERS = (
    re.compile(r"<\|repo_name\|>(?P<repo>[^\n]*)\n.*<\|file_sep\|>(?P<path>[^\n]*)\n", re.S),
    re.compile(r"<repo_name>(?P<repo>[^\n<]*)\n?.*<file_sep>(?P<path>[^\n]*)\n", re.S),
    re.compile(r"<reponame>(?P<repo>[^\n<]*)\n?.*<filename>(?P<path>[^\n]*)\n", re.S),
    re.compile(r"(?P<repo>)(?:<\|file_sep\|>|<file_sep>|<filename>)(?P<path>[^\n]*)\n"),
)


def transcode(prompt: str) -> ForeignFim | None:
    """Read a raw prompt's FIM markup; None where it has none, or none that is unambiguous.

    Each mark has to occur exactly once, so that code about FIM markup is not taken for it.
    Files that other marks put before the one at the cursor are left out.
    """
    for marks in _MARKS:
        if all(prompt.count(mark) == 1 for mark in marks):
            return _by_marks(prompt, *marks)
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
    repo, path, inner = _header(prompt[:at_prefix])
    if not inner and repo is path is None:
        repo, path, between = _header(between)
    return ForeignFim(between or after_middle, after_suffix, repo, path)


def _header(text: str) -> tuple[str | None, str | None, str]:
    """Repository, path, and what of `text` stands after the header that names them."""
    for pattern in _HEADERS:
        if match := pattern.match(text):
            rest = text[match.end() :]
            return match["repo"] or None, match["path"] or None, rest
    return None, None, text
