"""The loaded adapters of one base, and many of them in one batch without merging.

Rows of a batch that use different adapters are one batched product: the adapters' matrices lie
side by side in an arena, in the order of their rows, so that nothing is gathered. A row costs
what its own adapter's rank costs, whoever else is in the batch. (S-LoRA and Punica do the same
with kernels of their own for CUDA: arXiv 2311.03285, 2310.18547.)

Every adapter lies in memory once: parked in a tensor of its own, or in the arena of its layout.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from codetune.serving.engines.matrices import Adapter, Layers, Layout
from codetune.serving.engines.pages import on_large_pages


class Mix(Protocol):
    """Which adapter each row of a batch uses."""

    def add(self, layer: int, group: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """`result` [rows, outs], changed by what the adapters add for `x` [rows, in]."""


@dataclass(frozen=True)
class Product:
    """One adapter, or neighbours in an arena, for equally many rows each."""

    layers: Layers

    def add(self, layer: int, group: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        self.layers[layer][group].add(x, result)
        return result


@dataclass(frozen=True)
class Parts:
    """Stretches of rows, each with a product of its own; rows of none are plain."""

    parts: Sequence[tuple[slice, Product]]

    def add(self, layer: int, group: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        for rows, product in self.parts:
            product.add(layer, group, x[rows], result[rows])
        return result


@dataclass(frozen=True)
class Arrangement:
    """The rows of a batch, and their mix when they stand in this order; None: all are plain."""

    order: Sequence[int]
    mix: Mix | None


_KEPT_NEIGHBOURS = 64  # stretches of an arena whose blocks are not made anew
_NOTHING: tuple[tuple[str | None, ...], Arrangement] = ((), Arrangement((), None))


class AdapterBank:
    """Adapters by name. Loaded and dropped by any thread, arranged by the scheduler's."""

    def __init__(self) -> None:
        self._adapters: dict[str, Adapter] = {}  # in memory of their own, or views of an arena
        self._arenas: dict[Layout, _Arena] = {}
        self._lock = threading.Lock()
        self._last = _NOTHING

    @property
    def names(self) -> Collection[str]:
        return list(self._adapters)

    @property
    def bytes(self) -> int:
        """What all adapters take, the arenas' free places included."""
        with self._lock:
            placed = {name for arena in self._arenas.values() for name in arena.holders}
            parked = sum(a.bytes for name, a in self._adapters.items() if name not in placed)
            return parked + sum(arena.numbers.nbytes for arena in self._arenas.values())

    def put(self, name: str, adapter: Adapter) -> None:
        with self._lock:
            self._adapters[name] = adapter

    def drop(self, name: str) -> None:
        """Forget an adapter that no row uses."""
        with self._lock:
            self._last = _NOTHING  # it may hold the adapter's matrices
            adapter = self._adapters.pop(name, None)
            arena = self._arenas.get(adapter.layout) if adapter else None
            if adapter is not None and arena is not None:
                arena.leave(name)
                if not any(arena.holders):
                    del self._arenas[adapter.layout]

    def alone(self, name: str) -> Mix:
        """One adapter for all rows, for another thread than the scheduler's.

        A copy: what lies in an arena is moved while answers are written.
        """
        with self._lock:
            return Product(self._adapters[name].copy().layers)

    def arrange(self, names: Sequence[str | None]) -> Arrangement:
        """`names[i]` is the adapter of row i, or None for the base.

        The mix is good until another batch of several adapters is arranged.
        """
        key = tuple(names)
        with self._lock:
            if len(set(key)) == 1:
                mix = None if key[0] is None else Product(self._adapters[key[0]].layers)
                return Arrangement(range(len(key)), mix)
            if key != self._last[0]:
                self._last = _NOTHING  # adapters move: without an end, the old one is not good
                self._last = (key, self._arranged(key))
            return self._last[1]

    def _arranged(self, names: tuple[str | None, ...]) -> Arrangement:
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            if name is not None:
                rows.setdefault(name, []).append(row)
        # One product takes adapters of one layout that have equally many rows.
        alike: dict[tuple[Layout, int], list[str]] = {}
        for name, own in rows.items():
            alike.setdefault((self._adapters[name].layout, len(own)), []).append(name)
        self._lay_side_by_side(alike)
        order: list[int] = []
        parts: list[tuple[slice, Product]] = []
        for (layout, _), together in alike.items():
            start = len(order)
            order += [row for name in together for row in rows[name]]
            parts.append((slice(start, len(order)), self._product(layout, together)))
        plain = [row for row, name in enumerate(names) if name is None]
        whole = len(parts) == 1 and not plain
        return Arrangement([*order, *plain], parts[0][1] if whole else Parts(parts))

    def _lay_side_by_side(self, alike: Mapping[tuple[Layout, int], Sequence[str]]) -> None:
        several: dict[Layout, list[str]] = {}
        for (layout, _), together in alike.items():
            if len(together) > 1:
                several.setdefault(layout, []).extend(together)
        for layout, names in several.items():
            if layout not in self._arenas:
                self._arenas[layout] = _Arena(layout, self._adapters)
            self._arenas[layout].bring(names)

    def _product(self, layout: Layout, names: Sequence[str]) -> Product:
        if len(names) == 1:
            return Product(self._adapters[names[0]].layers)
        return Product(self._arenas[layout].neighbours(names))


class _Arena:
    """Places for adapters of one layout, side by side in memory."""

    def __init__(self, layout: Layout, adapters: dict[str, Adapter]) -> None:
        self.holders: list[str | None] = []  # by place
        self.numbers = torch.empty(0)  # [places × layout.size]
        self._pieces: list[torch.Tensor] = []  # [places, size of the matrix] each
        self._places: list[Adapter] = []
        self._neighbours: dict[tuple[int, int], Layers] = {}  # by first place and number
        self._layout, self._adapters = layout, adapters

    def bring(self, names: Sequence[str]) -> None:
        """See to it that `names` lie at the beginning, in this order."""
        if len(names) > len(self.holders):
            self._lay_out(len(names))
        for name in names:
            if name not in self.holders:
                self._take_in(name, names)
        self._order(names)

    def neighbours(self, names: Sequence[str]) -> Layers:
        """The blocks of those who lie side by side."""
        start, count = self.holders.index(names[0]), len(names)
        if (start, count) not in self._neighbours:
            if len(self._neighbours) == _KEPT_NEIGHBOURS:
                self._neighbours.clear()
            pieces = [piece[start : start + count] for piece in self._pieces]
            self._neighbours[start, count] = self._layout.blocks(pieces)
        return self._neighbours[start, count]

    def leave(self, name: str) -> None:
        """Forget a holder. An arena that is half empty is made smaller."""
        if name in self.holders:
            self.holders[self.holders.index(name)] = None
        held = len(self.holders) - self.holders.count(None)
        if 0 < 2 * held <= len(self.holders):
            self._lay_out(held)

    def _lay_out(self, count: int) -> None:
        """A new arena for `count` or more, with those who are here.

        The old one is left as it is: a step may be reading it.
        """
        stay = [name for name in self.holders if name is not None]
        places = 1 << (count - 1).bit_length()
        like = next(iter(self._adapters.values())).pieces[0]
        self.numbers = on_large_pages(like.new_empty(places * self._layout.size))
        self._pieces = self._layout.cut(self.numbers)
        self._places = [
            Adapter(self._layout, [piece[place : place + 1] for piece in self._pieces])
            for place in range(places)
        ]
        self._neighbours = {}
        self.holders = [None] * places
        for place, name in enumerate(stay):
            self._put(name, place)

    def _take_in(self, name: str, staying: Collection[str]) -> None:
        """Give a parked adapter a place: a free one, or that of one not in `staying`."""
        place = min(
            (p for p, holder in enumerate(self.holders) if holder not in staying),
            key=lambda p: self.holders[p] is not None,
        )
        if (other := self.holders[place]) is not None:
            self._adapters[other] = self._adapters[other].copy()
        self._put(name, place)

    def _put(self, name: str, place: int) -> None:
        self._places[place].take(self._adapters[name])
        self._adapters[name], self.holders[place] = self._places[place], name

    def _order(self, names: Sequence[str]) -> None:
        """Bring holders to the beginning; who lies there goes to where they came from."""
        count, before = len(names), self.holders
        left = [place for place in range(count, len(before)) if before[place] in names]
        after = [*names, *before[count:]]
        for place, holder in zip(left, (h for h in before[:count] if h not in names), strict=True):
            after[place] = holder
        moved = [p for p, name in enumerate(after) if name is not None and name != before[p]]
        to = torch.tensor(moved, device=self.numbers.device)
        source = torch.tensor([before.index(after[p]) for p in moved], device=to.device)
        # All room is taken before anything moves: memory that runs out leaves all where it was.
        room = self.numbers.new_empty(len(moved) * max(p.shape[1] for p in self._pieces))
        for piece in self._pieces if moved else ():
            there = room[: len(moved) * piece.shape[1]].view(len(moved), -1)
            piece.index_copy_(0, to, torch.index_select(piece, 0, source, out=there))
        for place in moved:
            name = after[place]
            assert name is not None
            self._adapters[name] = self._places[place]
        self.holders = after
