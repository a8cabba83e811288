"""The loss of encoder-decoder models (T5): what is given goes in, what is learned comes out.

An example whose loss begins later is cut there: prompt, or code around a hole, to the encoder,
the answer to the decoder. An example with loss from its start (a file) becomes a prefix and its
continuation, cut at a place between a quarter and three quarters of it (the prefix language
model of Raffel et al. 2020, arXiv 1910.10683).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codetune.models.linear_loss import IGNORE
from codetune.models.seq2seq import Marks
from codetune.training.batches import Batch


@dataclass(frozen=True)
class Pairs:
    """Right-padded rows: sources (n, S) with their mask, targets (n, T), `IGNORE` without loss.

    `weights` has the targets' shape, or is None where all are 1.
    """

    sources: Tensor
    mask: Tensor
    inputs: Tensor  # (n, T): the targets shifted right
    labels: Tensor
    weights: Tensor | None


class PairObjective:
    """Runs an encoder-decoder model; documents are rows of their own."""

    base_teaches = False

    def __init__(self, model: nn.Module) -> None:
        wrapped: Any = model
        self.model = model
        self.causal: Any = wrapped.get_base_model() if hasattr(model, "get_base_model") else wrapped
        self.vocabulary = int(self.causal.get_input_embeddings().weight.shape[0])
        self._marks = Marks.of(self.causal.config)

    def loss(self, batch: Batch, divisor: float | None = None) -> Tensor:
        """Weighted cross-entropy in nats, summed, over `divisor` (default: the batch's mass)."""
        pairs = self.pairs(batch)
        divisor = divisor if divisor is not None else max(1.0, _mass(pairs))
        if not len(pairs.labels):
            return torch.zeros((), device=batch.input_ids.device, requires_grad=True)
        logits = self.causal(
            input_ids=pairs.sources,
            attention_mask=pairs.mask,
            decoder_input_ids=pairs.inputs,
            use_cache=False,
        ).logits
        each = F.cross_entropy(
            logits.flatten(0, 1).float(),
            pairs.labels.flatten(),
            ignore_index=IGNORE,
            reduction="none",
        )
        if pairs.weights is not None:
            each = each * pairs.weights.flatten()
        return each.sum() / divisor

    def mass(self, batch: Batch) -> float:
        """The sum of the weights of the labels that carry loss: their number, if all are 1."""
        return _mass(self.pairs(batch))

    def padding(self, batch: Batch) -> int:
        """Positions computed for the batch that are no token of it."""
        pairs = self.pairs(batch)
        return max(0, pairs.sources.numel() + pairs.labels.numel() - batch.tokens)

    @torch.no_grad()
    def summed(self, batch: Batch) -> tuple[float, int]:
        """The unweighted summed loss in nats, and the number of labels."""
        batch = batch.plain()
        return float(self.loss(batch, divisor=1.0)), _count(self.pairs(batch))

    def pairs(self, batch: Batch) -> Pairs:
        """Cut each document of the batch into source and target."""
        ids = batch.input_ids[0].cpu()
        carries = torch.zeros(len(ids), dtype=torch.bool)
        weights = torch.ones(len(ids))
        learned = batch.places.cpu() + 1  # a place is where the next token is predicted
        carries[learned] = True
        if batch.weights is not None:
            weights[learned] = batch.weights.cpu()
        sources, targets, losses, weighed, start = [], [], [], [], 0
        for length in batch.layout.lengths:
            document, loss = ids[start : start + length], carries[start : start + length]
            cut = _cut(document, loss)
            if cut is not None:
                sources.append(torch.tensor(self._marks.source(document[:cut].tolist())))
                targets.append(document[cut:])
                losses.append(loss[cut:])
                weighed.append(weights[start + cut : start + length])
            start += length
        return self._padded(sources, targets, losses, weighed, batch)

    def _padded(
        self,
        sources: list[Tensor],
        targets: list[Tensor],
        losses: list[Tensor],
        weights: list[Tensor],
        batch: Batch,
    ) -> Pairs:
        device = batch.input_ids.device
        pad, marks = nn.utils.rnn.pad_sequence, self._marks
        if not sources:
            none = torch.zeros((0, 1), dtype=torch.long, device=device)
            return Pairs(none, none, none, none, None)
        inputs = [torch.cat([torch.tensor([marks.start]), target[:-1]]) for target in targets]
        labels = [
            torch.where(loss, target, IGNORE) for target, loss in zip(targets, losses, strict=True)
        ]
        mask = [torch.ones(len(source), dtype=torch.long) for source in sources]
        return Pairs(
            sources=pad(sources, True, marks.pad).to(device),
            mask=pad(mask, True, 0).to(device),
            inputs=pad(inputs, True, marks.pad).to(device),
            labels=pad(labels, True, IGNORE).to(device),
            weights=None if batch.weights is None else pad(weights, True, 0.0).to(device),
        )


def _cut(ids: Tensor, loss: Tensor) -> int | None:
    """Where the target begins; None for an example with nothing to learn from something."""
    places = torch.nonzero(loss)[:, 0]
    if not len(places):
        return None
    first = int(places[0])
    if first > 1:
        return first
    # Loss from the start: the place follows from the text, so that each run cuts the same.
    return max(1, len(ids) // 4 + int(ids.sum()) % max(1, len(ids) // 2))


def _count(pairs: Pairs) -> int:
    return int((pairs.labels != IGNORE).sum())


def _mass(pairs: Pairs) -> float:
    if pairs.weights is None:
        return float(_count(pairs))
    return float(pairs.weights[pairs.labels != IGNORE].sum())
