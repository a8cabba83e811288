"""Forward and backward passes, as small as the memory asks for.

When memory runs out in the middle of a step, what the step has added up so far is dropped, its
micro-batches are cut into more pieces, and the step is computed again from its first one. So
the step is the same as it would have been: the same documents, one gradient, one update.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from codetune.training.batches import Batch, split
from codetune.training.objective import Objective
from codetune.training.optimizer import Masters
from codetune.training.recovery import OutOfMemory, Recovery, is_out_of_memory
from codetune.training.threads import Shares, Threads


class Passes:
    """Runs an objective's passes; `step` is the optimizer step under way, for the record."""

    def __init__(
        self,
        objective: Objective,
        optimizer: Masters,
        recovery: Recovery,
        *,
        accumulation: int,
        recover: bool,
        checkpointing: bool,
        threads: Threads | None = None,
    ) -> None:
        """`checkpointing` computes activations twice from the first pass on; `threads` share."""
        self.objective, self.optimizer, self.recovery = objective, optimizer, recovery
        self.accumulation, self.recover, self.threads = accumulation, recover, threads
        self.step = 0
        self._done: list[tuple[Batch, float]] = []  # micro-batches of this step
        recovery.now.checkpointing |= checkpointing  # what is done already is no remedy
        if recovery.now.checkpointing:
            self._compute_twice()

    def begin(self, step: int) -> None:
        """A new optimizer step begins."""
        self.step, self._done = step, []

    def learn(self, batch: Batch, divisor: float) -> Tensor:
        """Add the gradient of the batch's loss over `divisor`; returns that loss.

        Raises:
            OutOfMemory: no smaller pass can be made.
        """
        self._done.append((batch, divisor))
        todo = self._done[-1:]
        while True:
            try:
                for one, over in todo:
                    loss = self._learn_once(one, over)
                return loss
            except (RuntimeError, MemoryError) as error:
                # Handled below: here the traceback still holds the tensors of the pass.
                why = _why(error)
            self._drop()
            _free()
            self.shrink(max((b for b, _ in self._done), key=lambda b: b.tokens), why)
            todo = self._done

    def summed(self, batch: Batch) -> tuple[float, int]:
        """The unweighted summed loss in nats and the number of labels, without gradients.

        Raises:
            OutOfMemory: as `learn`.
        """
        while True:
            try:
                pairs = [pair for part in self._parts(batch) for pair in self._summed(part)]
                return sum(total for total, _ in pairs), sum(count for _, count in pairs)
            except (RuntimeError, MemoryError) as error:
                why = _why(error)
            _free()
            self.shrink(batch, why)

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """While it lasts, no threads share a pass: for hooks that see one after the other."""
        threads, self.threads = self.threads, None
        try:
            yield
        finally:
            self.threads = threads

    def shrink(self, batch: Batch, why: str) -> None:
        """Make the passes smaller: fewer documents each, then activations computed twice.

        Raises:
            OutOfMemory: `batch`, the largest, cannot be cut any more, or it is not allowed to.
        """
        pieces = self.recovery.now.pieces
        if self.recover and len(split(batch, pieces * 2)) > len(split(batch, pieces)):
            self.recovery.cut_smaller(self.step, why, self.accumulation)
        elif self.recover and not self.recovery.now.checkpointing:
            self.recovery.compute_twice(self.step, why)
            self._compute_twice()
        else:
            raise OutOfMemory(
                f"{why} at step {self.step}, and passes cannot be made smaller.",
                advice="Use a dataset with a smaller window (dataset.window), "
                "training.method=qlora, or a smaller base.",
            )

    def probe(self, batch: Batch) -> None:
        """One pass that leaves nothing behind: no gradient, no random number drawn."""
        device = self.optimizer_device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self.objective.model.train()
            self.begin(0)
            self.learn(batch.to(device), max(1.0, self.objective.mass(batch)))
        self._done = []
        self._drop()

    @property
    def optimizer_device(self) -> torch.device:
        """Where the model is."""
        return next(iter(self.optimizer.weights.values())).device

    def _parts(self, batch: Batch) -> list[Batch]:
        pieces = self.recovery.now.pieces
        return [batch] if pieces == 1 else split(batch, pieces)

    def _learn_once(self, batch: Batch, divisor: float) -> Tensor:
        losses = []
        for part in self._parts(batch):
            if shares := self._shares(part):
                learn = partial(self._gradients, divisor=divisor)
                for loss, gradients in shares.run(learn):
                    self.optimizer.add(gradients)
                    losses.append(loss)
                continue
            loss = self.objective.loss(part, divisor=divisor)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _gradients(self, batch: Batch, divisor: float) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The batch's share of the loss, and its gradients in the optimizer's order."""
        loss = self.objective.loss(batch, divisor=divisor)
        weights = list(self.optimizer.weights.values())
        return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

    def _summed(self, batch: Batch) -> list[tuple[float, int]]:
        if shares := self._shares(batch):
            return shares.run(self.objective.summed)
        return [self.objective.summed(batch)]

    def _shares(self, batch: Batch) -> Shares | None:
        """The batch shared out among threads; None where one pass of all threads is better."""
        if self.threads is None or self.recovery.now.checkpointing:
            return None
        return self.threads.share(batch, base_teaches=self.objective.base_teaches)

    def _drop(self) -> None:
        self.optimizer.forget_gradients()
        self.objective.model.zero_grad(set_to_none=True)

    def _compute_twice(self) -> None:
        causal: Any = self.objective.causal
        causal.activation_checkpointing_enable({"use_reentrant": False})


def _free() -> None:
    """Give back what a pass that broke off may still hold. Slow: it looks through all objects."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _why(error: BaseException) -> str:
    if not is_out_of_memory(error):
        raise error
    return "Out of memory"
