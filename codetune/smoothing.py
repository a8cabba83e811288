"""A noisy curve made readable: one way for loss.png and for the report's chart of the same run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def smoothed(values: Sequence[float]) -> list[float]:
    """Running means over a twentieth of the values to each side; fewer at the ends.

    To both sides, so that a fall stands where it was and not behind it.
    """
    wide = max(1, len(values) // 20)
    sums = list(accumulate(values, initial=0.0))
    spans = [(max(0, i - wide), min(len(values), i + wide + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]
