"""Tables that several commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from codetune.search.space import short

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


def trials_table(search: Mapping[str, Any]) -> None:
    """Every trial of a search with its options; see `Registry.search_of`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    keys = list(search["best"]["params"])
    for title in ("trial", *map(short, keys), "validation loss", "in the run", "steps"):
        table.add_column(title, justify="right")
    table.add_column("")
    for trial in search["all"]:
        losses = (trial["validation_loss"], trial["best_in_run"])
        best = trial["trial"] == search["best"]["trial"]
        table.add_row(
            str(trial["trial"]),
            *(f"{trial['params'][key]:.3g}" if key in trial["params"] else "–" for key in keys),
            *("–" if loss is None else f"{loss:.4f}" for loss in losses),
            f"{trial['steps']} of {trial['of_steps']}",
            "[green]best[/]" if best else trial["state"],
        )
    Console().print(table)


def search_line(search: Mapping[str, Any]) -> str:
    """A search in one line."""
    best, given = search["best"], search["as_given"]
    words = (
        f"trial {best['trial']} of {search['trials']} ({search['pruned']} stopped early): "
        f"validation loss {best['validation_loss']:.4f}"
    )
    return words + (f", {given:.4f} with the options as given" if given and best["trial"] else "")


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
