"""The report's pictures as inline SVG, coloured by the page's own style sheet.

Every text in them is ours: numbers and the names of measures, nothing from a repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from codetune.smoothing import smoothed


@dataclass(frozen=True)
class Measure:
    """How a figure of the scorecard is called and read."""

    key: str
    title: str
    hint: str
    lower_is_better: bool
    percent: bool = False
    may_rise: bool = False  # by the forgetting limit

    def show(self, value: float, *, sign: bool = False) -> str:
        """A value in this measure's unit."""
        if self.percent:
            return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f} %"
        return f"{value:+.3f}" if sign else f"{value:.3f}"

    def change(self, base: float, tuned: float, absolute: float) -> str:
        """The change as a reader says it: points for shares, percent for bits."""
        if self.percent:
            return f"{100 * absolute:+.1f} points"
        return f"{100 * (tuned / base - 1):+.1f} %" if base else f"{absolute:+.3f}"

    def quality(self, base: float, change: Mapping[str, float], limit: float) -> str:
        """Better or worse beyond the interval, kept within the forgetting limit, or the same."""
        if change["low"] <= 0 <= change["high"]:
            return "same"
        if (change["value"] < 0) == self.lower_is_better:
            return "better"
        return "kept" if self.may_rise and change["value"] <= limit * base else "worse"


MEASURES = (
    Measure("bits_per_byte", "Held-out code", "bits per byte, lower is better", True),
    Measure("fim_edit_similarity", "Answers: similarity", "to the real code", False, True),
    Measure("fim_exact_match", "Answers: exact", "the very same code", False, True),
    Measure(
        "general_bits_per_byte",
        "General code",
        "bits per byte, may rise a little",
        True,
        may_rise=True,
    ),
)

_WIDTH, _ROW, _LEFT, _RIGHT = 760, 84, 190, 130


def scorecard_svg(scorecard: Mapping[str, Any], limit: float) -> Markup:
    """Base and tuned with their intervals, one scale a measure."""
    shown = [m for m in MEASURES if scorecard["base"][m.key] and scorecard["tuned"][m.key]]
    rows = [_measure_row(m, scorecard, limit, number * _ROW) for number, m in enumerate(shown)]
    return _svg(_WIDTH, _ROW * len(shown), "Scorecard: base against tuned", rows)


def _measure_row(measure: Measure, scorecard: Mapping[str, Any], limit: float, top: float) -> str:
    base, tuned = (scorecard[side][measure.key] for side in ("base", "tuned"))
    change = scorecard["change"][measure.key]
    quality = measure.quality(base["value"], change, limit)
    low, high = min(base["low"], tuned["low"]), max(base["high"], tuned["high"])
    room = (high - low) * 0.12 or abs(high) * 0.05 or 0.5
    low, high = (max(0.0, low - room) if low >= 0 else low - room), high + room
    span = _WIDTH - _LEFT - _RIGHT

    def x(value: float) -> float:
        return float(_LEFT + (value - low) / (high - low) * span)

    said = measure.change(base["value"], tuned["value"], change["value"])
    parts = [
        f'<text class="strong" x="0" y="{top + 36}">{measure.title}</text>',
        f'<text class="quiet" x="0" y="{top + 54}">{measure.hint}</text>',
        f'<line class="axis" x1="{_LEFT}" x2="{_LEFT + span}" y1="{top + 42}" y2="{top + 42}"/>',
        _whisker("base", measure, base, x, top + 28, top + 18),
        _whisker("tuned", measure, tuned, x, top + 56, top + 76),
        f'<text class="strong {quality}" x="{_WIDTH}" y="{top + 40}" {_END}>{said}</text>',
        f'<text class="quiet" x="{_WIDTH}" y="{top + 56}" {_END}>{WORDS[quality]}</text>',
    ]
    return "".join(parts)


_END = 'text-anchor="end"'
WORDS = {
    "better": "better",
    "worse": "worse",
    "same": "no clear difference",
    "kept": "within the limit",
}


def _whisker(
    side: str, measure: Measure, figure: Mapping[str, float], x: Any, y: float, text: float
) -> str:
    at = x(figure["value"])
    return (
        f'<line class="{side} whisker" x1="{x(figure["low"]):.1f}" x2="{x(figure["high"]):.1f}" '
        f'y1="{y}" y2="{y}"/><circle class="{side}" cx="{at:.1f}" cy="{y}" r="6"/>'
        f'<text class="{side} small" x="{at:.1f}" y="{text}" text-anchor="middle">'
        f"{measure.show(figure['value'])}</text>"
    )


def loss_svg(lines: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Training loss, faint and smoothed, and validation loss over tokens; None without steps."""
    train = [line for line in lines if line.get("kind") == "train"]
    if len(train) < 2:
        return None
    seen = {line["step"]: float(line["tokens"]) for line in train} | {0: 0.0}
    loss = [(float(line["tokens"]), float(line["loss"])) for line in train]
    scored = [
        (seen[line["step"]], float(line["loss"]))
        for line in lines
        if line.get("kind") == "validation" and line["step"] in seen
    ]
    plot = _Plot([*loss, *scored])
    parts = [plot.grid()]
    parts.append(plot.line(loss, "train faint"))
    tokens, losses = zip(*loss, strict=True)
    parts.append(plot.line(list(zip(tokens, smoothed(losses), strict=True)), "train"))
    if scored:
        parts.append(plot.line(scored, "validation"))
        parts += [plot.dot(point, "validation") for point in scored]
    parts.append(_legend(bool(scored)))
    return _svg(_Plot.width, _Plot.height, "Loss while training", parts)


class _Plot:
    """Data coordinates → a box with round grid lines."""

    width, height = 760.0, 280.0
    left, right, top, bottom = 52.0, 12.0, 34.0, 34.0

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self.most = max(x for x, _ in points) or 1.0
        ys = [y for _, y in points]
        self.ticks = _round_ticks(min(ys), max(ys))
        self.low, self.high = self.ticks[0], self.ticks[-1]

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        wide, tall = self.width - self.left - self.right, self.height - self.top - self.bottom
        share = (point[1] - self.low) / (self.high - self.low)
        return self.left + point[0] / self.most * wide, self.top + (1 - share) * tall

    def line(self, points: Sequence[tuple[float, float]], name: str) -> str:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.place, points))
        return f'<polyline class="curve {name}" points="{path}"/>'

    def dot(self, point: tuple[float, float], name: str) -> str:
        x, y = self.place(point)
        return f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'

    def grid(self) -> str:
        parts = []
        for tick in self.ticks:
            x, y = self.place((0.0, tick))
            parts.append(
                f'<line class="axis" x1="{x}" x2="{self.width - self.right}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/><text class="quiet" x="{x - 8}" y="{y + 4:.1f}" '
                f'text-anchor="end">{tick:g}</text>'
            )
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            x, _ = self.place((share * self.most, self.low))
            anchor = "end" if share == 1 else "middle"
            parts.append(
                f'<text class="quiet" x="{x:.1f}" y="{self.height - 12}" text-anchor="{anchor}">'
                f"{_short(share * self.most)}</text>"
            )
        return "".join(parts)


def _legend(validation: bool) -> str:
    items = [("train", "training loss, nats per token", 52)]
    if validation:
        items.append(("validation", "validation loss", 272))
    items.append(("", "tokens →", 690))
    return "".join(
        (f'<line class="curve {name}" x1="{x}" x2="{x + 22}" y1="14" y2="14"/>' if name else "")
        + f'<text class="quiet" x="{x + 28}" y="18">{text}</text>'
        for name, text, x in items
    )


def _round_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that enclose low and high."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    step = 10.0**-12
    for power in range(-6, 7):
        for digit in (1, 2, 2.5, 5):
            if (high - low) / (digit * 10.0**power) <= 6:
                step = digit * 10.0**power
                first = int(low // step)
                last = -int(-high // step)
                return [round(number * step, 9) for number in range(first, last + 1)]
    return [low, high]


def _short(number: float) -> str:
    """1.2 M, 350 k, 12."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> Markup:
    return Markup(  # noqa: S704  built from numbers and our own words
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{title}">'
        + "".join(parts)
        + "</svg>"
    )
