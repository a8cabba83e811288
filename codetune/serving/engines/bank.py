"""The loaded adapters of one base, and many of them in one batch without merging.

Rows of a batch that use different adapters are one batched product: adapter i's matrices lie in
place i of an arena, its rows in place i of the input. A row costs what its own adapter's rank
costs, whoever else is in the batch. (S-LoRA and Punica do the same with kernels of their own for
CUDA: arXiv 2311.03285, 2310.18547.)

Every adapter lies in memory once: parked in tensors of its own, or in the arena of its rank
while answers use it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from codetune.serving.engines.lora import Adapter, Layers, Matrices, layers_bytes


class Mix(Protocol):
    """Which adapter each row of a batch uses."""

    def add(self, layer: int, group: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """`result` [rows, out] and what the adapters add for `x` [rows, in]; may change it."""


@dataclass(frozen=True)
class Same:
    """All rows use one adapter."""

    layers: Layers

    def add(self, layer: int, group: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        return self.layers[layer][group].add(x, result)


@dataclass(frozen=True)
class Part:
    """The rows whose adapters lie in one arena.

    The input is laid out as [places, rows of the place, in]; places with fewer rows than others
    are filled up with some row, whose result is dropped.
    """

    layers: Layers  # the arena's first places: into [places, in, …], backs [places, rank, out]
    take: torch.Tensor | None  # rows of the batch in the arena's order; None: they are in order
    give: torch.Tensor | None  # which results count; None: all
    rows: torch.Tensor  # … and whose they are

    def add(self, layer: int, group: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        matrices = self.layers[layer][group]
        places, width = matrices.into.shape[:2]
        taken = x if self.take is None else x[self.take]
        narrow = torch.bmm(taken.view(places, -1, width), matrices.into)
        rank = matrices.backs[0].shape[1]
        parts = [
            torch.bmm(narrow[:, :, i * rank : (i + 1) * rank], back)
            for i, back in enumerate(matrices.backs)
        ]
        wide = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        wide = wide.flatten(0, 1)
        if self.take is None:
            return result.add_(wide)
        return result.index_add_(0, self.rows, wide if self.give is None else wide[self.give])


@dataclass(frozen=True)
class Different:
    """Rows of several adapters, and of none."""

    parts: Sequence[Part]

    def add(self, layer: int, group: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            result = part.add(layer, group, x, result)
        return result


class AdapterBank:
    """Adapters by name. Loaded and dropped by any thread, mixed by the scheduler's."""

    def __init__(self) -> None:
        self._adapters: dict[str, Adapter] = {}  # in tensors of their own, or views of an arena
        self._arenas: dict[int, _Arena] = {}  # by their rank
        self._lock = threading.Lock()
        self._last: tuple[tuple[str | None, ...], Mix | None] = ((), None)

    @property
    def names(self) -> Collection[str]:
        return list(self._adapters)

    @property
    def bytes(self) -> int:
        """What all adapters take, the arenas' free places included."""
        with self._lock:
            placed = {name for arena in self._arenas.values() for name in arena.places}
            parked = sum(a.bytes for name, a in self._adapters.items() if name not in placed)
            return parked + sum(layers_bytes(arena.layers) for arena in self._arenas.values())

    def put(self, name: str, adapter: Adapter) -> None:
        with self._lock:
            self._adapters[name] = adapter

    def drop(self, name: str) -> None:
        """Forget an adapter that no row uses."""
        with self._lock:
            adapter = self._adapters.pop(name, None)
            self._last = ((), None)  # it may hold the adapter's matrices
            arena = self._arenas.get(adapter.rank) if adapter else None
            if adapter is not None and arena is not None:
                arena.places.pop(name, None)
                if not arena.places:
                    del self._arenas[adapter.rank]

    def alone(self, name: str) -> Mix:
        """One adapter for all rows, for another thread than the scheduler's.

        A copy: what lies in an arena is moved while answers are written.
        """
        with self._lock:
            return Same(_copied(self._adapters[name].layers))

    def order(self, names: Sequence[str | None]) -> list[int]:
        """Which row stands where in a batch, best: each at its adapter's place, if it has one."""
        rows = list(range(len(names)))
        if len(names) < 2 or None in names or len(set(names)) < len(names):
            return rows
        used = [name for name in names if name is not None]
        with self._lock:
            ranks = {self._adapters[name].rank for name in used}
            if len(ranks) > 1:
                return rows
            arena = self._arena(ranks.pop())
            arena.bring(used)
            return sorted(rows, key=lambda row: arena.places[used[row]])

    def mix(self, names: Sequence[str | None]) -> Mix | None:
        """`names[i]` is the adapter of row i, or None for the base."""
        key = tuple(names)
        with self._lock:
            if key != self._last[0]:
                self._last = (key, self._mix(key))
            return self._last[1]

    def _mix(self, names: tuple[str | None, ...]) -> Mix | None:
        used = sorted({name for name in names if name is not None})
        if not used:
            return None
        if len(used) == 1 and None not in names:
            return Same(self._adapters[used[0]].layers)
        parts = []
        for rank in sorted({self._adapters[name].rank for name in used}):
            own = [name for name in used if self._adapters[name].rank == rank]
            arena = self._arena(rank)
            arena.bring(own)
            parts.append(arena.part(names, own))
        return Different(parts)

    def _arena(self, rank: int) -> _Arena:
        if rank not in self._arenas:
            self._arenas[rank] = _Arena(rank, self._adapters)
        return self._arenas[rank]


class _Arena:
    """Places for adapters of one (padded) rank, side by side in memory."""

    def __init__(self, rank: int, adapters: dict[str, Adapter]) -> None:
        self.layers: Layers = []
        self.places: dict[str, int] = {}  # the most recently used one stands last
        self._rank, self._capacity, self._adapters = rank, 0, adapters

    def bring(self, names: list[str]) -> None:
        """See to it that all of `names` lie near the arena's beginning."""
        if len(names) > self._capacity:
            self._grow(len(names))
        # A batch reads all places up to its last: to move one costs as much as some twenty steps
        # with an idle one.
        limit = min(self._capacity, len(names) + 1 + len(names) // 4)
        for name in names:
            if self.places.get(name, limit) >= limit:
                if name in self.places:
                    self._park(name)
                self._put(name, self._vacate(limit, names))
            self.places[name] = self.places.pop(name)

    def part(self, names: Sequence[str | None], own: list[str]) -> Part:
        """The rows of `names` that use one of `own`."""
        count = 1 + max(self.places[name] for name in own)
        rows: list[list[int]] = [[] for _ in range(count)]
        for row, name in enumerate(names):
            if name in own:
                rows[self.places[name]].append(row)
        most = max(map(len, rows))
        take = [row for place in rows for row in place + [0] * (most - len(place))]
        give = [i * most + j for i, place in enumerate(rows) for j in range(len(place))]
        device = self.layers[0]["out"].into.device
        whose = torch.tensor([row for place in rows for row in place], device=device)
        layers = [
            {g: Matrices(m.into[:count], tuple(b[:count] for b in m.backs)) for g, m in at.items()}
            for at in self.layers
        ]
        if take == list(range(len(names))):
            return Part(layers, None, None, whose)
        chosen = None if len(give) == len(take) else torch.tensor(give, device=device)
        return Part(layers, torch.tensor(take, device=device), chosen, whose)

    def _grow(self, count: int) -> None:
        """Room for at least `count`; what lies here is laid out anew."""
        stay = list(self.places)
        for name in stay:
            self._park(name)
        self.layers = []  # free before the larger one is made
        self._capacity = 1 << (count - 1).bit_length()
        self.layers = [
            {group: self._empty(matrices) for group, matrices in layer.items()}
            for layer in next(iter(self._adapters.values())).layers
        ]
        for place, name in enumerate(stay):
            self._put(name, place)

    def _empty(self, like: Matrices) -> Matrices:
        def zeros(*size: int) -> torch.Tensor:
            return like.into.new_zeros(self._capacity, *size)

        return Matrices(
            zeros(len(like.into), len(like.backs) * self._rank),
            tuple(zeros(self._rank, back.shape[1]) for back in like.backs),
        )

    def _vacate(self, limit: int, keep: list[str]) -> int:
        """A place below `limit` that is free, or was used longest ago and not by `keep`."""
        taken = set(self.places.values())
        if free := [place for place in range(limit) if place not in taken]:
            return free[0]
        oldest = next(n for n, place in self.places.items() if place < limit and n not in keep)
        place = self.places[oldest]
        self._park(oldest)
        return place

    def _put(self, name: str, place: int) -> None:
        """Move an adapter into a free place."""
        views = [
            {g: Matrices(m.into[place], tuple(b[place] for b in m.backs)) for g, m in at.items()}
            for at in self.layers
        ]
        for layer, own in zip(views, self._adapters[name].layers, strict=True):
            for group, view in layer.items():
                view.into.copy_(own[group].into)
                for target, source in zip(view.backs, own[group].backs, strict=True):
                    target.copy_(source)
        self._adapters[name] = Adapter(self._rank, views)
        self.places[name] = place

    def _park(self, name: str) -> None:
        """Move an adapter out, into tensors of its own."""
        self._adapters[name] = Adapter(self._rank, _copied(self._adapters[name].layers))
        del self.places[name]


def _copied(layers: Layers) -> Layers:
    return [
        {g: Matrices(m.into.clone(), tuple(b.clone() for b in m.backs)) for g, m in at.items()}
        for at in layers
    ]
