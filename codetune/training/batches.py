"""From rows of document indices to the tensors of one forward pass, without any padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from codetune.models.tokens import STREAMS, Flags, TokenStore
from codetune.training.attention import Layout, layout_of
from codetune.training.packing import micro_batches, pack


@dataclass(frozen=True)
class Batch:
    """Documents laid end to end as one row of T tokens.

    Position ids restart with each document. `places` (N,) are the positions whose next token
    carries loss, `labels` (N,) that token, `weights` (N,) its weight, or None where all are 1.
    `replayed` says which documents are replayed general code; None: none is.
    """

    input_ids: Tensor  # (1, T)
    position_ids: Tensor  # (1, T)
    places: Tensor
    labels: Tensor
    weights: Tensor | None
    layout: Layout
    replayed: Flags | None = None  # [documents]

    @property
    def tokens(self) -> int:
        """Real tokens: there are no others."""
        return int(self.input_ids.shape[1])

    def plain(self) -> Batch:
        """The same batch with every weight at 1, and no document told from the others."""
        return replace(self, weights=None, replayed=None)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        if device.type == "cpu":
            return self
        return Batch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.places.to(device),
            self.labels.to(device),
            None if self.weights is None else self.weights.to(device),
            layout_of(self.layout.lengths, device),
            self.replayed,
        )

    def of(self, documents: Flags) -> tuple[Batch, Tensor]:
        """The batch of these documents, a flag each, and which of `places` (N,) are theirs."""
        device = self.input_ids.device
        lengths = self.layout.lengths
        within = torch.from_numpy(np.repeat(documents, lengths)).to(device)
        theirs = within[self.places]
        chosen = [length for length, flag in zip(lengths, documents, strict=True) if flag]
        replayed = None if self.replayed is None else self.replayed[documents]
        batch = Batch(
            input_ids=self.input_ids[:, within],
            position_ids=self.position_ids[:, within],
            places=(within.cumsum(0) - 1)[self.places[theirs]],
            labels=self.labels[theirs],
            weights=None if self.weights is None else self.weights[theirs],
            layout=layout_of(chosen, device),
            replayed=replayed if replayed is not None and replayed.any() else None,
        )
        return batch, theirs


def make_batch(
    store: TokenStore,
    documents: Sequence[int],
    *,
    gap_weight: float = 1.0,
    replay_weight: float | None = None,
) -> Batch:
    """The batch of these examples of the store, in this order.

    What fills a gap, and the token that ends it, weighs `gap_weight` times as much as the rest.
    Every token of replayed code weighs `replay_weight`; None: as the other examples' tokens.
    """
    ids, positions, places, weights = [], [], [], []
    start, weighed, gaps, streams = 0, store.weights, store.gaps, store.streams
    replayed, replay = [], STREAMS.index("replay")
    for document in documents:
        tokens, loss = store[document][0], store.loss(document)
        length = len(tokens)
        ids.append(np.asarray(tokens, dtype=np.int64))
        positions.append(np.arange(length))
        # Token t is predicted at t - 1; nothing predicts a document's first token.
        predicting = np.flatnonzero(loss[1:])
        places.append(predicting + start)
        replayed.append(bool(streams[document] == replay))
        weight = np.full(len(predicting), weighed[document], dtype=np.float32)
        if replayed[-1] and replay_weight is not None:
            weight *= replay_weight
        elif gap_weight != 1 and gaps[document]:
            weight[predicting + 1 >= gaps[document]] *= gap_weight
        weights.append(weight)
        start += length
    flat, where, weighs = np.concatenate(ids), np.concatenate(places), np.concatenate(weights)
    return Batch(
        input_ids=torch.from_numpy(flat)[None],
        position_ids=torch.from_numpy(np.concatenate(positions))[None],
        places=torch.from_numpy(where),
        labels=torch.from_numpy(flat[where + 1]),
        weights=None if bool((weighs == 1).all()) else torch.from_numpy(weighs),
        layout=layout_of([len(part) for part in ids]),
        replayed=np.array(replayed) if any(replayed) else None,
    )


def split(batch: Batch, pieces: int) -> list[Batch]:
    """The batch's documents in at most `pieces` batches of about as many tokens, in order."""
    lengths = batch.layout.lengths
    ends = np.cumsum(lengths)
    # The document that a piece's share of the tokens ends in is its last one.
    shares = np.arange(1, pieces) * (int(ends[-1]) / pieces)
    cuts = [0, *(np.searchsorted(ends, shares) + 1).tolist(), len(lengths)]
    numbers = np.arange(len(lengths))
    return [
        batch.of((numbers >= first) & (numbers < last))[0]
        for first, last in pairwise(cuts)
        if last > first
    ]


@dataclass
class MicroBatches(torch.utils.data.Dataset[Batch]):
    """All micro-batches of the current epoch, made when asked for.

    Rows are packed once; their order is a function of seed and epoch, so that a resumed run
    only needs to know how many it had seen.
    """

    store: TokenStore
    window: int
    rows_per_batch: int
    seed: int
    gap_weight: float = 1.0
    replay_weight: float | None = None
    rows: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = pack(self.store.lengths, self.window)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Move to the order of this epoch."""
        self._batches = micro_batches(self.rows, self.rows_per_batch, self.seed, epoch)

    def longest(self) -> Batch:
        """The micro-batch with most tokens, for the memory probe.

        What the base teaches counts twice: it is computed twice.
        """
        lengths = self.store.lengths
        if self.replay_weight is not None:
            lengths = lengths * (1 + (self.store.streams == STREAMS.index("replay")))
        return self.batch_of(max(self._batches, key=lambda batch: int(lengths[batch].sum())))

    def batch_of(self, documents: Sequence[int]) -> Batch:
        """These documents as they are trained on."""
        return make_batch(
            self.store, documents, gap_weight=self.gap_weight, replay_weight=self.replay_weight
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batch_of(self._batches[index])
