"""One file's tokens with their places in its text, so that no part of it is tokenised twice."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from codetune.models.prompts import Ids, Places, Renderer

# Where tokens of the parts are tokens of the whole. No splitting rule joins a single line break
# to a word behind it; what happens to blank lines and indentation differs between bases.
_SAFE = re.compile(r"(?<=\S\n)(?=\S)")
_SAFE_INDENTED = re.compile(r"(?<=\n)(?=[ \t]*\S)")
_PROBES = (("a\n", "    b"), ("f():\n\n", "\tb c"), ("{\n  \n", "  x"), (")\n", "        }\n\n"))


def renderer_of(base: Path) -> Renderer:
    """The base's renderer, read once in a process: the words it has met stay known."""
    return _renderer(base, Renderer.digest_of(base))


@lru_cache(maxsize=1)
def _renderer(base: Path, digest: str) -> Renderer:
    return Renderer.from_folder(base)


def forget_renderer() -> None:
    """Let the renderer of `renderer_of` go."""
    _renderer.cache_clear()


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


def _line_starts(text: str) -> tuple[Places, Places]:
    """Characters at which a line starts that is not empty, and those behind an empty line.

    The first line counts always, and has none before it.
    """
    wide = not text.isascii()
    data = text.encode("utf-32-le", "surrogatepass") if wide else text.encode()
    codes = np.frombuffer(data, np.uint32 if wide else np.uint8)
    breaks = codes == 10
    starts = np.flatnonzero(breaks[:-1] & ~breaks[1:]) + 1
    after_empty = starts[breaks[starts - 2] & (starts >= 2)]
    return np.concatenate([np.zeros(1, np.int64), starts]), after_empty


class Encoded:
    """`ids[i]` starts at character `starts[i]` of `text`."""

    def __init__(self, encoder: Encoder, text: str) -> None:
        self.text = text
        self.ids: Ids
        self.starts: Places
        self.ids, self.starts = encoder.renderer.plain_offsets(text)
        self.lines, self.paragraphs = _line_starts(text)
        self._encoder = encoder

    def __len__(self) -> int:
        return len(self.ids)

    def token_from(self, character: int) -> int:
        """The first token that starts at `character` or later."""
        return int(self.starts.searchsorted(character))

    def place_of(self, token: int) -> int:
        """The character at which `token` starts; the text's end for the token after the last."""
        return int(self.starts[token]) if token < len(self.starts) else len(self.text)

    def is_border(self, token: int) -> bool:
        """Whether a new character starts with `token`: some take several tokens."""
        return token in (0, len(self.ids)) or bool(self.starts[token] > self.starts[token - 1])

    def ids_of(self, start: int, end: int) -> Ids:
        """The ids of `text[start:end]` as `Renderer.plain` gives them, most of them known."""
        left = self._safe_after(start, end)
        right = self._safe_before(end, left)
        if left >= right:
            return self._plain(start, end)
        known = self.ids[self.token_from(left) : self.token_from(right)]
        if start == left and right == end:
            return known
        return np.concatenate([self._plain(start, left), known, self._plain(right, end)])

    def _plain(self, start: int, end: int) -> Ids:
        return self._encoder.renderer.plain_ids(self.text[start:end])

    def _safe_after(self, start: int, end: int) -> int:
        """The first place in start..end at which a token starts and the text may be cut."""
        if start == 0:
            return 0
        for match in self._encoder.safe.finditer(self.text, start, end):
            if self._starts_token(match.start()):
                return match.start()
        return end

    def _safe_before(self, end: int, start: int) -> int:
        """The last such place; not `end` itself: blank lines before it may split differently."""
        if end == len(self.text):
            return end
        place = end - 1
        while place > start:
            place = self.text.rfind("\n", start, place) + 1
            if place and self._encoder.safe.match(self.text, place) and self._starts_token(place):
                return place
            place -= 1
        return start

    def _starts_token(self, place: int) -> bool:
        token = self.token_from(place)
        return token < len(self.starts) and int(self.starts[token]) == place
