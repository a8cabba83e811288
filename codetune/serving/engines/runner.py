"""Runs the sequences of one set of weights: prompts in stretches, then all of them step by step."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from codetune.errors import BadRequestError
from codetune.models.load import BaseModel, check_adapter
from codetune.serving.engines.bank import AdapterBank
from codetune.serving.engines.cache import Decode, KeyValueCache, Prefill
from codetune.serving.engines.decoder import Decoder
from codetune.serving.engines.lora import check_shapes, layout_of, read_adapter
from codetune.serving.engines.prefixes import SHORTEST, PrefixCache, common_length, owner_of
from codetune.serving.engines.sequence import Sequence

# Prompts are read in stretches of this many tokens, counted from their start, so that running
# answers go on in between, and the numbers do not depend on how busy the server is.
STRETCH = 512
_SMALL_MODEL = 100_000_000  # bytes
_KEPT_CACHE = 64_000_000  # bytes that an idle cache may keep


@dataclass(frozen=True)
class Usage:
    """What a runner holds, in bytes."""

    weights: int
    adapters: int
    cache: int  # keys and values of running answers
    prefixes: int  # … and of those that have ended


class Runner(Protocol):
    """One set of weights with the sequences that use it."""

    @property
    def adapters(self) -> Collection[str]:
        """The names of the adapters that are loaded."""

    def usage(self) -> Usage:
        """The memory it holds."""

    def measure(self, folder: Path, base: BaseModel) -> int:
        """The bytes that an adapter of `base` would take; its weights are not read.

        Raises:
            ModelError, UnservableModelError: it is damaged or does not fit.
        """

    def load_adapter(self, folder: Path, base: BaseModel, name: str) -> None:
        """Load an adapter of `base`, whose weights these are, under a name.

        Raises:
            ModelError, UnservableModelError: it is damaged or does not fit.
        """

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter that no sequence uses."""

    def admit(self, sequence: Sequence) -> bool:
        """Give it a place; False when it has to wait for one."""

    def prefill(self, sequence: Sequence) -> torch.Tensor | None:
        """Read a stretch of its prompt; the logits [1, vocabulary] after the last one."""

    def decode(self, sequences: list[Sequence]) -> torch.Tensor:
        """One step of all whose prompts are read: logits [sequences, vocabulary]."""

    def remove(self, sequence: Sequence, *, keep: bool) -> None:
        """Free its place; with `keep` its tenant's next request may go on from what was read."""


class DecoderRunner:
    """The lean decoder with any number of LoRA adapters on one copy of its weights."""

    def __init__(
        self, decoder: Decoder, *, rows: int, cache_bytes: int, reuse: bool = True
    ) -> None:
        self.decoder = decoder
        self.window = decoder.shape.window
        self.bank = AdapterBank()
        self.cache = KeyValueCache(decoder.shape, decoder.dtype, decoder.device)
        self.prefixes = PrefixCache()
        self._most_rows, self._cache_bytes, self._reuse = rows, cache_bytes, reuse
        # By row. Sequences whose prompt is still being read stand behind the decoding ones.
        self._sequences: list[Sequence] = []
        self._dropped: deque[str] = deque()  # adapters whose prefixes are to be forgotten
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    @property
    def adapters(self) -> Collection[str]:
        return self.bank.names

    def usage(self) -> Usage:
        cache, prefixes = self.cache.bytes(), self.prefixes.bytes
        return Usage(self.decoder.bytes, self.bank.bytes, cache, prefixes)

    def measure(self, folder: Path, base: BaseModel) -> int:
        check_adapter(folder, base=base)
        layout = layout_of(check_shapes(folder, self.decoder.shape), self.decoder.shape)
        return layout.size * self.decoder.dtype.itemsize

    def load_adapter(self, folder: Path, base: BaseModel, name: str) -> None:
        check_adapter(folder, base=base)
        decoder = self.decoder
        adapter = read_adapter(folder, decoder.shape, decoder.dtype, decoder.device)
        self.bank.put(name, adapter)

    def drop_adapter(self, name: str) -> None:
        self.bank.drop(name)
        self._dropped.append(name)

    def admit(self, sequence: Sequence) -> bool:
        while self._dropped:  # by the loader's thread; the prefixes belong to this one
            self.prefixes.forget(self._dropped.popleft())
        if not self._sequences and self.cache.bytes() > _KEPT_CACHE:
            self.cache.release()
        count = len(self._sequences) + 1
        length = max(min(s.most, self.window) for s in [*self._sequences, sequence])
        rows, capacity = self.cache.fit(count, length)
        needed = rows * capacity * self.cache.token_bytes()
        if needed > self._cache_bytes:
            if count == 1:
                raise BadRequestError(
                    f"A request of {length} tokens does not fit into the server's cache.",
                    param="max_tokens",
                )
            return False
        if count > self._most_rows or (self._sequences and not self._sequences[-1].prefilled):
            return False
        self.prefixes.shrink(self._cache_bytes - needed)  # what runs goes before what has ended
        self.cache.reserve(count, length)
        sequence.row, sequence.cached = len(self._sequences), 0
        self._sequences.append(sequence)
        if self._reuse:
            self._share(sequence)
        return True

    def prefill(self, sequence: Sequence) -> torch.Tensor | None:
        start, total = sequence.cached, len(sequence.ids)
        end = min(total, (start // STRETCH + 1) * STRETCH)
        self.set_threads()
        ids = torch.tensor(sequence.ids[start:end], device=self.decoder.device)
        positions = torch.arange(start, end, device=self.decoder.device)
        mix = self.bank.arrange([sequence.adapter]).mix
        logits = self.decoder(
            ids,
            positions,
            Prefill(self.cache, sequence.row, start, end - start),
            mix,
            last_only=True,
        )
        sequence.cached = end
        return logits if end == total else None

    def decode(self, sequences: list[Sequence]) -> torch.Tensor:
        sequences.sort(key=lambda sequence: sequence.row)
        arrangement = self.bank.arrange([sequence.adapter for sequence in sequences])
        sequences[:] = [sequences[i] for i in arrangement.order]
        self.set_threads()
        ids = torch.tensor([s.ids[-1] for s in sequences], device=self.decoder.device)
        attention = Decode(self.cache, [s.row for s in sequences], [s.cached for s in sequences])
        logits = self.decoder(ids, attention.positions, attention, arrangement.mix)
        for sequence in sequences:
            sequence.cached += 1
        return logits

    def remove(self, sequence: Sequence, *, keep: bool) -> None:
        if keep and self._reuse:
            self.prefixes.keep(sequence, self.cache, self._cache_bytes - self.cache.bytes())
        rows = self._sequences
        hole, last = sequence.row, len(rows) - 1
        # A prompt that is being read stays behind the decoding rows.
        while hole < last:
            source = last - 1 if not rows[last].prefilled and last - 1 > hole else last
            self.cache.copy(source, hole, rows[source].cached)
            rows[hole] = rows[source]
            rows[hole].row = hole
            hole = source
        rows.pop()

    def _share(self, sequence: Sequence) -> None:
        """Copy what its tenant has had read of the same beginning with the same weights."""
        owner, most = owner_of(sequence), len(sequence.ids) - 1
        kept, length = self.prefixes.find(owner, sequence.ids, most)
        best = None
        for other in self._sequences[:-1]:
            if owner_of(other) == owner:
                common = common_length(other.ids, sequence.ids, min(most, other.cached))
                if common > max(length, SHORTEST - 1):
                    best, length = other, common
        if best is not None:
            self.cache.copy(best.row, sequence.row, length)
        elif kept is not None:
            self.cache.fill(sequence.row, kept.values[..., :length, :])
        sequence.cached = sequence.reused = length

    def set_threads(self) -> None:
        """A small product is faster on one core, which leaves the others to the HTTP server.

        On a busy machine it is faster by far: threads that wait for each other after every
        operator wait for the scheduler of the operating system.
        """
        threads = 1 if self.decoder.bytes < _SMALL_MODEL else self._cores
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
