"""The loss of a batch: cross-entropy of the tokens that carry loss, without all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codetune.models.linear_loss import linear_cross_entropy
from codetune.training import attention
from codetune.training.batches import Batch


class Objective:
    """Runs a causal language model on batches of packed documents.

    `fused` and `isolated` say which fast paths are in use; the self-check turns one off when
    an architecture does something between hidden states and logits, or in its attention, that
    the path does not know. `isolated` off means SDPA over the whole row, where transformers
    itself keeps documents apart by their position ids.
    """

    def __init__(self, model: nn.Module) -> None:
        wrapped: Any = model
        causal: Any = model if not hasattr(model, "get_base_model") else wrapped.get_base_model()
        self.model, self.causal = model, causal
        self.decoder: nn.Module = causal.get_decoder()
        self.head: Any = causal.get_output_embeddings()
        self.fused = isinstance(self.head, nn.Linear) and self.head.bias is None
        attention.register()
        self.isolated = True
        self.use_isolated(True)

    @property
    def vocabulary(self) -> int:
        """Token ids that the model knows."""
        return int(self.causal.get_input_embeddings().weight.shape[0])

    def use_isolated(self, isolated: bool) -> None:
        """Attention document by document, or transformers' own SDPA."""
        self.isolated = isolated
        self.causal.set_attn_implementation(attention.NAME if isolated else "sdpa")

    def hidden(self, batch: Batch) -> Tensor:
        """(T, width): the decoder's output."""
        extra = {"layout": batch.layout} if self.isolated else {}
        output = self.decoder(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            **extra,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, batch: Batch) -> Tensor:
        """(T, vocabulary) the model's own way, for the self-check and where fused is off."""
        extra = {"layout": batch.layout} if self.isolated else {}
        output = self.causal(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            **extra,
        )
        logits: Tensor = output.logits[0]
        return logits

    def loss(self, batch: Batch, divisor: float | None = None) -> Tensor:
        """Summed cross-entropy in nats over `divisor` (default: the number of labels)."""
        divisor = divisor if divisor is not None else float(max(1, len(batch.labels)))
        if self.fused and batch.weights is None:
            chosen = self.hidden(batch).index_select(0, batch.places)
            return linear_cross_entropy(chosen, self.head.weight, batch.labels, divisor=divisor)
        chosen = self.logits(batch).index_select(0, batch.places).float()
        each = F.cross_entropy(chosen, batch.labels, reduction="none")
        if batch.weights is not None:
            each = each * batch.weights
        return each.sum() / divisor

    @torch.no_grad()
    def summed(self, batch: Batch) -> tuple[float, int]:
        """The unweighted summed loss in nats, and the number of labels."""
        return float(self.loss(batch, divisor=1.0)), len(batch.labels)
