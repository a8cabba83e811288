"""scorecard.png: the scorecard for places that cannot show the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codetune.evaluation.charts import MEASURES

BASE, TUNED, QUIET = "#64748b", "#2563eb", "#475569"
QUALITY = {"better": "#15803d", "worse": "#b91c1c", "same": "#475569", "kept": "#475569"}


def draw_scorecard(file: Path, scorecard: Mapping[str, Any], limit: float, title: str) -> None:
    """Draw base and tuned with their 95 % intervals, one panel a measure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [m for m in MEASURES if scorecard["base"][m.key] and scorecard["tuned"][m.key]]
    figure = Figure(figsize=(8, 0.9 + 1.05 * len(shown)), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, measure in zip(panels, shown, strict=True):
        scale = 100 if measure.percent else 1
        for place, side, colour in ((1, "base", BASE), (0, "tuned", TUNED)):
            one = scorecard[side][measure.key]
            value, low, high = (scale * one[key] for key in ("value", "low", "high"))
            error = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axes.errorbar(value, place, xerr=error, fmt="o", color=colour, capsize=4, lw=2)
            axes.annotate(
                f"{side} {measure.show(one['value'])}",
                (value, place),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=colour,
            )
        change = scorecard["change"][measure.key]
        base, tuned = (scorecard[side][measure.key]["value"] for side in ("base", "tuned"))
        said = measure.change(base, tuned, change["value"])
        axes.set_title(f"{measure.title}, {measure.hint}", loc="left", fontsize=9, color=QUIET)
        colour = QUALITY[measure.quality(base, change, limit)]
        axes.set_title(said, loc="right", fontsize=10, fontweight="bold", color=colour)
        axes.set_ylim(-0.6, 1.9)
        axes.margins(x=0.15)
        axes.set_yticks([])
        axes.tick_params(labelsize=8, colors=QUIET)
        for edge in ("left", "top", "right"):
            axes.spines[edge].set_visible(False)
    figure.savefig(file, format="png", facecolor="white")
