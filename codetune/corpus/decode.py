"""From bytes to text: which encoding, line ends, and characters that nobody sees.

UTF-8, and UTF-16 or UTF-32 with a byte order mark. Else Latin-1 (read as Windows-1252), but only
where the result is clearly text: few bytes above 127, each of them a letter beside letters or a
usual mark. All line ends become "\\n": a model should not learn to write a mixture.

Characters that change how a line looks without being seen (bidirectional overrides and isolates,
zero-width spaces, byte order marks inside a text, tag characters) are removed and counted: they
carry no meaning to a compiler, and are used to hide instructions ("Trojan Source", Boucher and
Anderson 2021). Zero-width joiners stay: emoji and several scripts need them.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_INVISIBLE = re.compile(
    "[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
# In Latin-1 text accented letters stand in words; in misread binary or CJK they stand in runs.
_ODD_LATIN = re.compile(r"[\x80-\xff]{3,}")
_MOST_HIGH_BYTES = 0.1
_MOST_CONTROL = 0.002


@dataclass(frozen=True)
class Decoded:
    """A text with `\\n` line ends; `invisible` characters were removed from it."""

    text: str
    encoding: str
    invisible: int


def is_binary(content: bytes) -> bool:
    """Whether the first 8 kB hold a NUL, and no byte order mark explains it (git's own rule)."""
    start = content[:8192]
    return b"\0" in start and not any(start.startswith(mark) for mark, _ in _MARKS)


def decode(content: bytes) -> Decoded | None:
    """The text of a file, or None where the bytes are not clearly text."""
    found = _decode(content)
    if found is None:
        return None
    text, encoding = found
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text, removed = _INVISIBLE.subn("", text)
    else:
        removed = 0
    controls = len(_CONTROL.findall(text))
    if controls > 2 and controls > _MOST_CONTROL * len(text):
        return None
    return Decoded(text, encoding, removed)


def _decode(content: bytes) -> tuple[str, str] | None:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                text = content.decode(encoding)
            except UnicodeDecodeError:
                return None
            return text, encoding
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    high = len(content) - len(content.translate(None, _HIGH_BYTES))
    if high > _MOST_HIGH_BYTES * len(content) or _ODD_LATIN.search(content.decode("latin-1")):
        return None
    try:
        return content.decode("cp1252"), "windows-1252"
    except UnicodeDecodeError:
        return None


_HIGH_BYTES = bytes(range(128, 256))
