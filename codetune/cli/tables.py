"""Tables that several commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

ROWS = [
    # field, label, digits, lower is better
    ("bits_per_byte", "bits per byte, held-out", 3, True),
    ("fim_exact_match", "FIM exact match", 3, False),
    ("fim_edit_similarity", "FIM edit similarity", 3, False),
    ("general_bits_per_byte", "bits per byte, general", 3, True),
]


def scorecard_table(scorecard: Mapping[str, Any]) -> None:
    """Base and tuned beside each other, with 95 % intervals and the change.

    An adapter on top of another one is compared with that: the column bears its name.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    base = scorecard.get("reference") or "base"
    for title in ("held-out code", base, "tuned", "change"):
        table.add_column(title, justify="left" if title == "held-out code" else "right")
    for field, label, digits, lower in ROWS:
        base, tuned = scorecard["base"].get(field), scorecard["tuned"].get(field)
        if base is None or tuned is None:  # not measured: a base without FIM tokens
            table.add_row(label, "–", "–", "")
            continue
        table.add_row(
            label, _interval(base, digits), _interval(tuned, digits), _change(base, tuned, lower)
        )
    Console().print(table)


def _interval(estimate: Mapping[str, float], digits: int) -> str:
    half = (estimate["high"] - estimate["low"]) / 2
    return f"{estimate['value']:.{digits}f} ±{half:.{digits}f}"


def _change(base: Mapping[str, float], tuned: Mapping[str, float], lower: bool) -> str:
    if not base["value"]:
        return f"{tuned['value'] - base['value']:+.3f}"
    change = tuned["value"] / base["value"] - 1
    good = change < 0 if lower else change > 0
    colour = "green" if good else ("red" if abs(change) > 0.005 else "default")
    return f"[{colour}]{change:+.1%}[/]"
