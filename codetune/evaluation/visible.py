"""Repository text made safe to show: markup is escaped, and what hides is made visible.

A report shows other people's text. It must not run, fetch or reorder anything, and characters
that an editor does not show (bidirectional controls, zero-width letters) appear as ⟨U+202E⟩.
"""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape

# Letters and symbols by category, yet blank on every screen.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"})
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#!|~>@])")


def is_hidden(character: str) -> bool:
    """Would a reader not see this character, or see others moved by it?"""
    if character in "\n\t":
        return False
    if character in _BLANK or 0xFE00 <= ord(character) <= 0xFE0F:  # variation selectors
        return True
    return unicodedata.category(character) in _HIDDEN_CATEGORIES


def named(character: str) -> str:
    """⟨U+202E⟩"""
    return f"⟨U+{ord(character):04X}⟩"


def visible(text: str) -> str:
    """`text` with each hidden character replaced by its name."""
    return _SUSPECT.sub(lambda m: named(m[0]) if is_hidden(m[0]) else m[0], text)


def html(text: str) -> Markup:
    """`text` escaped for HTML; a hidden character's name carries a title that explains it."""
    parts: list[str] = []
    start = 0
    for match in _SUSPECT.finditer(text):
        if is_hidden(match[0]):
            name = unicodedata.name(match[0], "a control or unassigned character")
            parts += [escape(text[start : match.start()])]
            parts += [f'<span class="hidden" title="{escape(name)}">{named(match[0])}</span>']
            start = match.end()
    return Markup("".join([*parts, escape(text[start:])]))  # noqa: S704  every part is escaped


def markdown(text: str) -> str:
    """`text` as one line of Markdown that renders as itself."""
    line = " ".join(visible(text).split("\n"))
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    return _MARKDOWN.sub(r"\\\1", line)


def fenced(text: str, language: str = "") -> str:
    """`text` as a Markdown code block; its fence is longer than any inside."""
    runs = [len(run) for run in re.findall(r"`+", text)]
    fence = "`" * max(3, max(runs, default=0) + 1)
    word = language if re.fullmatch(r"[a-z0-9+#-]*", language) else ""
    return f"{fence}{word}\n{visible(text)}\n{fence}"
