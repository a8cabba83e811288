"""An adapter's matrices in memory, and what they add to a layer's products.

Projections that share an input are one product in the decoder, a group, and one block here: an
adapter's part of it takes two products, however many adapters lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch


@dataclass(frozen=True)
class Block:
    """The projections of one group, of one adapter or of neighbours in memory.

    Their results are cut into pieces of one width, so that each piece of each adapter is one
    product of a batch, be the projections as wide as each other (gate and up) or not (queries
    are wider than keys where heads share them).
    """

    into: torch.Tensor  # [adapters, in, projections × rank]
    back: torch.Tensor  # [adapters × pieces, rank, width of a piece]
    outs: list[int]  # widths of the projections
    owners: torch.Tensor | None  # [pieces]: the projection of each; None: it is the piece's number

    def add(self, x: torch.Tensor, result: torch.Tensor) -> None:
        """Add to `result` [rows, outs] what the adapters make of `x` [rows, in].

        The first rows are the first adapter's; all adapters have equally many.
        """
        if len(self.into) == 1:
            self._add_one(x, result)
        else:
            self._add_each(x, result)

    @cached_property
    def backs(self) -> tuple[torch.Tensor, ...]:
        """One adapter's second matrices by projection: [rank, out] each."""
        whole = self.back.transpose(1, 2).flatten(0, 1)
        return tuple(matrix.T for matrix in torch.split(whole, self.outs))

    def _add_one(self, x: torch.Tensor, result: torch.Tensor) -> None:
        narrow = x @ self.into[0]
        if len(self.backs) == 1:
            result.addmm_(narrow, self.backs[0])
            return
        parts = narrow.chunk(len(self.backs), 1)
        for out, part, back in zip(
            torch.split(result, self.outs, 1), parts, self.backs, strict=True
        ):
            out.addmm_(part, back)

    def _add_each(self, x: torch.Tensor, result: torch.Tensor) -> None:
        adapters, products = len(self.into), len(self.back)
        pieces = products // adapters
        narrow = torch.bmm(x.view(adapters, -1, x.shape[1]), self.into)
        rows = narrow.shape[1]
        if self.owners is not None:
            by_projection = narrow.view(adapters, rows, len(self.outs), -1)
            narrow = by_projection.index_select(2, self.owners)
        if rows > 1 and pieces > 1:
            narrow = narrow.view(adapters, rows, pieces, -1).transpose(1, 2)
        narrow = narrow.reshape(products, rows, -1)
        if rows == 1 or pieces == 1:
            result.view(products, rows, -1).baddbmm_(narrow, self.back)
            return
        # Into columns of a wider result, torch would go adapter by adapter.
        wide = torch.bmm(narrow, self.back).view(adapters, pieces, rows, -1).transpose(1, 2)
        result.view(wide.shape).add_(wide)


Layers = list[dict[str, Block]]  # by layer, by group


@dataclass(frozen=True)
class Layout:
    """The shapes of an adapter's blocks, in the order in which its numbers lie in memory."""

    rank: int  # to which all its matrices are padded with zeros
    layers: int
    groups: tuple[tuple[str, int, tuple[int, ...]], ...]  # name, width in, widths out

    @cached_property
    def size(self) -> int:
        """How many numbers one adapter has."""
        return sum(self._sizes)

    def cut(self, numbers: torch.Tensor) -> list[torch.Tensor]:
        """The numbers [adapters × size] by matrix: [adapters, size of the matrix] each."""
        count = len(numbers) // self.size
        pieces = torch.split(numbers, [count * size for size in self._sizes])
        return [piece.view(count, -1) for piece in pieces]

    def blocks(self, pieces: Sequence[torch.Tensor]) -> Layers:
        """The blocks of neighbours, from their pieces: [adapters, size of the matrix] each."""
        left = iter(pieces)

        def block(width: int, outs: tuple[int, ...]) -> Block:
            into, back = next(left), next(left)
            piece = math.gcd(*outs)
            count = sum(outs) // piece
            return Block(
                into.view(len(into), width, len(outs) * self.rank),
                # A product of one row reads a matrix faster whose short side lies innermost.
                back.view(len(back) * count, piece, self.rank).transpose(1, 2),
                list(outs),
                _owners(outs, back.device) if count > len(outs) else None,
            )

        return [
            {name: block(width, outs) for name, width, outs in self.groups}
            for _ in range(self.layers)
        ]

    @cached_property
    def _sizes(self) -> list[int]:
        """How many numbers each matrix has."""
        return [
            size
            for _, width, outs in self.groups
            for size in (width * len(outs) * self.rank, sum(outs) * self.rank)
        ] * self.layers


@cache
def _owners(outs: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The projection of each piece of its group's results."""
    piece = math.gcd(*outs)
    numbers = [number for number, out in enumerate(outs) for _ in range(out // piece)]
    return torch.tensor(numbers, device=device)


@dataclass(frozen=True)
class Adapter:
    """One adapter's numbers."""

    layout: Layout
    pieces: Sequence[torch.Tensor]  # [1, size of the matrix] each

    @staticmethod
    def zeros(layout: Layout, dtype: torch.dtype, device: torch.device) -> Adapter:
        return Adapter(layout, layout.cut(torch.zeros(layout.size, dtype=dtype, device=device)))

    @cached_property
    def layers(self) -> Layers:
        return self.layout.blocks(self.pieces)

    @property
    def bytes(self) -> int:
        return self.layout.size * self.pieces[0].itemsize

    def copy(self) -> Adapter:
        """The same numbers in memory of their own."""
        made = Adapter.zeros(self.layout, self.pieces[0].dtype, self.pieces[0].device)
        made.take(self)
        return made

    def take(self, other: Adapter) -> None:
        """Overwrite the numbers with those of another one of this layout."""
        for mine, theirs in zip(self.pieces, other.pieces, strict=True):
            mine.copy_(theirs)
