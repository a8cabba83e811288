"""The loss of a batch: cross-entropy of the tokens that carry loss, without all logits.

Of replayed general code an adapter can learn what the base itself says of it instead of what
stands there (distillation): what is not to change is the base's predictions, and each of them
tells far more than the one token that came. The base needs no memory of its own: it is the
model with the adapter set aside (those below it are part of the base).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codetune.models.architecture import sliding_window
from codetune.models.linear_loss import linear_cross_entropy, linear_distillation
from codetune.training import attention
from codetune.training.adapters import set_aside
from codetune.training.batches import Batch
from codetune.training.norms import quicken_norms

# How documents are kept apart: our attention document by document; transformers' SDPA over the
# whole row, which sees from the position ids where documents begin; or one row a document.
Way = Literal["documents", "sdpa", "padded"]
WAYS: tuple[Way, ...] = ("documents", "sdpa", "padded")


class Objective(Protocol):
    """What the train loop asks for; one implementation for each kind of model."""

    model: nn.Module  # PEFT's around the base's, or the base itself
    causal: Any  # the language model inside
    vocabulary: int  # token ids that the model knows
    base_teaches: bool  # replayed documents are learned from the base, not from their text

    def loss(self, batch: Batch, divisor: float | None = None) -> Tensor:
        """Weighted cross-entropy in nats, summed, over `divisor` (default: the batch's mass)."""

    def mass(self, batch: Batch) -> float:
        """The sum of the weights of the labels that carry loss: their number, if all are 1."""

    def padding(self, batch: Batch) -> int:
        """Positions computed for the batch that are no token of it."""

    def summed(self, batch: Batch) -> tuple[float, int]:
        """The unweighted summed loss in nats, and the number of labels."""


class CausalObjective:
    """Runs a causal language model on batches of packed documents.

    `fused` and `way` say which fast paths are in use; the self-check turns one off when an
    architecture does something between hidden states and logits, or in its attention, that
    the path does not know. `base_teaches`: replayed documents are learned from the base.
    """

    def __init__(self, model: nn.Module, *, base_teaches: bool = False) -> None:
        wrapped: Any = model
        adapted = hasattr(model, "get_base_model")
        causal: Any = wrapped.get_base_model() if adapted else model
        self.base_teaches = base_teaches and adapted
        self.model, self.causal = model, causal
        self.decoder: nn.Module = causal.get_decoder()
        self.head: Any = causal.get_output_embeddings()
        self.fused = isinstance(self.head, nn.Linear) and self.head.bias is None
        self.vocabulary = int(causal.get_input_embeddings().weight.shape[0])
        quicken_norms(self.decoder)
        attention.register()
        self.way: Way = "documents"
        self.use(self.way)

    def use(self, way: Way) -> None:
        """Keep documents apart in this way from now on."""
        self.way = way
        self.causal.set_attn_implementation(attention.NAME if way == "documents" else "sdpa")

    def can_use(self, way: Way, longest: int) -> bool:
        """Whether `way` knows what this model's attention does with a document so long."""
        window = sliding_window(self.causal.config)
        return way != "documents" or window is None or longest <= window

    def hidden(self, batch: Batch) -> Tensor:
        """(T, width): the decoder's output."""
        return self._run(self.decoder, batch, lambda output: output.last_hidden_state)

    def logits(self, batch: Batch) -> Tensor:
        """(T, vocabulary) the model's own way, for the self-check and where fused is off."""
        return self._run(self.causal, batch, lambda output: output.logits)

    def loss(self, batch: Batch, divisor: float | None = None) -> Tensor:
        """Weighted cross-entropy in nats, summed, over `divisor` (default: the batch's mass)."""
        divisor = divisor if divisor is not None else max(1.0, self.mass(batch))
        run, losses = (self.hidden, self._fused) if self.fused else (self.logits, self._plain)
        if batch.replayed is None or not self.base_teaches:
            chosen = run(batch).index_select(0, batch.places)
            return losses(chosen, batch.labels, batch.weights) / divisor
        replayed, theirs = batch.of(batch.replayed)
        taught = self._by_base(run, replayed)
        chosen, own = run(batch).index_select(0, batch.places), ~theirs
        weights = None if batch.weights is None else batch.weights[own]
        total = losses(chosen[own], batch.labels[own], weights)
        return (total + losses(chosen[theirs], taught, replayed.weights)) / divisor

    def mass(self, batch: Batch) -> float:
        """The sum of the weights of the labels that carry loss: their number, if all are 1."""
        return float(len(batch.labels) if batch.weights is None else batch.weights.sum())

    def padding(self, batch: Batch) -> int:
        """Positions computed for the batch that are no token of it."""
        if self.way != "padded":
            return 0
        return sum(len(group.places) for group in batch.layout.groups) - batch.tokens

    @torch.no_grad()
    def summed(self, batch: Batch) -> tuple[float, int]:
        """The unweighted summed loss in nats, and the number of labels."""
        return float(self.loss(batch.plain(), divisor=1.0)), len(batch.labels)

    def _fused(self, hidden: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """The summed loss of hidden states, by labels or by the base's hidden states."""
        loss = linear_distillation if target.is_floating_point() else linear_cross_entropy
        return loss(hidden, self.head.weight, target, row_weights=weights, divisor=1.0)

    def _plain(self, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        """The summed loss of logits, by labels or by the base's logits."""
        if target.is_floating_point():
            target = target.float().softmax(-1)
        each = F.cross_entropy(logits.float(), target, reduction="none")
        return (each if weights is None else each * weights).sum()

    @torch.no_grad()
    def _by_base(self, run: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """What the base makes of the places that carry loss."""
        with set_aside(self.model):
            return run(batch).index_select(0, batch.places)

    def _run(self, module: Any, batch: Batch, of: Callable[[Any], Tensor]) -> Tensor:
        if self.way == "padded":
            return self._run_padded(module, batch, of)
        extra = {"layout": batch.layout} if self.way == "documents" else {}
        output = module(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            **extra,
        )
        return of(output)[0]

    def _run_padded(self, module: Any, batch: Batch, of: Callable[[Any], Tensor]) -> Tensor:
        """One row a document, documents of about the same length together."""
        rows, order = [], []
        for group in batch.layout.groups:
            shape = (group.documents, group.length)
            ids = batch.input_ids[0].index_select(0, group.places).view(shape)
            real = torch.ones_like(group.places, dtype=torch.bool)
            if group.pads is not None:
                real = ~group.pads
            output = module(input_ids=ids, attention_mask=real.view(shape).long(), use_cache=False)
            rows.append(of(output).flatten(0, 1)[real])
            order.append(group.places[real])
        return torch.cat(rows).index_select(0, torch.argsort(torch.cat(order)))


def make_objective(model: nn.Module, *, base_teaches: bool = False) -> Objective:
    """The objective for this kind of model; `base_teaches` as for `CausalObjective`."""
    from codetune.training.pairs import PairObjective

    whole: Any = model
    if whole.config.is_encoder_decoder:
        return PairObjective(model)
    return CausalObjective(model, base_teaches=base_teaches)
