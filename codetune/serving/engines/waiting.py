"""The queue before an engine: bounded, and shared fairly among tenants."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping

from codetune.errors import OverloadedError
from codetune.serving.engines.sequence import Sequence

_LONGEST_RETRY = 60  # seconds
_RECENT = 32  # ended answers from which the speed is judged


class WaitingQueue:
    """Sequences without a place. The caller holds a lock around every call.

    When it is full, the tenant with the most waiting answers makes room with its newest one
    (the longest queue is dropped from, as in stochastic fair queueing): nobody's flood refuses
    another's request.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[Sequence, None] = {}  # in the order of their coming
        self._ended: deque[float] = deque(maxlen=_RECENT)

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def __contains__(self, sequence: object) -> bool:
        return sequence in self._waiting

    def add(self, sequences: Iterable[Sequence]) -> list[tuple[Sequence, OverloadedError]]:
        """Queue the answers of one request; returns who had to make room for them.

        What is checked is the queue before: a request for many answers fits an idle server.

        Raises:
            OverloadedError: the queue is full, and no tenant has more in it than this one.
        """
        new = list(sequences)
        out = []
        if new and len(self._waiting) >= self._limit:
            tenant = new[0].job.tenant
            counts = Counter(sequence.job.tenant for sequence in self._waiting)
            longest, most = max(counts.items(), key=lambda item: item[1])
            if most <= counts[tenant] + 1 or longest == tenant:
                raise self._refusal(counts[tenant])
            newest = next(s for s in reversed(self._waiting) if s.job.tenant == longest)
            del self._waiting[newest]
            out.append((newest, self._refusal(most)))
        self._waiting |= dict.fromkeys(new)
        return out

    def discard(self, sequence: Sequence) -> None:
        self._waiting.pop(sequence, None)

    def order(self, places: Mapping[str, int]) -> list[Sequence]:
        """Who is next: the tenant with the fewest `places`, counting those it is given here."""
        taken = Counter(places)
        ranked = []
        for number, sequence in enumerate(self._waiting):
            ranked.append((taken[sequence.job.tenant], number, sequence))
            taken[sequence.job.tenant] += 1
        return [sequence for _, _, sequence in sorted(ranked, key=lambda entry: entry[:2])]

    def ended(self) -> None:
        """An answer has ended: how fast they do tells how long to wait."""
        self._ended.append(time.monotonic())

    def _refusal(self, own: int) -> OverloadedError:
        seconds = 2.0
        if len(self._ended) > 1:
            pace = (self._ended[-1] - self._ended[0]) / (len(self._ended) - 1)
            seconds = own * pace
        return OverloadedError(
            f"{len(self._waiting)} requests are waiting already, {own} of them yours.",
            retry_after=max(1, min(_LONGEST_RETRY, math.ceil(seconds))),
            advice="Ask again a little later.",
        )
