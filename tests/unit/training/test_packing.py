"""Best-fit-decreasing packing."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codetune.errors import TrainingError
from codetune.training.packing import micro_batches, pack


@given(st.lists(st.integers(1, 100), max_size=60))
def test_every_document_is_in_one_row_that_holds_it(lengths: list[int]) -> None:
    rows = pack(lengths, 100)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 100 for row in rows)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60))
def test_rows_are_what_best_fit_decreasing_gives(lengths: list[int]) -> None:
    """Against the textbook's search through all rows."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [i for i, room in enumerate(rooms) if room >= length]
        if fits:
            rooms[min(fits, key=lambda i: rooms[i])] -= length
        else:
            rooms.append(100 - length)
    packed = pack(lengths, 100)
    assert sorted(100 - sum(lengths[i] for i in row) for row in packed) == sorted(rooms)


def test_best_fit_fills_rows() -> None:
    assert sorted(map(sorted, pack([60, 40, 50, 50, 100], 100))) == [[0, 1], [2, 3], [4]]


def test_a_million_documents_take_seconds() -> None:
    lengths = np.random.default_rng(0).integers(10, 1024, 200_000)
    start = time.process_time()
    rows = pack(lengths, 1024)
    assert time.process_time() - start < 3
    assert lengths.sum() / (len(rows) * 1024) > 0.99


def test_too_long_document_is_refused_with_advice() -> None:
    with pytest.raises(TrainingError, match=r"up to 101 tokens.*window is 100"):
        pack([5, 101], 100)


def test_order_depends_on_seed_and_epoch_only() -> None:
    rows = [[i] for i in range(20)]
    first = micro_batches(rows, 3, seed=1, epoch=0)
    assert first == micro_batches(rows, 3, seed=1, epoch=0)
    assert first != micro_batches(rows, 3, seed=1, epoch=1)
    assert first != micro_batches(rows, 3, seed=2, epoch=0)
    assert [len(batch) for batch in first] == [3, 3, 3, 3, 3, 3, 2]
    assert sorted(i for batch in first for i in batch) == list(range(20))
