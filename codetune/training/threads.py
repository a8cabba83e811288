"""The documents of one pass shared out among threads, on a CPU.

A small model's kernels are so short that several threads on one kernel wait for each other a good
part of the time (docs/results.md, "Threads"). Here each thread runs kernels of its own, on its own
documents of the pass. What they find is handed over in order, so that a run stays the same from
time to time; together they hold no more activations than one pass over all documents.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from codetune.models.architecture import count_parameters
from codetune.models.tokens import Flags
from codetune.training.adapters import is_short
from codetune.training.batches import Batch

LEAST_TOKENS = 2048  # of a share: kernels on fewer rows take longer for each
MOST_PARAMETERS = 100_000_000  # larger models have longer kernels, and larger gradients
_TAUGHT = 1 / 3  # of a pass: what the base's own over a document that it teaches costs
Result = TypeVar("Result")


class Threads:
    """Threads for passes of their own; torch's number of threads is divided between them."""

    @staticmethod
    def of(model: nn.Module) -> Threads | None:
        """Those for this model, PEFT's or the base itself, where threads can share its passes.

        Nothing of it may change in a pass: not with GPUs, dropout, DoRA or quantised layers.
        """
        whole: Any = model
        count, parameters = torch.get_num_threads(), count_parameters(model)
        if count < 2 or parameters >= MOST_PARAMETERS or whole.config.is_encoder_decoder:
            return None
        on_cpu = next(model.parameters()).device.type == "cpu"
        return Threads(count) if on_cpu and is_short(model) else None

    def __init__(self, most: int) -> None:
        self.most, self._all = most, torch.get_num_threads()
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def share(self, batch: Batch, *, base_teaches: bool) -> Shares | None:
        """Who computes what; None if it is too little for two.

        The longest document that is left goes to whom has least (Graham 1969). `base_teaches`:
        replayed documents are computed once more, by the base.
        """
        lengths = np.asarray(batch.layout.lengths)
        most = min(self.most, len(lengths), batch.tokens // LEAST_TOKENS)
        if most < 2:
            return None
        count = 1 << (most.bit_length() - 1)  # so that each gets as many of torch's threads
        work = lengths * 1.0
        if base_teaches and batch.replayed is not None:
            work += _TAUGHT * lengths * batch.replayed
        flags, done = np.zeros((count, len(lengths)), dtype=bool), np.zeros(count)
        for document in np.argsort(-work, kind="stable"):
            to = int(done.argmin())
            flags[to, document] = True
            done[to] += work[document]
        return Shares(self, batch, list(flags))

    def pool(self, count: int) -> ThreadPoolExecutor:
        """So many threads, each with its part of torch's."""
        if count not in self._pools:
            self._pools[count] = ThreadPoolExecutor(
                count, initializer=torch.set_num_threads, initargs=(max(1, self._all // count),)
            )
        return self._pools[count]

    def restore(self) -> None:
        """What a thread sets for itself is also the number of threads yet to come."""
        torch.set_num_threads(self._all)


@dataclass(frozen=True)
class Shares:
    """Which of the batch's documents each thread takes, a flag each."""

    threads: Threads
    batch: Batch
    documents: list[Flags]

    def run(self, work: Callable[[Batch], Result]) -> list[Result]:
        """What `work` makes of each share, in order.

        Raises:
            Exception: the first that failed, when none of them runs any more.
        """
        pool = self.threads.pool(len(self.documents))
        futures = [pool.submit(self._run_one, work, mine) for mine in self.documents]
        try:
            wait(futures)
        finally:
            self.threads.restore()
        return [future.result() for future in futures]

    def _run_one(self, work: Callable[[Batch], Result], mine: Flags) -> Result:
        return work(self.batch.of(mine)[0])
