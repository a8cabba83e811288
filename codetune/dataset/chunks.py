"""Long files are cut where a definition starts; every character lands in exactly one piece.

Prose is cut between paragraphs, else between sentences; a block of code in it stays whole as long
as it fits.
"""

from __future__ import annotations

import re

import numpy as np

from codetune.dataset.encoded import Encoded
from codetune.models.prompts import Places
from codetune.syntax.languages import IS_PROSE
from codetune.syntax.parse import top_level_spans

_SHORTEST = 0.5  # of the room: what a piece that ends at a good border fills at least
_CHARACTERS_PER_TOKEN = 3
# A fence of CommonMark (spec 0.31, 4.5) with all up to its end, or to the text's.
_FENCED = re.compile(r"(?ms)^ {0,3}(`{3,}|~{3,})[^\n]*\n.*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)")
_SENTENCE = re.compile(r"(?<=[.!?。！？])[\"')\]]*(\s+)(?=\S)")


def chunk_borders(encoded: Encoded, language: str, room: int) -> list[int]:
    """Token numbers at which pieces of at most `room` tokens start, and the end of the last one.

    Borders are, in order of preference, the starts of top-level definitions, of paragraphs, of
    sentences (in prose), of lines, and of characters.
    """
    total = len(encoded)
    if total <= room:
        return [0, total]
    spans = top_level_spans(encoded.text, language, largest=room * _CHARACTERS_PER_TOKEN)
    definitions = _tokens_at(encoded, _line_starts(encoded, [span.start for span in spans]))
    kinds = [definitions]
    if language in IS_PROSE:
        kinds += [_tokens_at(encoded, places) for places in _in_prose(encoded)]
    kinds += [_tokens_at(encoded, encoded.paragraphs), _tokens_at(encoded, encoded.lines)]
    borders = [0]
    while total - borders[-1] > room:
        start = borders[-1]
        pieces = -(-(total - start) // room)
        wanted = start + -(-(total - start) // pieces)  # equal pieces rather than a tiny last one
        least, most = start + int(room * _SHORTEST), start + room
        nearest = (_nearest(places, wanted, least, most) for places in kinds)
        border = next(filter(None, nearest), 0)
        borders.append(border or _character_border(encoded, most))
    return [*borders, total]


def _in_prose(encoded: Encoded) -> tuple[Places, Places]:
    """The starts of paragraphs and of sentences that lie outside of fenced code."""
    text, paragraphs = encoded.text, encoded.paragraphs
    # A token begins with the blank before its word, or with the word where the line does.
    ends = [place for match in _SENTENCE.finditer(text) for place in match.span(1)]
    sentences = np.unique(np.array(ends, np.int64))
    for match in _FENCED.finditer(text):
        paragraphs = _outside(paragraphs, *match.span())
        sentences = _outside(sentences, *match.span())
    return paragraphs, sentences


def _outside(places: Places, start: int, end: int) -> Places:
    found: Places = places[(places <= start) | (places > end)]
    return found


def _nearest(tokens: Places, wanted: int, least: int, most: int) -> int:
    """The candidate in least..most that is nearest to `wanted`; 0 for none."""
    low, high = np.searchsorted(tokens, least), np.searchsorted(tokens, most, side="right")
    inside = tokens[low:high]
    return int(inside[np.abs(inside - wanted).argmin()]) if len(inside) else 0


def _character_border(encoded: Encoded, token: int) -> int:
    while not encoded.is_border(token):
        token -= 1
    return token


def _tokens_at(encoded: Encoded, characters: Places) -> Places:
    """The tokens that start exactly at these characters."""
    tokens = np.searchsorted(encoded.starts, characters)
    tokens, characters = tokens[tokens < len(encoded)], characters[tokens < len(encoded)]
    exact: Places = tokens[encoded.starts[tokens] == characters]
    return exact


def _line_starts(encoded: Encoded, characters: list[int]) -> Places:
    """The starts of the lines on which these characters stand: indentation belongs to the code."""
    at = np.searchsorted(encoded.lines, np.array(characters, np.int64), side="right") - 1
    return np.unique(encoded.lines[at])
