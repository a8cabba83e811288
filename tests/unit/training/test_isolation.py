"""Packed documents do not see each other, and the check at each run's start would notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from codetune.errors import TrainingError
from codetune.models.load import BaseModel, load_model
from codetune.training import attention, selfcheck
from codetune.training.attention import attend, layout_of
from codetune.training.objective import WAYS, CausalObjective, Way
from codetune.training.selfcheck import check_objective, isolated, probe_batch

VOCABULARY = 128


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int]
) -> torch.Tensor:
    """torch's own attention on each document alone; (1, T, heads, size)."""
    out, start = [], 0
    for length in lengths:
        one = [x[:, :, start : start + length] for x in (q, k, v)]
        out.append(F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True))
        start += length
    return torch.cat(out, dim=2).transpose(1, 2)


@pytest.mark.parametrize(
    "lengths", [[1], [64, 64], [5, 200, 129, 64, 1, 300, 128], [70, 71, 72], [2] * 9]
)
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (3, 1)])
def test_attention_equals_torch_on_each_document(
    lengths: list[int], heads: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    q = torch.randn(1, heads[0], total, 16, requires_grad=True)
    k, v = (torch.randn(1, heads[1], total, 16, requires_grad=True) for _ in range(2))
    got, _ = attend(torch.nn.Module(), q, k, v, None, layout=layout_of(lengths))
    wanted = reference(q, k, v, lengths)
    torch.testing.assert_close(got, wanted)
    above = torch.randn_like(wanted)
    gradients = (torch.autograd.grad(out, (q, k, v), above) for out in (got, wanted))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_long_documents_use_the_flat_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LONGEST_KEPT", 10)
    q, k, v = (torch.randn(1, 2, 30, 8) for _ in range(3))
    got, _ = attend(torch.nn.Module(), q, k, v, None, layout=layout_of([18, 12]))
    torch.testing.assert_close(got, reference(q, k, v, [18, 12]))


@pytest.fixture
def objective(base: BaseModel) -> CausalObjective:
    return CausalObjective(load_model(base.path))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_isolates(objective: CausalObjective, way: Way) -> None:
    objective.use(way)
    assert isolated(objective, VOCABULARY)


def test_all_ways_agree(base: BaseModel) -> None:
    objective = CausalObjective(load_model(base.path, dtype=torch.float32))
    batch = probe_batch(VOCABULARY, (50, 3, 130))
    with torch.no_grad():
        losses = []
        for way in WAYS:
            objective.use(way)
            losses.append(float(objective.loss(batch)))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert objective.padding(batch) > 0


def test_check_sees_a_leak(objective: CausalObjective, monkeypatch: pytest.MonkeyPatch) -> None:
    """One causal row across all documents, as with concatenate-and-chunk packing."""
    monkeypatch.setattr(selfcheck, "probe_batch", one_document_layout)
    assert not isolated(objective, VOCABULARY)


def one_document_layout(vocabulary: int, lengths: tuple[int, ...]) -> Any:
    """The probe, but attention is told that it is all one document."""
    from dataclasses import replace

    batch = probe_batch(vocabulary, lengths)
    total = sum(lengths)
    return replace(batch, layout=layout_of([total]), position_ids=torch.arange(total)[None])


def test_run_is_refused_when_nothing_isolates(
    objective: CausalObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "probe_batch", one_document_layout)
    with pytest.raises(TrainingError, match="see each other"):
        check_objective(objective, VOCABULARY)


def test_unknown_attention_falls_back_to_sdpa(
    objective: CausalObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective.causal.config.sliding_window = 1
    for layer in objective.decoder.layers:  # type: ignore[union-attr]
        layer.self_attn.sliding_window = 1
    chosen = check_objective(objective, VOCABULARY)
    assert "transformers SDPA" in chosen


def test_head_with_more_than_a_product_gets_all_logits(objective: CausalObjective) -> None:
    """A model that scales its logits (Granite, Cohere) must not be trained on unscaled ones."""
    head = objective.causal.lm_head
    head.register_forward_hook(lambda module, inputs, output: output * 3.0)
    assert "from all logits" in check_objective(objective, VOCABULARY)
