"""Checks at each run's start that the fast paths compute what the model would."""

from __future__ import annotations

from dataclasses import replace

import torch

from codetune.errors import TrainingError
from codetune.models.architecture import longest_document
from codetune.models.quantised import rows_alone
from codetune.training.batches import Batch, split
from codetune.training.objective import WAYS, CausalObjective, Objective
from codetune.training.pairs import PairObjective

_TOKENS = 48  # enough to see a leak; a run must not wait for its check


@torch.no_grad()
def check_objective(objective: Objective, vocabulary: int, longest: int = 0) -> str:
    """Choose the paths that are right for this model; returns what was chosen, in words.

    `longest` is the length of the longest document.

    Raises:
        TrainingError: a document is longer than the model's positions, or no way to pack
            documents keeps them apart on this model.
    """
    limit = longest_document(objective.causal.config)
    if limit is not None and longest > limit:
        raise TrainingError(
            f"The data has examples of {longest} tokens, and this base reads {limit} at most.",
            advice=f"Build the dataset with dataset.window={limit}.",
        )
    was_training = objective.model.training
    objective.model.eval()
    try:
        if isinstance(objective, PairObjective):
            return _check_pairs(objective, vocabulary)
        assert isinstance(objective, CausalObjective)
        with rows_alone(objective.model):
            return _check_causal(objective, vocabulary, longest)
    finally:
        objective.model.train(was_training)


def _check_causal(objective: CausalObjective, vocabulary: int, longest: int) -> str:
    for way in WAYS:
        if not objective.can_use(way, longest):
            continue
        try:
            objective.use(way)
            if isolated(objective, vocabulary):
                break
        except (ValueError, TypeError):
            # A mask, a sliding window, or a forward that takes no layout or position ids.
            continue
    else:
        raise TrainingError(
            f"Packed documents see each other in '{type(objective.causal).__name__}': "
            "its attention does not keep them apart.",
            advice="Use a base of another architecture (Qwen2, Llama, StarCoder2 …).",
        )
    if objective.fused and not _same_loss(objective, vocabulary):
        objective.fused = False
    return f"{_WORDS[objective.way]}, loss {'chunked' if objective.fused else 'from all logits'}"


_WORDS = {
    "documents": "attention per document",
    "sdpa": "attention transformers SDPA",
    "padded": "one padded row a document",
}


def _check_pairs(objective: PairObjective, vocabulary: int) -> str:
    """A document's loss must be the same alone and beside others."""
    lengths = (_TOKENS, _TOKENS // 3)
    device = _device(objective)
    both = objective.summed(probe_batch(vocabulary, lengths).to(device))[0]
    alone = sum(
        objective.summed(part.to(device))[0]
        for part in split(probe_batch(vocabulary, lengths), len(lengths))
    )
    if not abs(both - alone) <= 2e-2 * max(1.0, abs(alone)):
        raise TrainingError(
            f"Padding changes what '{type(objective.causal).__name__}' computes.",
            advice="Use a base of another architecture (T5, FLAN-T5, CodeT5+ …).",
        )
    return "encoder and decoder, padded rows"


@torch.no_grad()
def isolated(objective: CausalObjective, vocabulary: int) -> bool:
    """Whether the second document's outputs ignore what the first one says.

    All the first document's tokens are changed; the second's hidden states must stay the
    same up to rounding, and the first's must not (else the check would see nothing).

    Raises:
        TrainingError: the outputs are not finite.
    """
    first = probe_batch(vocabulary, (_TOKENS, _TOKENS))
    changed = first.input_ids.clone()
    changed[0, :_TOKENS] = (changed[0, :_TOKENS] + 1) % vocabulary
    device = next(objective.model.parameters()).device
    before = objective.hidden(first.to(device)).float()
    after = objective.hidden(replace(first, input_ids=changed).to(device)).float()
    scale = before.abs().max()
    if not bool(torch.isfinite(before).all()):
        raise TrainingError(
            "The base computes no finite numbers.",
            advice="Its weights are damaged, or too large for bf16: try training.precision=fp32.",
        )
    moved = ((before - after).abs() / scale).amax(dim=1)
    return bool(moved[:_TOKENS].max() > 1e-3) and bool(moved[_TOKENS:].max() < 1e-5)


def probe_batch(vocabulary: int, lengths: tuple[int, ...]) -> Batch:
    """A batch of arbitrary tokens; every position but each document's last carries loss."""
    from codetune.training.attention import layout_of

    total = sum(lengths)
    ids = (torch.arange(total) * 7919 + 13) % vocabulary
    positions = torch.cat([torch.arange(length) for length in lengths])
    places = torch.tensor([i for i in range(total - 1) if positions[i + 1] != 0])
    return Batch(
        input_ids=ids[None],
        position_ids=positions[None],
        places=places,
        labels=ids[places + 1],
        weights=None,
        layout=layout_of(lengths),
    )


def _same_loss(objective: CausalObjective, vocabulary: int) -> bool:
    """Whether the chunked loss equals that from the model's own logits (scaling, capping …)."""
    batch = probe_batch(vocabulary, (_TOKENS, _TOKENS)).to(_device(objective))
    fused = float(objective.loss(batch))
    logits = objective.logits(batch).index_select(0, batch.places).float()
    plain = float(torch.nn.functional.cross_entropy(logits, batch.labels))
    return abs(fused - plain) <= 2e-2 * max(1.0, abs(plain))


def _device(objective: Objective) -> torch.device:
    return next(objective.model.parameters()).device
