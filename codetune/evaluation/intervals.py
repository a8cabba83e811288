"""95 % bootstrap intervals for ratios, resampled by file because lines of one file agree.

A small repository holds out a dozen files, and plain percentile intervals are too narrow then,
for two reasons that are both mended here. The variance of C draws from C clusters comes out a
factor (C - 1)/C too small: C - 1 are drawn (Rao and Wu, JASA 1988). And the percentiles are
those of a normal distribution where Student's should stand: they are moved outwards to match
(Hesterberg, The American Statistician 2015, "expanded percentile interval"). One set of draws
serves both sides of a comparison, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from codetune.records import Interval

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
_FEW = (12.706, 4.303, 3.182, 2.776)  # Student's 0.975 quantiles for 1 to 4 degrees
# Draws are held as a (draws x clusters) matrix; this many cells at once are 32 MB.
CELLS = 4_000_000


@dataclass(frozen=True)
class Comparison:
    """Base, tuned, and the paired difference tuned - base of one measure."""

    base: Interval
    tuned: Interval
    change: Interval


def compare(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two sides measured on the same items.

    The estimate of a side is sum(values) / sum(weights): with nats/ln 2 and bytes that is bits
    per byte, with 0-or-1 marks and weight one it is a share. Items of one cluster are drawn
    together. With a single cluster its items are drawn instead; with a single item there is
    nothing to draw, and the interval is the value itself (the gate knows the count).
    """
    sides = np.array([base, tuned], dtype=np.float64)
    sums, weight = _by_cluster(sides, np.asarray(weights, dtype=np.float64), clusters)
    drawn = _drawn_ratios(sums, weight, draws, seed)
    value = sums.sum(axis=1) / weight.sum()
    return Comparison(
        base=_interval(value[0], drawn[0], len(weight)),
        tuned=_interval(value[1], drawn[1], len(weight)),
        change=_interval(value[1] - value[0], drawn[1] - drawn[0], len(weight)),
    )


def _by_cluster(
    sides: Floats, weights: Floats, clusters: Sequence[Hashable]
) -> tuple[Floats, Floats]:
    """Sums per cluster: (sides x clusters) and (clusters,)."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    if len(numbers) == 1:
        return sides, weights
    index = np.array([numbers[name] for name in clusters])
    sums = np.zeros((len(sides), len(numbers)))
    for side, total in zip(sides, sums, strict=True):
        np.add.at(total, index, side)
    weight = np.zeros(len(numbers))
    np.add.at(weight, index, weights)
    return sums, weight


def _drawn_ratios(sums: Floats, weight: Floats, draws: int, seed: int) -> Floats:
    """The ratio of each side in each draw: (sides x draws)."""
    count = len(weight)
    if count == 1:
        return np.repeat(sums / weight, draws, axis=1)
    random = np.random.default_rng(seed)
    chances = np.full(count, 1 / count)
    parts = []
    step = max(1, CELLS // count)
    for start in range(0, draws, step):
        times = random.multinomial(count - 1, chances, size=min(step, draws - start))
        parts.append((sums @ times.T) / (weight @ times.T))
    return np.concatenate(parts, axis=1)


def _interval(value: float, drawn: Floats, count: int) -> Interval:
    tail = 100 * NormalDist().cdf(-student(count - 1)) if count > 1 else 0.0
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(value=float(value), low=float(low), high=float(high))


def student(freedom: int) -> float:
    """The 0.975 quantile of Student's distribution, to 0.004 (Abramowitz and Stegun 26.7.5)."""
    if freedom <= len(_FEW):
        return _FEW[freedom - 1]
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))
