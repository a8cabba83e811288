"""The gate's truth table."""

from __future__ import annotations

import pytest

from codetune.evaluation.gate import Verdict, judge
from codetune.records import Interval


def at(value: float, half: float = 0.0) -> Interval:
    return Interval(value, value - half, value + half)


def verdict(**changes: object) -> Verdict:
    arguments: dict[str, object] = {
        "base": at(2.0, 0.1),
        "tuned": at(1.5, 0.1),
        "change": at(-0.5, 0.05),
        "general_base": at(1.0, 0.1),
        "general_tuned": at(1.02, 0.1),
        "fim_change": at(0.05, 0.02),
        "files": 20,
        "forgetting_limit": 0.03,
    }
    return judge(**{**arguments, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "promoted", "words"),
    [
        ({}, True, "Better on held-out code: 2.000 → 1.500 bits per byte"),
        ({"change": at(-0.01, 0.05)}, False, "Not proved better"),
        ({"change": at(-0.05, 0.05)}, False, "Not proved better"),  # touches zero
        ({"change": at(0.5, 0.05)}, False, "Worse on held-out code"),
        ({"general_tuned": at(1.03)}, True, "Kept its general knowledge"),
        ({"general_tuned": at(1.0301)}, False, "Forgot too much general code"),
        ({"general_tuned": at(0.9)}, True, "-10.0 %"),
        # The limit is a share of the base's bits, not a number of bits.
        ({"general_base": at(2.0), "general_tuned": at(2.05)}, True, "+2.5 %"),
        ({"general_base": at(0.5), "general_tuned": at(0.52)}, False, "+4.0 %"),
        ({"general_tuned": at(1.04), "forgetting_limit": 0.05}, True, "limit +5.0 %"),
        ({"general_tuned": at(1.0001), "forgetting_limit": 0.0}, False, "Forgot"),
        ({"general_base": None, "general_tuned": None}, False, "Forgetting was not measured"),
        ({"fim_change": None}, True, "not measured"),
        ({"fim_change": at(-0.01, 0.02)}, True, "no clear difference"),
        ({"fim_change": at(-0.1, 0.02)}, False, "got worse"),
        ({"fim_change": at(0.1, 0.02)}, True, "closer to the truth"),
        ({"files": 4}, False, "Only 4 held-out files"),
        ({"files": 1}, False, "Only 1 held-out file could"),
        ({"files": 5}, True, "Better"),
    ],
)
def test_the_verdict_and_its_words(changes: dict[str, object], promoted: bool, words: str) -> None:
    found = verdict(**changes)
    assert found.promoted is promoted
    assert any(words in reason for reason in found.reasons)
