"""The picture of a search: how it went, how its trials learnt, and what each option did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.search.space import Parameter, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACCENT, _SECOND, _QUIET = "#2563eb", "#ea580c", "#64748b"
_ROOM = 0.08  # of the losses' range, above and below them
_SETTLED = 0.2  # share of the steps after which curves are worth a look

Record = Mapping[str, Any]


def draw_search(path: Path, records: Sequence[Record], parameters: Sequence[Parameter]) -> None:
    """Draw a PNG: results in order of the trials, curves, and one panel for each parameter.

    All panels but the curves' have the same axis of losses. Trials that were stopped early have
    no result: they stand as crosses above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    finished = [record for record in records if record["validation_loss"] is not None]
    best = min(finished, key=lambda record: record["validation_loss"])
    count = 2 + len(parameters)
    columns = 3 if count in (2, 3, 5, 6) else 4
    rows = -(-count // columns)
    figure = Figure(figsize=(3.2 * columns, 2.9 * rows + 0.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    limits = _limits([record["validation_loss"] for record in finished])
    for number, axes in enumerate(grid):
        axes.set_visible(number < count)
        axes.set_ylim(*limits)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=_QUIET, alpha=0.2)
        axes.tick_params(labelsize=8)
        if number % columns == 0:
            axes.set_ylabel("validation loss\n(nats per token)", fontsize=9)
    _draw_order(grid[0], records, finished, best)
    _draw_curves(grid[1], records, best)
    for axes, one in zip(grid[2:], parameters, strict=False):
        _draw_parameter(axes, one, records, best)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path)


def _limits(losses: Sequence[float]) -> tuple[float, float]:
    low, high = min(losses), max(losses)
    room = _ROOM * (high - low) or 0.05 * abs(low) or 0.1
    return low - room, high + 2 * room


def _draw_order(
    axes: Axes, records: Sequence[Record], finished: Sequence[Record], best: Record
) -> None:
    """Results by trial, and the best so far as a line."""
    from matplotlib.ticker import MaxNLocator

    numbers = [record["trial"] for record in finished]
    so_far = list(accumulate((record["validation_loss"] for record in finished), min))
    end = [*numbers, records[-1]["trial"]]
    line = [*so_far, so_far[-1]]
    axes.step(end, line, where="post", color=_ACCENT, linewidth=1.5, label="best so far")
    _points(axes, [(record, record["trial"]) for record in records], best)
    axes.set_title("results in order", fontsize=10, pad=14)
    axes.set_xlabel("trial (0: the options as given)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_curves(axes: Axes, records: Sequence[Record], best: Record) -> None:
    """Validation losses over each trial's own schedule; the axis suits the finished ones."""
    settled = [
        point["loss"]
        for record in records
        for point in record["curve"]
        if point["share"] >= _SETTLED and record["state"] == "finished"
    ]
    if settled:
        axes.set_ylim(*_limits(settled))
    for record in records:
        curve = [point for point in record["curve"] if point["share"] > 0]
        if not curve:
            continue
        x = [100 * point["share"] for point in curve]
        y = [point["loss"] for point in curve]
        first, stopped = record is best, record["state"] != "finished"
        colour = _SECOND if first else (_QUIET if stopped else _ACCENT)
        alpha, width = (1.0, 2.0) if first else (0.55, 1.0)
        axes.plot(x, y, color=colour, alpha=alpha, linewidth=width, zorder=3 if first else 2)
        if stopped:
            at = min(y[-1], axes.get_ylim()[1])  # at the edge if it is far off
            axes.plot(x[-1], at, "x", color=_QUIET, markersize=5, clip_on=False)
    axes.set_title("while training", fontsize=10, pad=14)
    axes.set_xlabel("% of the trial's own steps", fontsize=9)


def _draw_parameter(axes: Axes, one: Parameter, records: Sequence[Record], best: Record) -> None:
    """Results by the values of one option."""
    if one.choices:
        places = {value: number for number, value in enumerate(one.choices)}
        at = [(record, places[record["params"][one.key]]) for record in records]
        axes.set_xticks(range(len(one.choices)), [f"{value:g}" for value in one.choices])
        axes.set_xlim(-0.5, len(one.choices) - 0.5)
    else:
        at = [(record, record["params"][one.key]) for record in records]
        axes.set_xscale("log")
        if one.bounds is not None:
            axes.set_xlim(one.bounds[0] / 1.1, one.bounds[1] * 1.1)
            _plain_log_ticks(axes, *one.bounds)
    _points(axes, at, best)
    axes.set_title(short(one.key), fontsize=10, pad=14)


def _plain_log_ticks(axes: Axes, low: float, high: float) -> None:
    """Both ends and the middle: what a log axis labels by itself overlaps in a small panel."""
    from matplotlib.ticker import NullLocator

    ticks = [low, (low * high) ** 0.5, high]
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:.1e}" for tick in ticks])


def _points(axes: Axes, at: Sequence[tuple[Record, float]], best: Record) -> None:
    """Results as points, the best as a star, trials without one above the axis."""
    done = [(x, r["validation_loss"]) for r, x in at if r["state"] == "finished" and r is not best]
    if done:
        x, y = zip(*done, strict=True)
        axes.scatter(x, y, color=_ACCENT, s=30, label="finished", zorder=3)
    for state, marker, label in (("pruned", "x", "stopped early"), ("failed", "1", "failed")):
        left = [x for r, x in at if r["state"] == state]
        if left:
            axes.scatter(
                left,
                [1.03] * len(left),
                marker=marker,
                color=_QUIET,
                s=30,
                label=label,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
            )
    place = next(x for r, x in at if r is best)
    y_best = [best["validation_loss"]]
    axes.scatter([place], y_best, marker="*", color=_SECOND, s=150, label="best", zorder=4)
