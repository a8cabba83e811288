"""Keys and values of answers that have ended, for the next request of the same tenant.

An editor asks again at every keystroke, with the same beginning and a few more characters.
What one tenant has sent is never lent to another: how fast an answer comes would tell what
somebody else has asked.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from codetune.serving.engines.cache import KeyValueCache
    from codetune.serving.engines.sequence import Sequence

SHORTEST = 16  # tokens; a common beginning shorter than this is not worth copying
_PER_OWNER = 8  # beginnings that one tenant keeps of one model; an older one leaves


@dataclass(frozen=True)
class Owner:
    """Who may use a beginning: one tenant with one set of weights."""

    tenant: str
    adapter: str | None


@dataclass(frozen=True)
class Kept:
    """A beginning's tokens, and their keys and values as the cache stores them."""

    ids: list[int]
    values: torch.Tensor


class PrefixCache:
    """Beginnings by owner, the least recently used leave first."""

    def __init__(self) -> None:
        self.bytes = 0
        self._kept: OrderedDict[int, tuple[Owner, Kept]] = OrderedDict()  # by age
        self._own: defaultdict[Owner, dict[int, Kept]] = defaultdict(dict)
        self._next = 0

    def find(self, owner: Owner, ids: list[int], most: int) -> tuple[Kept | None, int]:
        """The longest kept beginning of `ids`, at most `most` tokens of it; None if too short."""
        best, length = None, SHORTEST - 1
        for number, kept in self._own.get(owner, {}).items():
            common = common_length(kept.ids, ids, min(most, len(kept.ids)))
            if common > length:
                best, length = number, common
        if best is None:
            return None, 0
        self._kept.move_to_end(best)
        return self._kept[best][1], length

    def keep(self, sequence: Sequence, cache: KeyValueCache, room: int) -> None:
        """Keep what `sequence` has read and written, if it fits into `room` bytes."""
        owner, length = owner_of(sequence), sequence.cached
        if length < SHORTEST or length * cache.token_bytes() > room:
            return
        ids = sequence.ids[:length]
        for number, kept in list(self._own[owner].items()):
            # What is a beginning of the new one says nothing more; the reverse is kept as it is.
            common = common_length(kept.ids, ids, min(length, len(kept.ids)))
            if common == length:
                self._kept.move_to_end(number)
                return
            if common == len(kept.ids):
                self._drop(number)
        if len(self._own[owner]) >= _PER_OWNER:
            self._drop(next(number for number in self._kept if number in self._own[owner]))
        self.shrink(room - length * cache.token_bytes())
        kept = Kept(ids, cache.stored(sequence.row, length))
        self._kept[self._next] = (owner, kept)
        self._own[owner][self._next] = kept
        self._next += 1
        self.bytes += kept.values.nbytes

    def shrink(self, limit: int) -> None:
        """Drop the least recently used until at most `limit` bytes are kept."""
        while self._kept and self.bytes > limit:
            self._drop(next(iter(self._kept)))

    def forget(self, adapter: str) -> None:
        """Drop what was computed with an adapter that is dropped."""
        for number in [n for n, (owner, _) in self._kept.items() if owner.adapter == adapter]:
            self._drop(number)

    def _drop(self, number: int) -> None:
        owner, kept = self._kept.pop(number)
        self.bytes -= kept.values.nbytes
        del self._own[owner][number]
        if not self._own[owner]:
            del self._own[owner]


def owner_of(sequence: Sequence) -> Owner:
    return Owner(sequence.job.tenant, sequence.adapter)


def common_length(one: list[int], other: list[int], most: int) -> int:
    """How many of the first `most` ids are equal."""
    if one[:most] == other[:most]:
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle)
    return low
