"""Validation by stream: code, instructions and each set mixed in have a loss of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codetune.models.tokens import TokenStore


def validation_batches(store: TokenStore, tokens: int, room: int) -> tuple[tuple[int, ...], ...]:
    """The first examples of every stream, in batches of about `room` tokens and of one stream.

    Up to `tokens` in all, shared as the streams share the store; each gives one example at least.
    """
    streams, lengths = store.streams, store.lengths
    batches: list[tuple[int, ...]] = []
    for stream in np.unique(streams).tolist() if tokens else ():
        numbers = np.flatnonzero(streams == stream)
        own = int(lengths[numbers].sum())
        budget = tokens * own / max(1, store.tokens)
        batches += _batches(numbers.tolist(), lengths[numbers].tolist(), budget, room)
    return tuple(batches)


def _batches(
    numbers: Sequence[int], lengths: Sequence[int], tokens: float, room: int
) -> list[tuple[int, ...]]:
    batches: list[list[int]] = []
    filled, total = room, 0
    for number, length in zip(numbers, lengths, strict=True):
        if total + length > tokens and batches:
            break
        if filled + length > room:
            batches.append([])
            filled = 0
        batches[-1].append(number)
        filled, total = filled + length, total + length
    return [tuple(batch) for batch in batches]


def names_of(store: TokenStore, batches: Sequence[Sequence[int]]) -> list[str]:
    """Each batch's stream."""
    streams = store.streams
    return [store.stream_names[int(streams[batch[0]])] for batch in batches]


def losses_by_stream(names: Sequence[str], sums: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Mean loss of each stream from every batch's (summed loss, tokens)."""
    found: dict[str, tuple[float, int]] = {}
    for name, (total, count) in zip(names, sums, strict=True):
        loss, tokens = found.get(name, (0.0, 0))
        found[name] = loss + total, tokens + count
    return {name: loss / max(1, tokens) for name, (loss, tokens) in found.items()}
