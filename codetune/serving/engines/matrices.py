"""An adapter's matrices in memory, and what they add to a layer's products.

Projections that share an input are one product in the decoder, a group. Those of a group that
also have one width (keys and values; gate and up) are one block here: an adapter's part of it
takes two products, however many adapters lie side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch


@dataclass(frozen=True)
class Block:
    """Projections of one input and one width, of one adapter or of neighbours in memory."""

    into: torch.Tensor  # [adapters, in, projections × rank]
    back: torch.Tensor  # [adapters × projections, rank, width]
    columns: slice | None  # where their results stand among those of their group; None: all

    def add(self, x: torch.Tensor, result: torch.Tensor) -> None:
        """Add to `result` [rows, outs] what the adapters make of `x` [rows, in].

        The first rows are the first adapter's; all adapters have equally many.
        """
        if len(self.into) == 1:
            self._add_one(x, result)
        else:
            self._add_each(x, result)

    @cached_property
    def _alone(self) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        return self.into[0], self.back.unbind()

    def _add_one(self, x: torch.Tensor, result: torch.Tensor) -> None:
        into, backs = self._alone
        narrow = x @ into
        own = result if self.columns is None else result[:, self.columns]
        if len(backs) == 1:
            own.addmm_(narrow, backs[0])
            return
        outs, parts = own.chunk(len(backs), 1), narrow.chunk(len(backs), 1)
        for out, part, back in zip(outs, parts, backs, strict=True):
            out.addmm_(part, back)

    def _add_each(self, x: torch.Tensor, result: torch.Tensor) -> None:
        adapters, products = len(self.into), len(self.back)
        narrow = torch.bmm(x.view(adapters, -1, x.shape[1]), self.into)
        rows, projections = narrow.shape[1], products // adapters
        if rows > 1 and projections > 1:
            narrow = narrow.view(adapters, rows, projections, -1).transpose(1, 2)
        narrow = narrow.reshape(products, rows, -1)
        if self.columns is None and (rows == 1 or projections == 1):
            result.view(products, rows, -1).baddbmm_(narrow, self.back)
            return
        # Into columns of a wider result, torch would go adapter by adapter.
        wide = torch.bmm(narrow, self.back).view(adapters, projections, rows, -1).transpose(1, 2)
        own = result if self.columns is None else result[:, self.columns]
        own.view(wide.shape).add_(wide)


Layers = list[dict[str, list[Block]]]  # by layer, by group


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

        def block(width: int, columns: slice | None, outs: Sequence[int]) -> Block:
            into, back = next(left), next(left)
            return Block(
                into.view(len(into), width, len(outs) * self.rank),
                back.view(len(back) * len(outs), self.rank, outs[0]),
                columns,
            )

        return [
            {name: [block(width, *run) for run in _runs(outs)] for name, width, outs in self.groups}
            for _ in range(self.layers)
        ]

    @cached_property
    def _sizes(self) -> list[int]:
        """How many numbers each matrix has."""
        return [
            size
            for _, width, outs in self.groups
            for _, run in _runs(outs)
            for size in (width * len(run) * self.rank, sum(run) * self.rank)
        ] * self.layers


def _runs(outs: Sequence[int]) -> list[tuple[slice | None, list[int]]]:
    """Neighbours of one width, and the columns that are theirs; None: all."""
    runs = [list(run) for _, run in groupby(outs)]
    ends = [sum(map(sum, runs[: number + 1])) for number in range(len(runs))]
    whole = len(runs) == 1
    return [
        (None if whole else slice(end - sum(run), end), run)
        for run, end in zip(runs, ends, strict=True)
    ]


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
