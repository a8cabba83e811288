"""The bit-parallel edit distance against the textbook table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codetune.distance import (
    distance_to_beginning,
    edit_distance,
    edit_similarity,
    normalised,
)

words = st.text(alphabet="ab\n é✓", max_size=80)


def table(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


@settings(max_examples=200, deadline=None)
@given(words, words)
def test_distance_is_the_tables(a: str, b: str) -> None:
    assert edit_distance(a, b) == table(a, b)


@settings(max_examples=100, deadline=None)
@given(words, words)
def test_distance_to_a_beginning_is_the_least_of_all(a: str, b: str) -> None:
    assert distance_to_beginning(a, b) == min(table(a, b[:end]) for end in range(len(b) + 1))


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0), ("a" * 70, "b", 70)],
)
def test_known_distances(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == distance


def test_similarity() -> None:
    assert edit_similarity("abcd", "abcx") == 0.75
    assert edit_similarity("", "") == 1.0
    assert edit_similarity("abc", "") == 0.0


def test_only_white_space_that_nobody_sees_is_ignored() -> None:
    assert normalised("  a \n\tb\t\r\n\n\n") == "  a\n\tb"
    assert normalised(" a") != normalised("a")
