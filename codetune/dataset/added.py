"""The code that was added to a file since its past version: a line diff, as git shows it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_MOST_LINES = 5000  # of the part that changed; above it a diff says little
_SAME = 0.8  # a replaced run of lines this similar to the old one was edited, not added


def added_regions(old: str, new: str, *, minimum_lines: int) -> list[tuple[int, int]]:
    """Character ranges of `new`, whole lines, that were added to `old`.

    A run counts with at least `minimum_lines` lines that are not blank. Lines that took the
    place of nearly the same ones are an edit and are left out: training has seen them.
    """
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    head = _common(before, after)
    tail = _common(before[head:][::-1], after[head:][::-1])
    a, b = before[head : len(before) - tail], after[head : len(after) - tail]
    if len(a) > _MOST_LINES or len(b) > _MOST_LINES:
        return []
    starts = [0]
    for line in after:
        starts.append(starts[-1] + len(line))
    regions = []
    for tag, a1, a2, b1, b2 in difflib.SequenceMatcher(None, a, b).get_opcodes():
        if tag not in ("insert", "replace"):
            continue
        if sum(bool(line.strip()) for line in b[b1:b2]) < minimum_lines:
            continue
        if tag == "replace" and _similar("".join(a[a1:a2]), "".join(b[b1:b2])):
            continue
        regions.append((starts[head + b1], starts[head + b2]))
    return regions


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines are equal at the beginning."""
    for count, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return count
    return min(len(one), len(other))


def _similar(old: str, new: str) -> bool:
    """Whether at least `_SAME` of the words of `new` stand, in order, in `old`."""
    before, after = old.split(), new.split()
    matcher = difflib.SequenceMatcher(None, before, after)
    equal = sum(block.size for block in matcher.get_matching_blocks())
    return equal >= _SAME * max(len(after), 1)
