"""What mixing keeps of a set that may be larger than memory: lots and sizes, and a file."""

from __future__ import annotations

import hashlib
import pickle
from array import array
from dataclasses import replace
from typing import IO, NamedTuple

import numpy as np

from codetune.dataset.conversations import Flags
from codetune.dataset.table import ExamplesFile, columns_of, pack_rows
from codetune.models.prompts import Ids
from codetune.models.tokens import TokenWriter
from codetune.records import Example

_TABLE_ROWS = 500


class Piece(NamedTuple):
    """One row of the token store; `text` where the example is a text that was cut."""

    ids: Ids
    loss: Flags
    text: str | None = None


class Catalogue:
    """The rows of a set without their text: a lot and a size for each, in file order."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._lots, self._sizes = array("Q"), array("Q")
        self.tokens_per_character = 0.25
        self._order: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self._lots)

    def add(self, key: bytes, characters: int) -> None:
        lot = hashlib.blake2b(self._seed.encode() + key, digest_size=8).digest()
        self._lots.append(int.from_bytes(lot))
        self._sizes.append(characters)

    def count_for(self, tokens: float) -> int:
        """How many rows, in the lots' order, make about so many tokens."""
        sizes = np.array(self._sizes, np.float64)[self._by_lot()] * self.tokens_per_character
        return min(int(np.searchsorted(np.cumsum(sizes), tokens)) + 1, len(self))

    def ranks(self, first: int, last: int) -> dict[int, int]:
        """Row → rank in the lots' order, for ranks first..last."""
        order = self._by_lot()[first:last].tolist()
        return {row: first + number for number, row in enumerate(order)}

    def _by_lot(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if self._order is None:
            self._order = np.argsort(np.array(self._lots, np.uint64), kind="stable")
        return self._order


class Spool:
    """Encoded examples in a temporary file, found by rank."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[int, int] = {}
        self.sizes: dict[int, int] = {}  # tokens by rank

    def add(self, rank: int, example: Example, pieces: list[Piece]) -> None:
        self._file.seek(0, 2)
        self._places[rank] = self._file.tell()
        self.sizes[rank] = sum(len(piece.ids) for piece in pieces)
        pickle.dump((example, pieces), self._file, protocol=pickle.HIGHEST_PROTOCOL)

    def tokens_from(self, rank: int) -> int:
        """Of the examples of this rank and later ones."""
        return sum(size for one, size in self.sizes.items() if one >= rank)

    def ranks(self) -> list[int]:
        """The examples' ranks in order."""
        return sorted(self._places)

    def close(self) -> None:
        """Give the room on the disk back."""
        self._file.close()

    def get(self, rank: int) -> tuple[Example, list[Piece]]:
        self._file.seek(self._places[rank])
        found: tuple[Example, list[Piece]] = pickle.load(self._file)  # noqa: S301 - our own file
        return found


class Rows:
    """Writes examples to a token store and to the table of examples, a row for each piece."""

    def __init__(self, tokens: TokenWriter, table: ExamplesFile) -> None:
        self._tokens, self._table = tokens, table
        self._examples: list[Example] = []
        self._sizes: list[int] = []
        self.tokens = 0

    def add(self, example: Example, pieces: list[Piece], document: int) -> None:
        for number, piece in enumerate(pieces):
            self._tokens.append(
                piece.ids,
                stream=example.stream,
                document=document,
                weight=example.weight,
                loss=piece.loss,
            )
            last = number == len(pieces) - 1
            ends = example.ends_file and last
            self._examples.append(replace(example, text=piece.text, ends_file=ends))
            self._sizes.append(len(piece.ids))
            self.tokens += len(piece.ids)
        if len(self._examples) >= _TABLE_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting for the table."""
        if self._examples:
            self._table.add(pack_rows(columns_of(self._examples, self._sizes)))
        self._examples, self._sizes = [], []
