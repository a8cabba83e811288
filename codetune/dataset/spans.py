"""Which characters are taken out of a file for a fill-in-the-middle example."""

from __future__ import annotations

import math
from random import Random

from codetune.models.prompts import Places
from codetune.syntax.parse import Span, fim_spans

_MOST_LINES = 4
_STRATUM = 4096  # characters
_LOOKED_THROUGH = 0.06  # of each, if the text is drawn from once
_LOOKED_AT = 1024  # characters of a file, at least
_REST_OF_LINE = 0.7  # the share of line spans that start where a cursor may stand in a line
_AT_WORD = 0.7  # the share of those whose cursor stands at the start of a word, not inside one


class SpanChooser:
    """Draws spans of one file by the mix; a file without syntax spans gives lines instead."""

    def __init__(
        self,
        text: str,
        language: str,
        lines: Places,
        mix: tuple[float, float, float],
        sizes: tuple[int, int],
        passes: float,
    ) -> None:
        """`sizes` are the bytes of a syntax span, at least and at most; the latter of any span.

        `mix` holds the shares of syntax, line and random spans; `passes` says how often the
        text will be drawn from: the more often, the more of it is looked through for spans.
        """
        self._text, self._language, self._lines, self._sizes = text, language, lines, sizes
        self._shares = mix
        self._looked_through = min(1.0, _LOOKED_THROUGH * passes)
        self._by_kind: dict[str, list[Span]] | None = None

    def draw(self, random: Random) -> Span | None:
        """One span, of kind "syntax:body", "line", "lines" or "random"; None if it was a blank."""
        source = random.choices(("syntax", "line", "random"), self._shares)[0]
        if source == "syntax":
            if self._by_kind is None:
                self._by_kind = self._syntax_spans(random)
            if self._by_kind:
                kind = random.choice(list(self._by_kind))
                span = random.choice(self._by_kind[kind])
                return Span(f"syntax:{kind}", span.start, span.end)
        if source == "random":
            return self._random(random)
        return line_span(self._text, self._lines, random.randrange(len(self._lines)), random)

    def _syntax_spans(self, random: Random) -> dict[str, list[Span]]:
        """By kind, the spans that start in a random stretch of every few thousand characters.

        Few are drawn, and in a large file all of them would take longer to list than to parse.
        """
        found: dict[str, list[Span]] = {}
        length, minimum, maximum = len(self._text), *self._sizes
        strata = max(1, length // _STRATUM)
        size = length / strata
        stretch = max(math.ceil(size * self._looked_through), math.ceil(_LOOKED_AT / strata))
        within = None
        if stretch < size:
            starts = (int(n * size) for n in range(strata))
            places = [at + random.randrange(int(size) - stretch + 1) for at in starts]
            within = [(place, place + stretch) for place in places]
        for span in fim_spans(
            self._text, self._language, minimum=minimum, maximum=maximum, within=within
        ):
            found.setdefault(span.kind, []).append(span)
        return found

    def _random(self, random: Random) -> Span | None:
        """Any two characters, short distances as likely as long ones on a logarithmic scale."""
        length = round(math.exp(random.uniform(0, math.log(self._sizes[1]))))
        length = min(length, len(self._text) - 1)
        if length < 1:
            return None
        start = random.randrange(len(self._text) - length + 1)
        return Span("random", start, start + length)


def line_span(text: str, lines: Places, line: int, random: Random) -> Span | None:
    """The rest of a line from somewhere in it, or up to four whole lines without indentation."""
    start, end = _content(text, lines, line)
    if end - start < 2:
        return None
    if random.random() < _REST_OF_LINE:
        cursor = random.randrange(start, end - 1)
        if random.random() < _AT_WORD:
            while cursor > start and text[cursor].isalnum() and text[cursor - 1].isalnum():
                cursor -= 1
        return Span("line", cursor, end)
    last = min(line + random.randrange(_MOST_LINES), len(lines) - 1)
    while last > line and _content(text, lines, last)[0] == _content(text, lines, last)[1]:
        last -= 1
    return Span("lines" if last > line else "line", start, _content(text, lines, last)[1])


def _content(text: str, lines: Places, line: int) -> tuple[int, int]:
    """Where a line's text starts and ends without blanks around it."""
    start = int(lines[line])
    end = text.find("\n", start)
    end = len(text) if end < 0 else end
    content = text[start:end]
    start += len(content) - len(content.lstrip())
    return start, max(start, end - (len(content) - len(content.rstrip())))
