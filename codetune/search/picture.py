"""The picture of a search: how it went, how its trials learnt, and what each option did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.search.space import Parameter, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACCENT, _SECOND, _QUIET = "#2563eb", "#ea580c", "#64748b"
_ROOM = 0.08  # of the losses' range, above and below them
_FAR = 1.0  # × the range of the finished trials' losses: points above it stand at the edge

Record = Mapping[str, Any]


def draw_search(path: Path, records: Sequence[Record], parameters: Sequence[Parameter]) -> None:
    """Draw a PNG: losses in order of the trials, curves, and one panel for each parameter.

    All panels have the same axis of losses. Trials that were stopped early stand with the best
    loss they had until then, as crosses; failed ones without any loss are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [record for record in records if record["validation_loss"] is not None]
    best = min(
        (record for record in shown if record["state"] == "finished"),
        key=lambda record: record["validation_loss"],
    )
    low, high = _limits(shown)
    count = 2 + len(parameters)
    columns = 3 if count in (2, 3, 5, 6) else 4
    rows = -(-count // columns)
    figure = Figure(figsize=(3.2 * columns, 2.9 * rows + 0.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    _draw_order(grid[0], shown, best, high)
    _draw_curves(grid[1], shown, best, high)
    for axes, one in zip(grid[2:], parameters, strict=False):
        _draw_parameter(axes, one, shown, best, high)
    for number, axes in enumerate(grid):
        axes.set_visible(number < count)
        axes.set_ylim(low, high)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=_QUIET, alpha=0.2)
        axes.tick_params(labelsize=8)
        if number % columns == 0:
            axes.set_ylabel("validation loss\n(nats per token)", fontsize=9)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path)


def _limits(shown: Sequence[Record]) -> tuple[float, float]:
    """Of the axis: every finished trial, and the others unless they are far off."""
    losses = [record["validation_loss"] for record in shown]
    finished = [r["validation_loss"] for r in shown if r["state"] == "finished"]
    low, reach = min(losses), max(finished) - min(finished)
    high = min(max(losses), max(finished) + _FAR * max(reach, 0.02 * abs(low)))
    room = _ROOM * (high - low) or 0.05 * abs(low) or 0.1
    return low - room, high + room


def _draw_order(axes: Axes, shown: Sequence[Record], best: Record, top: float) -> None:
    """Losses by trial, and the best so far as a line."""
    from matplotlib.ticker import MaxNLocator

    so_far: list[float] = []
    numbers: list[int] = []
    for record in shown:
        if record["state"] == "finished":
            so_far.append(min([*so_far[-1:], record["validation_loss"]]))
            numbers.append(record["trial"])
    numbers.append(shown[-1]["trial"])
    so_far.append(so_far[-1])
    axes.step(numbers, so_far, where="post", color=_ACCENT, linewidth=1.5, label="best so far")
    _points(axes, [(record, record["trial"]) for record in shown], best, top)
    axes.set_title("in order", fontsize=10)
    axes.set_xlabel("trial (0: the options as given)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_curves(axes: Axes, shown: Sequence[Record], best: Record, top: float) -> None:
    """Validation losses over each trial's own schedule."""
    for record in shown:
        curve = [point for point in record["curve"] if point["share"] > 0]
        if not curve:
            continue
        x = [100 * point["share"] for point in curve]
        y = [point["loss"] for point in curve]
        pruned = record["state"] != "finished"
        first = record is best
        colour = _SECOND if first else (_QUIET if pruned else _ACCENT)
        axes.plot(
            x,
            y,
            color=colour,
            alpha=1.0 if first else 0.55,
            linewidth=2 if first else 1,
            zorder=3 if first else 2,
        )
        if pruned:
            axes.plot(x[-1], min(y[-1], top), "x", color=_QUIET, markersize=5)
    axes.set_title("as they learnt", fontsize=10)
    axes.set_xlabel("% of the trial's own steps", fontsize=9)


def _draw_parameter(
    axes: Axes, one: Parameter, shown: Sequence[Record], best: Record, top: float
) -> None:
    """Losses by the values of one option."""
    if one.choices:
        places = {value: number for number, value in enumerate(one.choices)}
        at = [(record, places[record["params"][one.key]]) for record in shown]
        axes.set_xticks(range(len(one.choices)), [f"{value:g}" for value in one.choices])
        axes.set_xlim(-0.5, len(one.choices) - 0.5)
    else:
        at = [(record, record["params"][one.key]) for record in shown]
        axes.set_xscale("log")
        if one.bounds is not None:
            axes.set_xlim(one.bounds[0] / 1.1, one.bounds[1] * 1.1)
            _plain_log_ticks(axes, *one.bounds)
    _points(axes, at, best, top)
    axes.set_title(short(one.key), fontsize=10)


def _plain_log_ticks(axes: Axes, low: float, high: float) -> None:
    """Both ends and the middle: what a log axis labels by itself overlaps in a small panel."""
    from matplotlib.ticker import NullLocator

    ticks = [low, (low * high) ** 0.5, high]
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:.1e}" for tick in ticks])


def _points(axes: Axes, at: Sequence[tuple[Record, float]], best: Record, top: float) -> None:
    groups = (
        ("finished", "o", _ACCENT, 30),
        ("pruned", "x", _QUIET, 30),
        ("failed", "1", _QUIET, 40),
    )
    for state, marker, colour, size in groups:
        points = [(x, r["validation_loss"]) for r, x in at if r["state"] == state and r is not best]
        if not points:
            continue
        x, y = [x for x, _ in points], [min(y, top) for _, y in points]
        label = {"pruned": "stopped early"}.get(state, state)
        axes.scatter(
            x, y, marker=marker, color=colour, s=size, label=label, zorder=3, clip_on=False
        )
    place, loss = next((x, r["validation_loss"]) for r, x in at if r is best)
    axes.scatter([place], [loss], marker="*", color=_SECOND, s=150, label="best", zorder=4)
