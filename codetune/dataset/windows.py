"""What counts as a leak, for the splitter that removes leaks and the check that looks for them.

A leak is a run of 32 consecutive tokens of held-out text that stands in a training document.
Tokens are words and single marks; blanks and line breaks do not count, so reindenting hides
nothing. Lines that every file has are left out before counting: lines without any letter or
digit (`}`, `);`), lines of a single word (`return`, `else:`), imports and includes. A run needs
at least eight different tokens, so that a table of zeros is none. Thirty-two such tokens are
about three full lines: shorter matches are idiom, not memory.

Windows are compared by 64-bit polynomial hashes (Karp and Rabin 1987), so that a training
corpus of any size streams past a small set of held-out windows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LENGTH = 32  # tokens of a window
DIFFERENT = 8  # tokens in it that differ, at least

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

_WORD = np.zeros(256, dtype=np.bool_)
_WORD[[b for b in range(256) if b >= 128 or chr(b).isalnum() or b == ord("_")]] = True
_BLANK = np.zeros(256, dtype=np.bool_)
_BLANK[list(b" \t\r\n\f\v\0")] = True
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_FILTER_BITS = 24
_TRIVIAL = re.compile(
    rb"^[^\w\n\x80-\xff]*(?:[\w\x80-\xff]+[^\w\n\x80-\xff]*)?$"  # one word at most
    rb"|^[ \t]*(?:import|from|use|using|package|require|include|export \*|#[ \t]*include)\b[^\n]*$",
    re.M,
)


@dataclass(frozen=True)
class Windows:
    """The windows of one text: `hashes[i]` is the one over the UTF-8 bytes `starts[i]:ends[i]`."""

    hashes: Hashes
    starts: Offsets
    ends: Offsets


def windows_of(text: str) -> Windows:
    """Every window of `text`; one that is shorter than a window has none: it cannot leak."""
    return _windows(text)[0]


def telling_windows(text: str, over: Sequence[tuple[int, int]] | None = None) -> Windows:
    """The windows of held-out `text` that have enough different tokens to say anything.

    With `over`, only those that overlap one of these ranges of characters.
    """
    windows, tokens = _windows(text)
    kept = np.ones(len(windows.hashes), np.bool_)
    if over is not None:
        kept[:] = False
        for start, end in over:
            first = len(text[:start].encode("utf-8", "replace"))
            last = first + len(text[start:end].encode("utf-8", "replace"))
            kept |= (windows.starts < last) & (windows.ends > first)
    if kept.any():
        views = np.lib.stride_tricks.sliding_window_view(tokens, LENGTH)
        ordered = np.sort(views[kept], axis=1)
        kept[kept] = (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) + 1 >= DIFFERENT
    return Windows(windows.hashes[kept], windows.starts[kept], windows.ends[kept])


def _windows(text: str) -> tuple[Windows, Hashes]:
    """All windows, and the tokens they are made of."""
    data = text.encode("utf-8", "replace")
    tokens, starts, ends = _tokens(data)
    count = len(tokens) - LENGTH + 1
    if count <= 0:
        empty = np.empty(0, np.int64)
        return Windows(np.empty(0, np.uint64), empty, empty), tokens
    sums = np.zeros(len(tokens) + 1, np.uint64)
    np.cumsum(tokens * _powers(_BASE, len(tokens)), out=sums[1:])
    hashes = (sums[LENGTH:] - sums[:-LENGTH]) * _powers(_INVERSE, count)
    return Windows(hashes, starts[:count], ends[LENGTH - 1 :]), tokens


class WindowSet:
    """Held-out windows; `mark` what a training text holds of them, then ask `marked`."""

    def __init__(self, hashes: Iterable[Hashes]) -> None:
        self._hashes = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))
        self._marked = np.zeros(len(self._hashes), np.bool_)
        self._filter = np.zeros(1 << _FILTER_BITS, np.bool_)
        self._filter[self._hashes >> np.uint64(64 - _FILTER_BITS)] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, text: str) -> Offsets:
        """The numbers of the windows that stand in `text`."""
        hashes = windows_of(text).hashes
        # One look into a small table spares nearly every window the binary search.
        hashes = hashes[self._filter[hashes >> np.uint64(64 - _FILTER_BITS)]]
        if not len(hashes) or not len(self._hashes):
            return np.empty(0, np.int64)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.unique(places[self._hashes[places] == hashes])

    def mark(self, numbers: Offsets) -> None:
        """Remember windows that `find` found."""
        self._marked[numbers] = True

    def marked(self, windows: Windows) -> npt.NDArray[np.bool_]:
        """Which of these windows, all of them members, have been marked."""
        if not len(windows.hashes):
            return np.empty(0, np.bool_)
        return self._marked[np.searchsorted(self._hashes, windows.hashes)]


def _tokens(data: bytes) -> tuple[Hashes, Offsets, Offsets]:
    """Hash, first byte and end of every token on a line that tells something."""
    # Blanked out, not cut out: offsets stay those of the text.
    data = _TRIVIAL.sub(lambda match: b" " * len(match[0]), data)
    codes = np.frombuffer(data, np.uint8)
    if not len(codes):
        empty = np.empty(0, np.int64)
        return np.empty(0, np.uint64), empty, empty
    word, blank = _WORD[codes], _BLANK[codes]
    begins = ~blank
    begins[1:] &= ~(word[1:] & word[:-1])
    stops = np.flatnonzero(~blank & np.append(begins[1:] | blank[1:], True)) + 1
    starts = np.flatnonzero(begins)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * _powers(_BASE, len(codes)), out=sums[1:])
    inverses = _powers(_INVERSE, len(codes))
    mixed = (sums[stops] - sums[starts]) * inverses[starts]
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(32)
    return mixed, starts, stops


_POWERS: dict[int, Hashes] = {}


def _powers(base: int, count: int) -> Hashes:
    """`base`^0, `base`^1 … modulo 2^64; the longest run asked for is kept."""
    known = _POWERS.get(base)
    if known is None or len(known) < count:
        steps = np.full(max(count, 1 << 18), base, np.uint64)
        steps[0] = 1
        known = _POWERS[base] = np.cumprod(steps, dtype=np.uint64)
    return known[:count]
