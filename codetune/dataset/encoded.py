"""One file's tokens with their places in its text, so that no part of it is tokenised twice."""

from __future__ import annotations

import re

import numpy as np

from codetune.models.prompts import Ids, Places, Renderer

_LINE_START = re.compile(r"(?<=\n)(?=[^\n])")
# Where tokens of the parts are tokens of the whole. No splitting rule joins a single line break
# to a word behind it; what happens to blank lines and indentation differs between bases.
_SAFE = re.compile(r"(?<=\S\n)(?=\S)")
_SAFE_INDENTED = re.compile(r"(?<=\n)(?=[ \t]*\S)")
_PROBES = (("a\n", "    b"), ("f():\n\n", "\tb c"), ("{\n  \n", "  x"), (")\n", "        }\n\n"))


class Encoder:
    """Tokenises files for one base."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        plain = renderer.plain
        indented = all(plain(a + b) == plain(a) + plain(b) for a, b in _PROBES)
        self.safe = _SAFE_INDENTED if indented else _SAFE

    def encode(self, text: str) -> Encoded:
        """Tokenise a whole file."""
        return Encoded(self, text)


def _line_starts(text: str) -> Places:
    """Characters at which a line starts that is not empty, and the first one."""
    if text.isascii():
        codes = np.frombuffer(text.encode(), np.uint8)
        breaks = np.flatnonzero(codes[:-1] == 10) + 1
        return np.concatenate([np.zeros(1, np.int64), breaks[codes[breaks] != 10]])
    return np.array([0, *(match.start() for match in _LINE_START.finditer(text))], np.int64)


class Encoded:
    """`ids[i]` starts at character `starts[i]` of `text`."""

    def __init__(self, encoder: Encoder, text: str) -> None:
        self.text = text
        self.ids: Ids
        self.starts: Places
        self.ids, self.starts = encoder.renderer.plain_offsets(text)
        self.lines = _line_starts(text)
        self._encoder = encoder
        self._safe: Places | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def token_from(self, character: int) -> int:
        """The first token that starts at `character` or later."""
        return int(np.searchsorted(self.starts, character))

    def place_of(self, token: int) -> int:
        """The character at which `token` starts; the text's end for the token after the last."""
        return int(self.starts[token]) if token < len(self.starts) else len(self.text)

    def is_border(self, token: int) -> bool:
        """Whether a new character starts with `token`: some take several tokens."""
        return token in (0, len(self.ids)) or bool(self.starts[token] > self.starts[token - 1])

    def ids_of(self, start: int, end: int) -> Ids:
        """The ids of `text[start:end]` as `Renderer.plain` gives them, most of them known."""
        if self._safe is None:
            self._safe = self._safe_places()
        left = int(self._safe[np.searchsorted(self._safe, start)])
        right = int(self._safe[np.searchsorted(self._safe, end, side="right") - 1])
        if right == end < len(self.text):  # blank lines before it may split differently at an end
            right = int(self._safe[max(int(np.searchsorted(self._safe, end)) - 1, 0)])
        if left >= right:
            return self._plain(start, end)
        known = self.ids[self.token_from(left) : self.token_from(right)]
        if start == left and right == end:
            return known
        return np.concatenate([self._plain(start, left), known, self._plain(right, end)])

    def _plain(self, start: int, end: int) -> Ids:
        return self._encoder.renderer.plain_offsets(self.text[start:end])[0]

    def _safe_places(self) -> Places:
        """Line starts at which a token starts and the text may be cut, and both ends."""
        found = [match.start() for match in self._encoder.safe.finditer(self.text)]
        places = np.array([0, *found, len(self.text)], np.int64)
        tokens = np.minimum(np.searchsorted(self.starts, places), max(len(self) - 1, 0))
        kept = self.starts[tokens] == places if len(self) else np.ones(len(places), np.bool_)
        kept[0] = kept[-1] = True
        found_places: Places = places[kept]
        return found_places
