"""The bootstrap against known cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codetune.evaluation.intervals import compare, student


def test_the_estimate_is_a_ratio_of_sums() -> None:
    found = compare([10, 30], [5, 30], [10, 10], ["a", "b"], draws=200)
    assert (found.base.value, found.tuned.value) == (2.0, 1.75)
    assert found.change.value == -0.25


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(1, 9), st.integers(0, 5)),
        min_size=1,
        max_size=30,
    )
)
def test_intervals_are_ordered_and_within_reach(
    rows: list[tuple[float, float, float, int]],
) -> None:
    base, tuned, weights, clusters = map(list, zip(*rows, strict=True))
    found = compare(base, tuned, weights, clusters, draws=200, seed=1)
    for side in (found.base, found.tuned, found.change):
        assert side.low <= side.high
    ratios = [b / w for b, w in zip(base, weights, strict=True)]
    assert min(ratios) - 1e-9 <= found.base.low
    assert found.base.high <= max(ratios) + 1e-9
    assert found.change.value == pytest.approx(found.tuned.value - found.base.value, abs=1e-9)


def test_equal_sides_have_no_difference() -> None:
    values = list(np.random.default_rng(0).uniform(1, 3, 40))
    found = compare(values, values, [1.0] * 40, range(40))
    assert found.change == type(found.change)(0.0, 0.0, 0.0)


def test_pairing_sees_a_small_steady_gain_in_noise() -> None:
    random = np.random.default_rng(0)
    base = random.uniform(1, 5, 60)  # files differ by far more than the sides do
    found = compare(base, base - 0.02, np.ones(60), range(60))
    assert found.change.low == pytest.approx(-0.02)
    assert found.change.high == pytest.approx(-0.02)
    assert found.base.low < found.tuned.value < found.base.high


def test_lines_of_one_file_are_not_independent() -> None:
    """1000 lines of 5 files are 5 observations: clustering must widen the interval."""
    random = np.random.default_rng(0)
    files = np.repeat(np.arange(5), 200)
    values = random.normal(2, 0.5, 5)[files] + random.normal(0, 0.05, 1000)
    by_file = compare(values, values, np.ones(1000), list(files)).base
    by_line = compare(values, values, np.ones(1000), range(1000)).base
    assert by_file.high - by_file.low > 5 * (by_line.high - by_line.low)


@pytest.mark.parametrize(("files", "least"), [(5, 0.85), (8, 0.90), (20, 0.91), (60, 0.91)])
def test_intervals_cover_the_truth(files: int, least: float) -> None:
    random = np.random.default_rng(7)
    hits = 0
    for trial in range(300):
        weights = random.uniform(500, 5000, files)
        values = weights * random.normal(2, 0.4, files)
        side = compare(values, values, weights, range(files), draws=400, seed=trial).base
        hits += side.low <= 2 <= side.high
    assert least <= hits / 300 <= 0.985


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (4, 2.776), (5, 2.571), (8, 2.306), (20, 2.086), (100, 1.984), (10**6, 1.960)],
)
def test_students_quantiles(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=0.004)


def test_the_same_seed_gives_the_same_interval() -> None:
    values, ones = list(np.random.default_rng(0).uniform(0, 1, 20)), [1.0] * 20
    assert compare(values, ones, ones, range(20), seed=3) == compare(
        values, ones, ones, range(20), seed=3
    )
    assert compare(values, ones, ones, range(20), seed=3) != compare(
        values, ones, ones, range(20), seed=4
    )


def test_one_file_is_resampled_by_its_items_and_one_item_not_at_all() -> None:
    found = compare([1, 2, 3], [1, 2, 3], [1, 1, 1], ["a", "a", "a"])
    assert found.base.low < 2 < found.base.high
    single = compare([3], [2], [2], ["a"])
    assert (single.base.low, single.base.high) == (1.5, 1.5)
