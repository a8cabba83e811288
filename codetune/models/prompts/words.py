"""Tokenising ASCII text by a dictionary of its words: the same ids, several times faster.

A byte-level BPE tokenizer splits a text by a regular expression into words and encodes each by
itself. Source code repeats its words, so they are looked up; `tokenizers` encodes only words
never met before. This covers bases whose splitting expression is written in tokenizer.json or
is GPT-2's, and texts in ASCII, where Unicode's letters and digits are the ordinary ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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


class Words:
    """`encode(text)` gives the ids of an ASCII text, and the character each starts at."""

    def __init__(
        self,
        pattern: re.Pattern[str],
        encode_words: Callable[[Sequence[str]], list[list[int]]],
        token_bytes: Sequence[bytes],
    ) -> None:
        self._split = pattern.findall
        self._encode_words = encode_words
        self._lengths = np.array([len(token) for token in token_bytes], np.int64)
        self._known: dict[str, bytes] = {}  # word → its ids as 32-bit numbers

    def encode(self, text: str) -> tuple[Ids, Places]:
        """Ids and starts of `text`, which must be ASCII."""
        words = self._split(text)
        known = self._known  # the server's threads may replace it meanwhile
        if len(known) > _MOST_WORDS:
            known = self._known = {}
        if new := list(dict.fromkeys(word for word in words if word not in known)):
            for word, numbers in zip(new, self._encode_words(new), strict=True):
                known[word] = np.array(numbers, np.uint32).tobytes()
        ids = np.frombuffer(b"".join(map(known.__getitem__, words)), np.uint32)
        lengths = self._lengths[ids]
        return ids, np.cumsum(lengths) - lengths


def words_of(
    spec: dict[str, Any],
    encode: Callable[[Sequence[str]], list[list[int]]],
    token_bytes: Sequence[bytes] | None,
    plain_added: bool,
) -> Words | None:
    """The dictionary for a parsed tokenizer.json; None where it would not give the same ids.

    `plain_added`: the base has added tokens that are ordinary text, which are found before words.
    """
    expression = _expression(spec)
    if expression is None or token_bytes is None or plain_added:
        return None
    if (spec.get("normalizer") or {"type": "NFC"})["type"] != "NFC":  # ASCII is composed
        return None
    try:
        pattern = re.compile(_to_ascii(expression), re.ASCII)
    except re.error:
        return None
    if pattern.groups or "".join(pattern.findall(_PROBE)) != _PROBE:
        return None
    words = Words(pattern, encode, token_bytes)
    return words if words.encode(_PROBE)[0].tolist() == encode([_PROBE])[0] else None


def byte_table(spec: dict[str, Any], size: int) -> list[bytes] | None:
    """The bytes of every token of a byte-level BPE; empty for control tokens and gaps."""
    steps = _steps(spec)
    if not steps or steps[-1].get("type") != "ByteLevel" or spec["model"].get("type") != "BPE":
        return None
    letters = _letters()
    table = [b""] * size
    for name, number in spec["model"]["vocab"].items():
        if all(letter in letters for letter in name):
            table[number] = bytes(letters[letter] for letter in name)
    for token in spec.get("added_tokens") or []:
        table[token["id"]] = b""
    return table


def _letters() -> dict[str, int]:
    """GPT-2's letter for every byte: printable ones stand for themselves."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(b): b for b in own} | {chr(256 + n): b for n, b in enumerate(others)}


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
