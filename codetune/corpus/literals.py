"""Which of many literals stand in a text, found by reading it once instead of once for each.

Every three bytes in a row are hashed to 16 bits and ticked off in a table; a literal is looked
for only if the hash of its first three is ticked (a Bloom filter of n-grams, with one hash).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_LENGTH = 3  # bytes of a run
_MIXERS = (np.uint16(0x9E37), np.uint16(0x85EB), np.uint16(0xC2B3))  # odd


class Literals:
    """Some literals of ASCII letters; `found_in` says which of them a text holds."""

    def __init__(self, literals: Iterable[str]) -> None:
        every = tuple(dict.fromkeys(literals))
        self._short = [one for one in every if len(one) < _LENGTH]
        self._long = [one for one in every if len(one) >= _LENGTH]
        self._codes = np.array([_codes(one.encode()[:_LENGTH])[0] for one in self._long], np.intp)

    def found_in(self, text: str) -> set[str]:
        """The literals that stand somewhere in `text`."""
        seen = np.zeros(1 << 16, np.bool_)
        seen[_codes(text.encode("utf-8", "replace"))] = True
        maybe = [self._long[n] for n in np.flatnonzero(seen[self._codes]).tolist()]
        return {one for one in (*self._short, *maybe) if one in text}


def _codes(data: bytes) -> npt.NDArray[np.uint16]:
    """A hash of every run of three bytes."""
    values = np.frombuffer(data, np.uint8).astype(np.uint16)
    if len(values) < _LENGTH:
        return np.empty(0, np.uint16)
    codes = values[:-2] * _MIXERS[0]
    codes += values[1:-1] * _MIXERS[1]
    codes += values[2:] * _MIXERS[2]
    return codes
