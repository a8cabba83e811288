"""Tables that several commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from codetune.evaluation.charts import MEASURES, WORDS, Measure
from codetune.search.space import short

_LABELS = {
    "bits_per_byte": "bits per byte, held-out",
    "fim_edit_similarity": "FIM edit similarity",
    "fim_exact_match": "FIM exact match",
    "general_bits_per_byte": "bits per byte, general",
}
_COLOURS = {"better": "green", "worse": "red", "same": "dim", "kept": "default"}
_UNCLEAR = "≈"

_WIDE = 110  # columns of a terminal for all that is known of a trial


def scorecard_table(scorecard: Mapping[str, Any]) -> None:
    """Base and tuned beside each other, with 95 % intervals and the change, as in the report.

    An adapter on top of another one is compared with that: the column bears its name.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    reference = scorecard.get("reference") or "base"
    for title in ("held-out code", reference, "tuned", "change"):
        table.add_column(title, justify="left" if title == "held-out code" else "right")
    table.add_column("")
    unclear = False
    for measure in MEASURES:
        label = _LABELS[measure.key]
        base, tuned = (scorecard[side].get(measure.key) for side in ("base", "tuned"))
        if base is None or tuned is None:  # not measured: a base without FIM tokens
            table.add_row(label, "–", "–", "")
            continue
        change = scorecard["change"][measure.key]
        # How much general code may cost is for the gate to say, whose sentences follow.
        quality = measure.quality(base["value"], change, limit=float("inf"))
        unclear = unclear or quality == "same"
        said = measure.change(base["value"], tuned["value"], change["value"])
        table.add_row(
            label,
            _interval(measure, base),
            _interval(measure, tuned),
            f"[{_COLOURS[quality]}]{said}[/]",
            f"[dim]{_UNCLEAR}[/]" if quality == "same" else "",
        )
    console = Console()
    console.print(table)
    if unclear:
        console.print(f"[dim]{_UNCLEAR} {WORDS['same']}: the paired 95 % interval includes zero[/]")


def trials_table(search: Mapping[str, Any]) -> None:
    """Every trial of a search with its options; see `Registry.search_of`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    keys = list(search["best"]["params"])
    console = Console()
    wide = console.width >= _WIDE  # what a trial's loss was on the way is told where there is room
    losses = ("validation loss", "in the run") if wide else ("loss",)
    for title in ("trial", *map(short, keys), *losses, "steps"):
        table.add_column(title, justify="right", overflow="fold")
    table.add_column("", no_wrap=True)
    for trial in search["all"]:
        figures = (trial["validation_loss"], trial["best_in_run"])[: len(losses)]
        best = trial["trial"] == search["best"]["trial"]
        table.add_row(
            str(trial["trial"]),
            *(f"{trial['params'][key]:.3g}" if key in trial["params"] else "–" for key in keys),
            *("–" if loss is None else f"{loss:.4f}" for loss in figures),
            f"{trial['steps']}{' of ' if wide else '/'}{trial['of_steps']}",
            "[green]best[/]" if best else trial["state"],
        )
    console.print(table)


def mix_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The sets that are mixed in: what each holds, what is wanted of it, and what is left out."""
    from codetune.dataset.formats import not_read

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("set", "examples", "tokens", "share", "wanted tokens", "passes", ""):
        table.add_column(title, justify="left" if title in ("set", "") else "right")
    for row in rows:
        remarks = [] if row["enough"] else ["too small for its share"]
        remarks += [f"{row['bad_rows']} bad rows left out"] if row["bad_rows"] else []
        remarks += [not_read(row["left_out"])] if row["left_out"] else []
        remarks += [f"{n} not trained on: {why}" for why, n in row["refused"].items()]
        figures = (f"{row['examples']:,}", f"{row['tokens']:,}", f"{row['share']:.1%}")
        wanted = f"{row['wanted_tokens']:,}"
        table.add_row(row["name"], *figures, wanted, f"{row['epochs']:.2f}", "; ".join(remarks))
    Console().print(table)


def search_line(search: Mapping[str, Any]) -> str:
    """A search in one line."""
    best, given = search["best"], search["as_given"]
    words = (
        f"trial {best['trial']} of {search['trials']} ({search['pruned']} stopped early): "
        f"validation loss {best['validation_loss']:.4f}"
    )
    return words + (f", {given:.4f} with the options as given" if given and best["trial"] else "")


def _interval(measure: Measure, estimate: Mapping[str, float]) -> str:
    half = measure.show((estimate["high"] - estimate["low"]) / 2).removesuffix(" %")
    return f"{measure.show(estimate['value'])} ±{half}"
