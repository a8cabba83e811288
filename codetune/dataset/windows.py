"""What counts as a leak, for the splitter that removes leaks and the check that looks for them.

A leak is a run of 32 consecutive tokens of held-out text that stands in a training document.
Tokens are words and single marks; blanks and line breaks do not count, so reindenting hides
nothing. Lines that every file has are left out before counting: lines without any letter or
digit (`}`, `);`), lines of a single word (`return`, `else:`), imports and includes. A run needs
at least eight different tokens, so that a table of zeros is none. Thirty-two such tokens are
about three full lines: shorter matches are idiom, not memory.

Windows are compared by 64-bit polynomial hashes (Karp and Rabin 1987), so that a training
corpus of any size streams past a small set of held-out windows. Many texts are looked through
at once: what a library call costs would otherwise be most of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LENGTH = 32  # tokens of a window
DIFFERENT = 8  # tokens in it that differ, at least

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

_MARK, _WORD, _BREAK = 1, 2, 3  # kinds of bytes; 0 is a blank
_KINDS = np.full(256, _MARK, np.uint8)
_KINDS[[b for b in range(256) if b >= 128 or chr(b).isalnum() or b == ord("_")]] = _WORD
_KINDS[list(b" \t\r\f\v\0")] = 0
_KINDS[ord("\n")] = _BREAK
_MASKS = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)  # of the first bytes
_ODD = np.uint64(0x9E3779B97F4A7C15)
_LONGEST = 256  # bytes of a word that count, beside its length
_BLOCK = 1 << 16  # bytes that are looked through at once: what a processor's cache holds
_BORDER = b"\n\x1e end of text \x1e\n"  # between two of them: no window reaches over it
_FILTER_BITS = 22


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
    tokens, starts, ends = _tokens(text.encode("utf-8", "replace"))
    hashes = _rolled(tokens)
    return Windows(hashes, starts[: len(hashes)], ends[LENGTH - 1 :]), tokens


def _rolled(tokens: Hashes) -> Hashes:
    """The hash of every run of `LENGTH` tokens, from those of runs half as long."""
    width, power = 1, int(_ODD)
    while width < LENGTH:
        tokens = tokens[:-width] * np.uint64(power) + tokens[width:]
        width, power = 2 * width, power * power % (1 << 64)
    return tokens


class WindowSet:
    """Held-out windows; `mark` what a training text holds of them, then ask `marked`."""

    def __init__(self, hashes: Iterable[Hashes]) -> None:
        self._hashes = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))
        self._marked = np.zeros(len(self._hashes), np.bool_)
        self._filter = np.zeros(1 << _FILTER_BITS, np.bool_)
        self._filter[self._hashes >> np.uint64(64 - _FILTER_BITS)] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, texts: Iterable[bytes]) -> Offsets:
        """The numbers of the windows that stand in one of the texts, which are UTF-8."""
        found = [self._find(_rolled(_tokens(block)[0])) for block in _blocks(texts)]
        return np.unique(np.concatenate([np.empty(0, np.int64), *found]))

    def _find(self, hashes: Hashes) -> Offsets:
        # One look into a small table spares nearly every window the binary search.
        hashes = hashes[self._filter[hashes >> np.uint64(64 - _FILTER_BITS)]]
        if not len(hashes) or not len(self._hashes):
            return np.empty(0, np.int64)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        found: Offsets = places[self._hashes[places] == hashes]
        return found

    def mark(self, numbers: Offsets) -> None:
        """Remember windows that `find` found."""
        self._marked[numbers] = True

    def marked(self, windows: Windows) -> npt.NDArray[np.bool_]:
        """Which of these windows, all of them members, have been marked."""
        if not len(windows.hashes):
            return np.empty(0, np.bool_)
        return self._marked[np.searchsorted(self._hashes, windows.hashes)]


def _blocks(texts: Iterable[bytes]) -> Iterator[bytes]:
    run: list[bytes] = []
    size = 0
    for text in texts:
        run.append(text)
        size += len(text)
        if size >= _BLOCK:
            yield _BORDER.join(run)
            run, size = [], 0
    yield _BORDER.join(run)


def _tokens(data: bytes) -> tuple[Hashes, Offsets, Offsets]:
    """Hash, first byte and end of every token on a line that tells something."""
    kinds = _KINDS[np.frombuffer(data, np.uint8)]
    word = kinds == _WORD
    inside = word[1:] & word[:-1]  # from one byte to the next, within a word
    begins, stops = kinds > 0, kinds > 0
    begins[1:] &= ~inside
    stops[:-1] &= ~inside
    starts, ends = np.flatnonzero(begins), np.flatnonzero(stops) + 1
    hashes = _hashes(data, starts, ends)
    kept = _telling(kinds[starts], hashes)
    return hashes[kept], starts[kept], ends[kept]


def _hashes(data: bytes, starts: Offsets, ends: Offsets) -> Hashes:
    """Of every token, eight bytes at a time."""
    # Every byte offset seen as a little-endian 64-bit word, without copying.
    words = np.ndarray((len(data) + 1,), "<u8", buffer=data + bytes(8), strides=(1,))
    lengths = ends - starts
    mixed = _mixed(words[starts] & _MASKS[np.minimum(lengths, 8)])
    longer, done = np.flatnonzero(lengths > 8), 8
    while len(longer) and done < _LONGEST:
        piece = words[starts[longer] + done] & _MASKS[np.minimum(lengths[longer] - done, 8)]
        mixed[longer] = _mixed(mixed[longer] ^ piece)
        done += 8
        longer = longer[lengths[longer] > done]
    mixed[longer] ^= lengths[longer].astype(np.uint64)
    return mixed


def _mixed(hashes: Hashes) -> Hashes:
    hashes = hashes * _ODD
    hashes ^= hashes >> np.uint64(29)
    return hashes


def _telling(kinds: npt.NDArray[np.uint8], hashes: Hashes) -> npt.NDArray[np.bool_]:
    """Which tokens count: those of lines with two words at least that are no import."""
    if not len(kinds):
        return np.empty(0, np.bool_)
    breaks = np.flatnonzero(kinds == _BREAK)
    first, last = np.append(0, breaks + 1), np.append(breaks, len(kinds))
    words = np.append(0, np.cumsum(kinds == _WORD))
    one = hashes[np.minimum(first, len(kinds) - 1)]
    two = hashes[np.minimum(first + 1, len(kinds) - 1)]
    telling = words[last] - words[first] > 1
    telling &= ~(np.isin(one, _IMPORTS) | np.isin(one ^ (two >> np.uint64(1)), _IMPORT_PAIRS))
    kept: npt.NDArray[np.bool_] = np.repeat(telling, last - first + 1)[: len(kinds)]
    kept &= kinds != _BREAK
    return kept


def _hashes_of(words: str) -> Hashes:
    parts = [word.encode() for word in words.split()]
    return np.concatenate([_hashes(p, np.array([0]), np.array([len(p)])) for p in parts])


_IMPORTS = _hashes_of("import from use using package require include")
_IMPORT_PAIRS = _hashes_of("# export") ^ (_hashes_of("include *") >> np.uint64(1))
