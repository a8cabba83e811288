"""Where examples go once they are made: packed by the processes, part by part, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from codetune.dataset.examples import Packed
from codetune.dataset.instruct.pairs import Pair
from codetune.dataset.instructions import Instructions
from codetune.dataset.table import ExamplesFile
from codetune.models.tokens import TokenWriter


class ByPart:
    """Packed batches whose parts follow one another."""

    def __init__(self, packed: Iterator[tuple[str, Packed]]) -> None:
        self._packed = packed
        self._next = next(packed, None)

    def all_of(self, part: str) -> Iterator[Packed]:
        """Those of `part`, if it is its turn."""
        while self._next is not None and self._next[0] == part:
            yield self._next[1]
            self._next = next(self._packed, None)


class Output:
    """Where rendered batches go, in order."""

    def __init__(self, tokens: TokenWriter, table: ExamplesFile | None) -> None:
        self._tokens, self._table = tokens, table
        self.counts: Counter[str] = Counter()

    def add(self, packed: Packed) -> None:
        self._tokens.extend(packed.tokens, packed.index, first=self.counts["documents"])
        if self._table is not None:
            self._table.add(packed.rows)
        self.counts += packed.counts

    def encode(self, by: Instructions, base: Path, pairs: Iterator[Pair]) -> Counter[str]:
        """Append instructions; the reasons why some were left out, counted."""
        first = self.counts["documents"]
        counts, refused = by.encode(base, pairs, self._tokens, self._table, first)
        self.counts += Counter({n: c for n, c in counts.items() if not n.startswith("kind ")})
        self.counts["documents"] += counts["examples sft"]
        return refused
