"""Runs the sequences of one set of weights: prompts in stretches, then all of them step by step."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import torch

from codetune.errors import BadRequestError
from codetune.models.load import BaseModel, check_adapter
from codetune.serving.engines.cache import Decode, KeyValueCache, Prefill
from codetune.serving.engines.decoder import Decoder
from codetune.serving.engines.lora import Adapter, LayerLora, Mix, Stack, read_adapter
from codetune.serving.engines.sequence import Sequence

# Prompts are read in stretches of this many tokens, counted from their start, so that running
# answers go on in between, and the numbers do not depend on how busy the server is.
STRETCH = 512
_SHARED = 16  # a common beginning shorter than this is not worth copying
_SMALL_MODEL = 100_000_000  # bytes
_KEPT_CACHE = 64_000_000  # bytes that an idle cache may keep
_STACKS = 8  # combinations of adapters that are kept laid out


class Runner(Protocol):
    """One set of weights with the sequences that use it."""

    @property
    def bytes(self) -> int:
        """Memory for the weights and their adapters."""

    @property
    def adapters(self) -> Collection[str]:
        """The folders of the adapters that are loaded."""

    def load_adapter(self, folder: Path, base: BaseModel) -> None:
        """Load an adapter of `base`, whose weights these are.

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

    def remove(self, sequence: Sequence) -> None:
        """Free its place."""


class DecoderRunner:
    """The lean decoder with any number of LoRA adapters on one copy of its weights."""

    def __init__(self, decoder: Decoder, *, rows: int, cache_bytes: int) -> None:
        self.decoder = decoder
        self.window = decoder.shape.window
        self.adapters: dict[str, Adapter] = {}
        self.cache = KeyValueCache(decoder.shape, decoder.dtype, decoder.device)
        self._most_rows, self._cache_bytes = rows, cache_bytes
        # By row. Sequences whose prompt is still being read stand behind the decoding ones.
        self._sequences: list[Sequence] = []
        self._stacks: dict[tuple[str, ...], Stack] = {}
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    @property
    def bytes(self) -> int:
        return self.decoder.bytes + sum(adapter.bytes for adapter in self.adapters.values())

    def load_adapter(self, folder: Path, base: BaseModel) -> None:
        check_adapter(folder, base=base)
        decoder = self.decoder
        adapter = read_adapter(folder, decoder.shape, decoder.dtype, decoder.device)
        self.adapters[str(folder)] = adapter

    def drop_adapter(self, name: str) -> None:
        self.adapters.pop(name, None)
        self._stacks = {key: stack for key, stack in self._stacks.items() if name not in key}

    def admit(self, sequence: Sequence) -> bool:
        if not self._sequences and self.cache.bytes() > _KEPT_CACHE:
            self.cache.release()
        count = len(self._sequences) + 1
        length = max(min(s.most, self.window) for s in [*self._sequences, sequence])
        rows, capacity = self.cache.fit(count, length)
        if rows * capacity * self.cache.token_bytes() > self._cache_bytes:
            if count == 1:
                raise BadRequestError(
                    f"A request of {length} tokens does not fit into the server's cache.",
                    param="max_tokens",
                )
            return False
        if count > self._most_rows or (self._sequences and not self._sequences[-1].prefilled):
            return False
        self.cache.reserve(count, length)
        sequence.row, sequence.cached = len(self._sequences), 0
        self._sequences.append(sequence)
        self._share(sequence)
        return True

    def prefill(self, sequence: Sequence) -> torch.Tensor | None:
        start, total = sequence.cached, len(sequence.ids)
        end = min(total, (start // STRETCH + 1) * STRETCH)
        self._set_threads()
        ids = torch.tensor(sequence.ids[start:end], device=self.decoder.device)
        positions = torch.arange(start, end, device=self.decoder.device)
        loras, mix = self._mix([sequence])
        logits = self.decoder(
            ids,
            positions,
            Prefill(self.cache, sequence.row, start, end - start),
            loras,
            mix,
            last_only=True,
        )
        sequence.cached = end
        return logits if end == total else None

    def decode(self, sequences: list[Sequence]) -> torch.Tensor:
        sequences.sort(key=lambda s: s.row)
        self._set_threads()
        ids = torch.tensor([s.ids[-1] for s in sequences], device=self.decoder.device)
        attention = Decode(self.cache, [s.cached for s in sequences])
        loras, mix = self._mix(sequences)
        logits = self.decoder(ids, attention.positions, attention, loras, mix)
        for sequence in sequences:
            sequence.cached += 1
        return logits

    def remove(self, sequence: Sequence) -> None:
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
        """Copy what a running sequence has already read of the same beginning."""
        best, length = None, _SHARED - 1
        for other in self._sequences[:-1]:
            if other.adapter == sequence.adapter:
                most = min(other.cached, len(sequence.ids) - 1)
                common = _common(other.ids, sequence.ids, most)
                if common > length:
                    best, length = other, common
        if best is not None:
            self.cache.copy(best.row, sequence.row, length)
            sequence.cached = length

    def _mix(self, sequences: list[Sequence]) -> tuple[list[LayerLora] | None, Mix | None]:
        """The adapters of these rows, side by side, and who uses which."""
        names = tuple(sorted({s.adapter for s in sequences if s.adapter}))
        if not names:
            return None, None
        stack = self._stacks.pop(names, None) or Stack([self.adapters[name] for name in names])
        self._stacks[names] = stack  # the most recently used one stands last
        if len(self._stacks) > _STACKS:
            self._stacks.pop(next(iter(self._stacks)))
        places = {name: place for place, name in enumerate(names)}
        return stack.layers, stack.mix([places.get(s.adapter or "", -1) for s in sequences])

    def _set_threads(self) -> None:
        """A small product is faster on one core, which leaves the others to the HTTP server.

        On a busy machine it is faster by far: threads that wait for each other after every
        operator wait for the scheduler of the operating system.
        """
        threads = 1 if self.decoder.bytes < _SMALL_MODEL else self._cores
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _common(one: list[int], other: list[int], most: int) -> int:
    """How many of the first `most` ids are equal."""
    if one[:most] == other[:most]:
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle)
    return low
