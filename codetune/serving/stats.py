"""What an engine counts: plain numbers that a metrics page can read at any time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass
class Histogram:
    """Counts by upper bound, as Prometheus has them; the last count is of what lies above all."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def plus(self, other: Histogram) -> Histogram:
        """Both together; their bounds are the same."""
        counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        return Histogram(self.bounds, counts, self.total + other.total)


def _seconds() -> Histogram:
    return Histogram(SECONDS)


@dataclass
class EngineStats:
    """Counters since the start, and how things stand (the second part)."""

    submitted: int = 0  # answers asked for
    refused: int = 0  # … with 429: the queue was full
    finished: int = 0
    cancelled: int = 0  # nobody listened any more
    late: int = 0  # past their deadline
    failed: int = 0
    prompt_tokens: int = 0  # of prompts that were read
    reused_tokens: int = 0  # … of them, not computed again
    prefix_hits: int = 0  # prompts of which something was not computed again
    answer_tokens: int = 0
    embedded: int = 0  # texts whose vectors were made
    embedded_tokens: int = 0
    steps: int = 0
    adapter_loads: int = 0
    adapter_evictions: int = 0  # for room, or after idle time
    queue_wait: Histogram = field(default_factory=_seconds)  # seconds
    first_token: Histogram = field(default_factory=_seconds)  # seconds from the submission
    answer_time: Histogram = field(default_factory=_seconds)  # seconds from the submission
    batch: Histogram = field(default_factory=lambda: Histogram(ROWS))  # rows of a step

    running: int = 0
    waiting: int = 0
    models: int = 0  # sets of whole weights in memory
    adapters: int = 0
    weights_bytes: int = 0
    adapters_bytes: int = 0
    cache_bytes: int = 0  # keys and values of running answers
    prefix_bytes: int = 0  # … and of those that have ended
