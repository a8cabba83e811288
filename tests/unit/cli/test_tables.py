"""What the terminal says of a scorecard is what the report says of it."""

from __future__ import annotations

import pytest

from codetune.cli.tables import scorecard_table

Scores = dict[str, dict[str, dict[str, float]]]


def scores(change: dict[str, float]) -> Scores:
    """A scorecard whose exact answers went from 2.5 % to 4.5 % of the gaps."""
    bits = {"value": 2.0, "low": 1.9, "high": 2.1}
    return {
        "base": {"bits_per_byte": bits, "fim_exact_match": about(0.025)},
        "tuned": {"bits_per_byte": {**bits, "value": 1.8}, "fim_exact_match": about(0.045)},
        "change": {
            "bits_per_byte": {"value": -0.2, "low": -0.3, "high": -0.1},
            "fim_exact_match": change,
        },
    }


def about(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.024, "high": value + 0.024}


def row_of(output: str, label: str) -> str:
    return next(" ".join(line.split()) for line in output.splitlines() if line.startswith(label))


def test_what_may_be_chance_is_marked_and_shares_change_by_points(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scorecard_table(scores({"value": 0.02, "low": -0.005, "high": 0.051}))
    output = capsys.readouterr().out
    assert row_of(output, "FIM exact") == "FIM exact match 2.5 % ±2.4 4.5 % ±2.4 +2.0 points ≈"
    assert row_of(output, "bits per byte, held") == (
        "bits per byte, held-out 2.000 ±0.100 1.800 ±0.100 -10.0 %"
    )
    assert row_of(output, "FIM edit") == "FIM edit similarity – –"
    assert output.splitlines()[-1].startswith("≈ no clear difference")


def test_nothing_is_marked_where_every_difference_is_clear(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scorecard_table(scores({"value": 0.02, "low": 0.005, "high": 0.051}))
    output = capsys.readouterr().out
    assert "+2.0 points" in output
    assert "≈" not in output
