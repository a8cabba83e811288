"""Tokenising a text by a dictionary of its words: the same ids, several times faster.

A byte-level BPE tokenizer splits a text by a regular expression into words and encodes each by
itself. Source code repeats its words, so they are looked up; the model is asked only for words
never met before. This covers bases whose splitting expression is written in tokenizer.json or
is GPT-2's. Python's `re` knows no Unicode classes: a text beyond ASCII is split where its shadow
is, which has an "a" in place of every foreign letter, a "0" of every number, and so on.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Ids = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_MOST_WORDS = 400_000  # about 60 MB; then the dictionary starts anew
_CLASS = re.compile(r"\[(?:\\.|[^\]\\])*\]")
_ASCII = {r"\p{L}": "A-Za-z", r"\p{N}": "0-9"}
_PROBE = (
    "def f(x):\n    if x  == 'it''s':\n\n\n\t\treturn  [1234, 5.6e-7,]\n  \n \t x\r\n\r\n"
    "#!/bin/sh -- a_b__c CamelCase HTTPServer ;;}}\n\n)  )\n\v\f\x00\x1c\x1f\x7f I'LL don't  \n"
)
_FOREIGN_PROBE = (
    "# größe ½²٣ e\u0301\u00a0\u2003x\u2028 你好\u3000 «it’s»…\x85\n\u200b🙂🙂 ºª Ⅷ ñ_\ue000 'Ö\n"
)
# What an expression may hold besides classes of letters, numbers and blanks, if texts beyond
# ASCII are to be split by their shadow: nothing that tells one foreign letter from another.
_SHADOWED = re.compile(r"\\p\{[LN]\}|\\[sSrn]|\?[i!]|'(?:s|t|re|ve|m|ll|d)(?!\w)|\{\d+,?\d*\}")


class Words:
    """`ids(text)` gives the ids of a text, `encode(text)` also the character each starts at."""

    def __init__(
        self,
        pattern: re.Pattern[str],
        tokenizer: Tokenizer,
        token_bytes: TokenBytes,
        foreign: bool,
    ) -> None:
        """`foreign`: texts beyond ASCII can be split by their shadow."""
        self._pattern, self._foreign = pattern, foreign
        self._lengths = token_bytes.lengths
        self._known = _Known(tokenizer.model)

    def ids(self, text: str) -> Ids | None:
        """The ids alone; None for a text that only the tokenizer itself splits rightly."""
        words = self._pattern.findall(text) if text.isascii() else self._foreign_words(text)
        if words is None:
            return None
        known = self._known  # the server's threads may replace it meanwhile
        if len(known) > _MOST_WORDS:
            known = self._known = _Known(known.model)
        return np.frombuffer(b"".join(map(known.__getitem__, words)), np.uint32)

    def encode(self, text: str) -> tuple[Ids, Places] | None:
        """Ids and the character each starts at; None as for `ids`."""
        if (ids := self.ids(text)) is None:
            return None
        lengths = self._lengths[ids]
        starts = np.cumsum(lengths) - lengths
        if not text.isascii():  # from bytes to characters
            codes = np.frombuffer(text.encode(), np.uint8)
            starts = (np.cumsum(codes & 0xC0 != 0x80) - 1)[starts]
        return ids, starts

    def _foreign_words(self, text: str) -> list[str] | None:
        if not self._foreign:
            return None
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        at = np.flatnonzero(codes > 127)
        kinds, which = np.unique(codes[at], return_inverse=True)
        shadows = np.array([_SHADOW[code] for code in kinds.tolist()], np.uint8)
        if not shadows.all():
            return None
        shadow = codes.astype(np.uint8)
        shadow[at] = shadows[which]
        words: list[str] = self._pattern.findall(shadow.tobytes().decode("ascii"))
        ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
        for number in np.unique(ends.searchsorted(at, "right")).tolist():
            words[number] = text[int(ends[number]) - len(words[number]) : int(ends[number])]
        return words


class _Known(dict[str, bytes]):
    """Word → its ids as 32-bit numbers; the model is asked for a word when it is first met."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def __missing__(self, word: str) -> bytes:
        letters = word.encode().decode("latin-1").translate(_LETTERS)
        ids = self[word] = array("I", [t.id for t in self.model.tokenize(letters)]).tobytes()
        return ids


class _Shadow(dict[int, int]):
    """Foreign characters → ASCII ones that every expression treats alike; 0 where none is sure."""

    def __missing__(self, code: int) -> int:
        kind = unicodedata.category(chr(code))
        # Unassigned here may be a letter there; the long s matches "s" where case is ignored.
        if kind in ("Cn", "Cs") or code == 0x17F:
            found = "\0"
        elif kind[0] == "Z" or code == 0x85:
            found = "\v"
        else:
            found = {"L": "a", "N": "0"}.get(kind[0], "!")
        self[code] = ord(found)
        return self[code]


def words_of(
    spec: dict[str, Any], plain: Tokenizer, token_bytes: TokenBytes | None, plain_added: bool
) -> Words | None:
    """The dictionary for a parsed tokenizer.json; None where it would not give the ids of `plain`.

    `plain_added`: the base has added tokens that are ordinary text, which are found before words.
    """
    expression = _expression(spec)
    if expression is None or token_bytes is None or plain_added:
        return None
    if (spec.get("normalizer") or {"type": "NFC"})["type"] != "NFC":  # `plain` does not compose
        return None
    try:
        pattern = re.compile(_to_ascii(expression), re.ASCII)
    except re.error:
        return None
    if pattern.groups or "".join(pattern.findall(_PROBE)) != _PROBE:
        return None

    def agree(words: Words, text: str) -> bool:
        found = words.encode(text)
        expected = plain.encode(text, add_special_tokens=False).ids
        return found is not None and found[0].tolist() == expected

    shadowed = expression.isascii() and not re.search(r"[\w!]", _SHADOWED.sub("", expression))
    words = Words(pattern, plain, token_bytes, foreign=shadowed)
    if shadowed and not agree(words, _FOREIGN_PROBE):
        words = Words(pattern, plain, token_bytes, foreign=False)
    return words if agree(words, _PROBE) else None


class TokenBytes:
    """The bytes of every token of a byte-level BPE; none for control tokens and gaps."""

    def __init__(self, table: list[bytes]) -> None:
        self.lengths = np.array([len(token) for token in table], np.int64)
        self._firsts = np.cumsum(self.lengths) - self.lengths
        self._all = np.frombuffer(b"".join(table), np.uint8)

    def table(self) -> list[bytes]:
        """The bytes of each token, by its id."""
        ends = (self._firsts + self.lengths).tolist()
        whole = self._all.tobytes()
        return [whole[a:b] for a, b in zip(self._firsts.tolist(), ends, strict=True)]

    def join(self, ids: npt.NDArray[np.integer[Any]]) -> bytes:
        """The bytes of these tokens."""
        lengths = self.lengths[ids]
        ends = np.cumsum(lengths)
        places = np.repeat(self._firsts[ids] - ends + lengths, lengths)
        return self._all[places + np.arange(len(places))].tobytes()


def token_bytes(spec: dict[str, Any], size: int) -> TokenBytes | None:
    """The bytes of a vocabulary of `size` tokens; None where they are not in tokenizer.json."""
    steps = _steps(spec)
    if not steps or steps[-1].get("type") != "ByteLevel" or spec["model"].get("type") != "BPE":
        return None
    letters = _Bytes({ord(letter): chr(byte) for byte, letter in _LETTERS.items()})
    table = [b""] * size
    for name, number in spec["model"]["vocab"].items():
        with suppress(UnicodeEncodeError):  # a name that is not made of those letters
            table[number] = name.translate(letters).encode("latin-1")
    for token in spec.get("added_tokens") or []:
        table[token["id"]] = b""
    return TokenBytes(table)


class _Bytes(dict[int, str]):
    """GPT-2's letters → characters of Latin-1; what is none of them becomes what is not Latin-1."""

    def __missing__(self, code: int) -> str:
        return "\u0100"


def _letters() -> dict[int, str]:
    """GPT-2's letter for every byte: printable ones stand for themselves."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {b: chr(b) for b in own} | {b: chr(256 + n) for n, b in enumerate(others)}


def _steps(spec: dict[str, Any]) -> list[dict[str, Any]]:
    splitter = spec.get("pre_tokenizer") or {}
    steps = splitter["pretokenizers"] if splitter.get("type") == "Sequence" else [splitter]
    return list(steps)


def _expression(spec: dict[str, Any]) -> str | None:
    """The one regular expression by which the base splits, if that is all it does."""
    steps = _steps(spec)
    if len(steps) == 1 and steps[0].get("type") == "ByteLevel":
        return _GPT2 if steps[0].get("use_regex", True) else None
    if [step.get("type") for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, last = steps
    expression = split.get("pattern", {}).get("Regex")
    if last.get("use_regex", True) or split.get("behavior") != "Isolated" or split.get("invert"):
        return None
    return str(expression) if expression else None


def _to_ascii(expression: str) -> str:
    """The expression with Unicode classes as ASCII ranges, inside of brackets and out of them."""

    def inside(match: re.Match[str]) -> str:
        return match[0].replace(r"\p{L}", "A-Za-z").replace(r"\p{N}", "0-9")

    expression = _CLASS.sub(inside, expression)
    for name, letters in _ASCII.items():
        expression = expression.replace(name, f"[{letters}]")
    return expression


_LETTERS = _letters()
_SHADOW = _Shadow()
