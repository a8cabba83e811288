"""A smoothed curve, and that both pictures of a run show the same one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from codetune.evaluation.charts import loss_svg
from codetune.smoothing import smoothed
from codetune.training.metrics import METRICS, draw_curve


def test_running_means_to_both_sides() -> None:
    assert smoothed([3.0, 0.0, 3.0, 6.0]) == [1.5, 2.0, 3.0, 4.5]
    assert smoothed([]) == []
    steps = [1.0] * 50 + [0.0] * 50  # five values to each side
    assert smoothed(steps)[44:56] == pytest.approx([1, *(n / 11 for n in range(10, 0, -1)), 0])


def test_both_pictures_of_a_run_show_the_same_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [3 - n / 20 + (n % 3) / 5 for n in range(30)]
    lines: list[dict[str, Any]] = [
        {"kind": "train", "step": n + 1, "tokens": 1000 * (n + 1), "loss": loss}
        for n, loss in enumerate(losses)
    ]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn: dict[str, list[float]] = {}
    plot = Axes.plot

    def noted(axes: Axes, x: Any, y: Any, **style: Any) -> Any:
        drawn[style.get("label", "")] = list(y)
        return plot(axes, x, y, **style)

    monkeypatch.setattr(Axes, "plot", noted)
    draw_curve(tmp_path)
    faint, curve = (
        [float(y) for _, y in re.findall(r"([\d.]+),([\d.]+)", points)]
        for points in re.findall(
            r'<polyline class="curve train[^"]*" points="([^"]*)"', str(loss_svg(lines))
        )
    )
    # Heights in the chart are linear in the losses: two of them are enough to read the others.
    scale = (losses[-1] - losses[0]) / (faint[-1] - faint[0])
    read = [losses[0] + (height - faint[0]) * scale for height in curve]
    assert drawn["training"] == pytest.approx(read, abs=0.01)
