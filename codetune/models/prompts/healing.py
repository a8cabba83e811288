"""Token healing: an answer may begin with the word at the cursor written again.

A tokenizer splits the text before a cursor as if it ended there: `self.` + `name` becomes other
tokens than `self.name`, ones that a model has rarely seen next to each other. Where prefix and
answer stand side by side (next-token order, suffix-prefix-middle order), the prompt therefore
ends before the word at the cursor, and the answer has to begin with that word's letters: at each
step only tokens are allowed that agree with what is left of them.

Source: CodeLlama tokenises prefix and middle as one text in suffix-prefix-middle order, and names
token healing as what inference then needs (arXiv 2308.12950, section 2.3 and appendix); the order
itself is from Bavarian et al. (arXiv 2207.14255).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from codetune.models.prompts.words import TokenBytes

LONGEST = 32  # bytes that are written again, at most
_LOOKED_AT = 256  # characters before the cursor in which its word is looked for
_REMEMBERED = 512  # beginnings whose tokens are kept at hand

TokenIds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Beginning:
    """What an answer has to begin with, `text`, which is not part of what is shown."""

    text: str
    vocabulary: ByteVocabulary

    @property
    def bytes(self) -> bytes:
        return self.text.encode()


class ByteVocabulary:
    """The tokens of a byte-level BPE, found by their bytes."""

    def __init__(self, tokens: TokenBytes) -> None:
        self._tokens = tokens
        self._found: OrderedDict[bytes, TokenIds] = OrderedDict()

    def bytes_of(self, token: int) -> bytes:
        """A token's bytes; none for control tokens and gaps."""
        return self._table[token]

    def agreeing(self, rest: bytes) -> TokenIds:
        """The tokens that begin with `rest`, or with which `rest` begins; never none."""
        if (found := self._found.get(rest)) is None:
            pairs = self._sorted
            first = bisect_left(pairs, (rest, -1))
            longer = []
            for place in range(first, len(pairs)):
                if not pairs[place][0].startswith(rest):
                    break
                longer.append(pairs[place][1])
            shorter = [self._by_bytes[rest[:n]] for n in range(1, len(rest)) if rest[:n] in self]
            found = self._found[rest] = np.array(shorter + longer, np.int64)
            while len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        return found

    def __contains__(self, text: bytes) -> bool:
        return text in self._by_bytes

    @cached_property
    def _table(self) -> list[bytes]:
        return self._tokens.table()

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted((text, token) for token, text in enumerate(self._table) if text)

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        return dict(self._sorted)


class Pending:
    """What is still to be written of a beginning, while an answer grows."""

    def __init__(self, beginning: Beginning) -> None:
        self._vocabulary = beginning.vocabulary
        self.rest = beginning.bytes

    @property
    def allowed(self) -> TokenIds:
        """The tokens that may come next; all others are out."""
        return self._vocabulary.agreeing(self.rest)

    def push(self, token: int) -> bool:
        """Take the next token; whether it wrote nothing but the beginning."""
        written = self._vocabulary.bytes_of(token)
        whole = len(written) <= len(self.rest)
        self.rest = self.rest[len(written) :]
        return whole


def word_at_end(tokenizer: Tokenizer, text: str) -> int:
    """Where the last word of `text` begins, as the base splits; its end if that is sure to be one.

    A line break ends a word in every splitting rule but those of blank lines, which nobody writes
    from one side of a cursor to the other.
    """
    if not text or text.endswith("\n") or tokenizer.pre_tokenizer is None:
        return len(text)
    begin = max(0, len(text) - _LOOKED_AT)
    begin = max(begin, text.rfind("\n", begin) + 1)
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text[begin:])
    start = begin + int(pieces[-1][1][0]) if pieces else len(text)
    return start if len(text[start:].encode()) <= LONGEST else len(text)
