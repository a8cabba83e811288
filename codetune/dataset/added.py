"""The code that was added to a file since its past version: a line diff, as git shows it.

Lines that occur once in both versions anchor the diff (Bram Cohen's patience diff); between two
anchors, what is left is short and `difflib` compares it.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

_MOST_PAIRS = 1_000_000  # of lines between two anchors; a diff of more says little and takes long
_SAME = 0.8  # a replaced run of lines this similar to the old one was edited, not added

Block = tuple[int, int, int, int]  # old lines first..last, new lines first..last


def added_regions(old: str, new: str, *, minimum_lines: int) -> list[tuple[int, int]]:
    """Character ranges of `new`, whole lines, that were added to `old`.

    A run counts with at least `minimum_lines` lines that are not blank. Lines that took the
    place of nearly the same ones are an edit and are left out: training has seen them.
    """
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    starts = [0]
    for line in after:
        starts.append(starts[-1] + len(line))
    regions = []
    for a1, a2, b1, b2 in _changes(before, after):
        if sum(bool(line.strip()) for line in after[b1:b2]) < minimum_lines:
            continue
        if a2 > a1 and _similar("".join(before[a1:a2]), "".join(after[b1:b2])):
            continue
        regions.append((starts[b1], starts[b2]))
    return regions


def _changes(old: Sequence[str], new: Sequence[str]) -> Iterator[Block]:
    """The runs of lines that differ and are not just gone."""
    for a1, a2, b1, b2 in _between_anchors(old, new):
        if (a2 - a1) * (b2 - b1) > _MOST_PAIRS:
            continue
        matcher = difflib.SequenceMatcher(None, old[a1:a2], new[b1:b2], autojunk=False)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes():
            if tag in ("insert", "replace"):
                yield a1 + i1, a1 + i2, b1 + j1, b1 + j2


def _between_anchors(old: Sequence[str], new: Sequence[str]) -> Iterator[Block]:
    once_old, once_new = Counter(old), Counter(new)
    places = {line: n for n, line in enumerate(new) if once_new[line] == 1}
    pairs = [
        (n, places[line]) for n, line in enumerate(old) if once_old[line] == 1 and line in places
    ]
    a = b = 0
    for i, j in [*_increasing(pairs), (len(old), len(new))]:
        if j > b:
            yield a, i, b, j
        a, b = i + 1, j + 1


def _increasing(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest run of pairs, in their order, whose second numbers grow (patience sorting)."""
    ends: list[int] = []  # the smallest second number that ends a run of each length
    last: list[int] = []  # its pair
    previous = [-1] * len(pairs)
    for number, (_, second) in enumerate(pairs):
        length = bisect_left(ends, second)
        previous[number] = last[length - 1] if length else -1
        ends[length : length + 1] = [second]
        last[length : length + 1] = [number]
    run = []
    number = last[-1] if last else -1
    while number >= 0:
        run.append(pairs[number])
        number = previous[number]
    return run[::-1]


def _similar(old: str, new: str) -> bool:
    """Whether at least `_SAME` of the words of `new` stand, in order, in `old`."""
    before, after = old.split(), new.split()
    matcher = difflib.SequenceMatcher(None, before, after)
    equal = sum(block.size for block in matcher.get_matching_blocks())
    return equal >= _SAME * max(len(after), 1)
