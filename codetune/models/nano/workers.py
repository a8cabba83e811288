"""Gradients of a step's rows, by one process per core.

A small network is made of small operations; two threads that meet after each of them wait for
each other most of the time as soon as the machine has other work. One-thread processes meet
once a step. Row i always goes to worker i modulo the count, and sums are taken in that order:
the same rows give the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import multiprocessing

from codetune.errors import TrainingError
from codetune.models.linear_loss import IGNORE, linear_cross_entropy
from codetune.models.nano.network import Lengths, Network
from codetune.models.nano.recipe import ModelRecipe
from codetune.models.nano.tokenizer import SPECIAL_TOKENS


@dataclass(frozen=True)
class Row:
    """A row of tokens, the lengths of its documents, and how many tokens are no padding."""

    tokens: np.ndarray
    lengths: list[int]
    real: int

    @property
    def labels(self) -> int:
        """Tokens with a loss: each document's last one has no next."""
        return self.real - sum(1 for _ in self._documents())

    def _documents(self) -> Any:
        at = 0
        for length in self.lengths:
            if at >= self.real:
                return
            yield length
            at += length


def row_loss(
    forward: Callable[..., torch.Tensor],
    head: torch.Tensor,
    row: Row,
    divisor: float,
    compiled: bool,
    hole_weight: float = 1.0,
) -> torch.Tensor:
    """Summed next-token loss of one row over `divisor`; no document predicts into the next.

    What fills a hole pulls on the network (not on the head) `hole_weight` times as much.
    """
    tokens = torch.from_numpy(row.tokens.astype("int64"))
    positions = torch.cat([torch.arange(length) for length in row.lengths])
    labels = torch.roll(tokens, -1)
    labels[torch.tensor(row.lengths).cumsum(0) - 1] = IGNORE
    labels[row.real :] = IGNORE
    device = head.device
    hidden = forward(tokens.to(device), positions.to(device), Lengths(row.lengths))
    if hole_weight != 1.0 and hidden.requires_grad:
        weights = hole_weights(row, head.shape[0], hole_weight).to(hidden)[:, None]
        hidden.register_hook(lambda g: g * weights)  # type: ignore[no-untyped-call]
    return linear_cross_entropy(hidden, head, labels.to(device), divisor=divisor, compiled=compiled)


def hole_weights(row: Row, vocabulary: int, weight: float) -> torch.Tensor:
    """`weight` where the next token fills a hole or ends it, else 1."""
    first = vocabulary - len(SPECIAL_TOKENS)
    middle = first + SPECIAL_TOKENS.index("<|fim_middle|>")
    weights = torch.ones(len(row.tokens))
    at = 0
    for length in row.lengths:
        tokens = row.tokens[at : at + length]
        found = np.flatnonzero(tokens == middle)
        if len(found) == 1:
            weights[at + int(found[0]) : at + length - 1] = weight
        at += length
    return weights


class Here:
    """Computes in this process: on a GPU, in tests, or on a single core."""

    def __init__(self, network: Network, compiled: bool, hole_weight: float = 1.0) -> None:
        self.network, self.compiled, self.hole_weight = network, compiled, hole_weight
        self.forward: Callable[..., torch.Tensor] = (
            torch.compile(network, dynamic=False) if compiled else network
        )

    def gradients(self, rows: list[Row], divisor: float, sums: dict[str, torch.Tensor]) -> float:
        """Add the rows' gradients to `sums`; gives their loss."""
        total = 0.0
        for row in rows:
            loss = self._loss(row, divisor)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            for name, weight in self.network.named_parameters():
                if weight.grad is not None:
                    sums[name] += weight.grad
                    weight.grad = None
        return total

    @torch.no_grad()
    def loss(self, rows: list[Row]) -> float:
        """Summed loss without gradients, in nats."""
        return sum(float(self._loss(row, 1.0)) for row in rows)

    def _loss(self, row: Row, divisor: float) -> torch.Tensor:
        head = self.network.model.embed_tokens.weight
        return row_loss(self.forward, head, row, divisor, self.compiled, self.hole_weight)

    def close(self) -> None:
        """Nothing to end."""


class Workers:
    """The same on several processes that share the weights."""

    def __init__(
        self,
        recipe: ModelRecipe,
        network: Network,
        count: int,
        compiled: bool,
        hole_weight: float = 1.0,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        weights = {name: _shared(weight.data) for name, weight in network.named_parameters()}
        self.sums = [
            {
                name: _shared(torch.zeros(weight.shape, dtype=torch.float32))
                for name, weight in weights.items()
            }
            for _ in range(count)
        ]
        self.inboxes = [context.SimpleQueue() for _ in range(count)]
        self.outboxes = [context.SimpleQueue() for _ in range(count)]
        self.processes = [
            context.Process(
                target=_work,
                args=(
                    recipe,
                    weights,
                    self.sums[i],
                    (self.inboxes[i], self.outboxes[i]),
                    compiled,
                    hole_weight,
                ),
                daemon=True,
            )
            for i in range(count)
        ]
        for process in self.processes:
            process.start()

    def gradients(self, rows: list[Row], divisor: float, sums: dict[str, torch.Tensor]) -> float:
        """Add the rows' gradients to `sums`; gives their loss."""
        total = self._ask(rows, divisor)
        for worker, share in enumerate(self.sums):
            if worker < len(rows):
                for name, part in share.items():
                    sums[name] += part
                    part.zero_()
        return total

    def loss(self, rows: list[Row]) -> float:
        """Summed loss without gradients, in nats."""
        return self._ask(rows, None)

    def _ask(self, rows: list[Row], divisor: float | None) -> float:
        count = len(self.processes)
        for worker in range(count):
            self.inboxes[worker].put((rows[worker::count], divisor))
        answers = [self._answer(worker) for worker in range(count)]
        return sum(answers)

    def _answer(self, worker: int) -> float:
        # SimpleQueue blocks for ever if the process died (out of memory, killed): look first.
        while not self.outboxes[worker]._reader.poll(5.0):  # type: ignore[attr-defined]
            if not self.processes[worker].is_alive():
                raise TrainingError(
                    "A training process has ended unexpectedly.",
                    advice="Run the same command again: it goes on from the last checkpoint.",
                )
        answer: float = self.outboxes[worker].get()
        return answer

    def close(self) -> None:
        """End the processes."""
        for inbox in self.inboxes:
            inbox.put(None)
        for process in self.processes:
            process.join(10)


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    shared: torch.Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    return shared


def _work(
    recipe: ModelRecipe,
    weights: dict[str, torch.Tensor],
    sums: dict[str, torch.Tensor],
    boxes: tuple[Any, Any],
    compiled: bool,
    hole_weight: float,
) -> None:
    inbox, outbox = boxes
    torch.set_num_threads(1)
    network = Network(recipe)
    network.load_state_dict(weights, assign=True)
    here = Here(network.requires_grad_(True), compiled, hole_weight)
    while (task := inbox.get()) is not None:
        rows, divisor = task
        outbox.put(here.loss(rows) if divisor is None else here.gradients(rows, divisor, sums))
