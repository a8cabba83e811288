"""Checks at each run's start that the fast paths compute what the model would."""

from __future__ import annotations

from dataclasses import replace

import torch

from codetune.errors import TrainingError
from codetune.training.batches import Batch
from codetune.training.objective import Objective

_TOKENS = 48  # enough to see a leak; a run must not wait for its check


@torch.no_grad()
def check_objective(objective: Objective, vocabulary: int) -> str:
    """Choose the paths that are right for this model; returns what was chosen, in words.

    Raises:
        TrainingError: no way to pack documents keeps them apart on this model.
    """
    was_training = objective.model.training
    objective.model.eval()
    try:
        if not (_runs(objective, vocabulary) and isolated(objective, vocabulary)):
            objective.use_isolated(False)
            if not isolated(objective, vocabulary):
                raise TrainingError(
                    f"Packed documents see each other in '{type(objective.causal).__name__}': "
                    "its attention does not respect position ids.",
                    advice="Use a base of another architecture (Qwen2, Llama, StarCoder2 …).",
                )
        if objective.fused and not _same_loss(objective, vocabulary):
            objective.fused = False
    finally:
        objective.model.train(was_training)
    attention = "per document" if objective.isolated else "transformers SDPA"
    return f"attention {attention}, loss {'chunked' if objective.fused else 'from all logits'}"


@torch.no_grad()
def isolated(objective: Objective, vocabulary: int) -> bool:
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


def _runs(objective: Objective, vocabulary: int) -> bool:
    """Whether our attention can do what this architecture asks of it."""
    if not objective.isolated:
        return True
    try:
        objective.hidden(probe_batch(vocabulary, (3, 2)).to(_device(objective)))
    except (ValueError, TypeError):  # a mask, a sliding window, or a layer that drops `layout`
        return False
    return True


def _same_loss(objective: Objective, vocabulary: int) -> bool:
    """Whether the chunked loss equals that from the model's own logits (scaling, capping …)."""
    batch = probe_batch(vocabulary, (_TOKENS, _TOKENS)).to(_device(objective))
    fused = float(objective.loss(batch))
    logits = objective.logits(batch).index_select(0, batch.places).float()
    plain = float(torch.nn.functional.cross_entropy(logits, batch.labels))
    return abs(fused - plain) <= 2e-2 * max(1.0, abs(plain))


def _device(objective: Objective) -> torch.device:
    return next(objective.model.parameters()).device
