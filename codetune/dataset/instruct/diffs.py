"""Unified diffs, made and read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_AROUND = 12  # lines before and behind the changed ones that an excerpt shows
_HUNK = re.compile(r"^@@ -(\d+)((?:,\d+)?) \+(\d+)((?:,\d+)?) @@")


def unified(old: Sequence[str], new: Sequence[str], path: str) -> tuple[str, int, int]:
    """The unified diff, and the first and last changed line of `old`; "" for no difference.

    Lines that both versions begin or end with are left out before comparing, which would cost
    the square of them.
    """
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    if head == len(old) == len(new):
        return "", 0, 0
    first, kept = max(head - 3, 0), max(tail - 3, 0)
    lines = difflib.unified_diff(
        old[first : len(old) - kept],
        new[first : len(new) - kept],
        f"a/{path}",
        f"b/{path}",
        lineterm="",
    )

    def moved(match: re.Match[str]) -> str:
        before, after = int(match[1]) + first, int(match[3]) + first
        return f"@@ -{before}{match[2]} +{after}{match[4]} @@"

    return "\n".join(_HUNK.sub(moved, line) for line in lines), head, len(old) - tail


def excerpt(old: Sequence[str], first: int, last: int, longest: int) -> str | None:
    """The file, or the lines around the change with a note which they are; None if too long."""
    whole = "\n".join(old)
    if len(whole) <= longest:
        return whole
    begin, end = max(first - _AROUND, 0), min(last + _AROUND, len(old))
    part = f"(lines {begin + 1} to {end} of {len(old)})\n" + "\n".join(old[begin:end])
    return part if len(part) <= longest else None


def unmarked(text: str) -> str:
    """The text with the marks of a diff in it taken away: `+ a` is ` a`, and headers are gone.

    A text without a diff stays as it is.
    """
    start = 0 if text.startswith("--- a/") else text.find("\n--- a/") + 1
    if start == 0 and not text.startswith("--- a/"):
        return text
    lines = text[start:].split("\n")
    code = [line[1:] if line[:1] in ("+", "-", " ") else line for line in lines]
    return text[:start] + "\n".join(
        bare
        for bare, line in zip(code, lines, strict=True)
        if not line.startswith(("@@ ", "--- a/", "+++ b/"))
    )
