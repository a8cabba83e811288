"""Replayed code is learned from the base: the objective against plain products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from codetune.artifacts import run_stage
from codetune.dataset.replay import replay_documents
from codetune.models.load import BaseModel, load_model, resolve_base
from codetune.models.prompts import Renderer
from codetune.models.tokens import TokenStore, TokenWriter
from codetune.progress import Progress
from codetune.training import retention
from codetune.training.batches import make_batch, split
from codetune.training.config import TrainingOptions
from codetune.training.methods import prepare, trained
from codetune.training.objective import CausalObjective
from codetune.training.train import train

WEIGHT = 3.0


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """Two documents of the team's, and between them a replayed one with a gap."""
    with TokenWriter(tmp_path / "store", 300) as writer:
        writer.append(range(10, 40), stream="ntp", document=0)
        writer.append(range(50, 75), stream="replay", document=1, loss_from=4, gap_from=20)
        writer.append(range(90, 110), stream="fim", document=2, loss_from=2, gap_from=12)
    return TokenStore.open(tmp_path / "store")


def adapted(base: BaseModel) -> Any:
    torch.manual_seed(0)
    model = prepare(load_model(base.path, dtype=torch.float32), TrainingOptions(rank=4))
    for name, weight in trained(model):
        if "lora_B" in name:  # zero at the start: the base would say the same
            torch.nn.init.normal_(weight, std=0.3)
    return model


def expected(model: Any, base: BaseModel, store: TokenStore) -> torch.Tensor:
    """Document by document, from all logits; the sum over the sum of the weights."""
    plain: Any = load_model(base.path, dtype=torch.float32)
    total, mass = torch.zeros(()), 0.0
    for document, first in ((0, 1), (1, 4), (2, 2)):
        ids = torch.tensor(store[document][0].astype("int64"))[None]
        logits = model(ids).logits[0, first - 1 : -1]
        if document == 1:
            taught = plain(ids).logits[0, first - 1 : -1].detach().softmax(-1)
            each, weights = F.cross_entropy(logits, taught, reduction="none"), WEIGHT
        else:
            each, weights = F.cross_entropy(logits, ids[0, first:], reduction="none"), 1.0
        total, mass = total + each.sum() * weights, mass + len(each) * weights
    return total / mass


@pytest.mark.parametrize("fused", [True, False])
def test_replayed_documents_are_learned_from_the_base(
    base: BaseModel, store: TokenStore, fused: bool
) -> None:
    model = adapted(base)
    wanted = expected(model, base, store)
    gradients = torch.autograd.grad(wanted, [weight for _, weight in trained(model)])
    objective = CausalObjective(model, base_teaches=True)
    objective.fused = fused
    batch = make_batch(store, [0, 1, 2], replay_weight=WEIGHT)
    model.train()
    loss = objective.loss(batch)
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)
    assert model.training
    for found, other in zip(
        torch.autograd.grad(loss, [weight for _, weight in trained(model)]), gradients, strict=True
    ):
        torch.testing.assert_close(found, other, rtol=1e-3, atol=1e-5)
    # In pieces, as when memory is short: one without replayed code, one that has nothing else.
    mass = objective.mass(batch)
    for order, pieces in (([0, 1, 2], 3), ([0, 2, 1], 2), ([1], 1)):
        whole = make_batch(store, order, replay_weight=WEIGHT)
        parts = [objective.loss(part, divisor=mass).item() for part in split(whole, pieces)]
        assert sum(parts) == pytest.approx(objective.loss(whole, divisor=mass).item(), rel=1e-4)


def test_where_the_base_does_not_teach_replayed_code_is_text(
    base: BaseModel, store: TokenStore
) -> None:
    model = adapted(base)
    batch = make_batch(store, [0, 1, 2])
    assert batch.replayed is not None and batch.weights is None
    plain = CausalObjective(model, base_teaches=False).loss(batch)
    taught = CausalObjective(model, base_teaches=True)
    torch.testing.assert_close(plain, taught.loss(batch.plain()))
    assert abs(taught.loss(batch).item() - plain.item()) > 1e-2
    # What is validated and what forgetting is measured on is never the base's opinion.
    total, count = taught.summed(make_batch(store, [0, 1, 2], replay_weight=WEIGHT))
    assert total / count == pytest.approx(plain.item(), rel=1e-4)


def test_a_gap_in_replayed_code_weighs_as_the_rest_of_it(store: TokenStore) -> None:
    batch = make_batch(store, [1, 2], gap_weight=8, replay_weight=WEIGHT)
    assert batch.weights is not None
    assert set(batch.weights[:21].tolist()) == {WEIGHT}
    assert set(batch.weights[21:].tolist()) == {1.0, 8.0}
    as_text = make_batch(store, [1], gap_weight=8)
    assert as_text.weights is not None and set(as_text.weights.tolist()) == {1.0, 8.0}


def test_a_model_without_adapters_has_no_base_to_ask(base: BaseModel) -> None:
    model = load_model(base.path, dtype=torch.float32)
    assert not CausalObjective(model, base_teaches=True).base_teaches


def test_a_run_that_asks_the_base_forgets_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nano learns to count, too fast, with a little general code beside it."""
    monkeypatch.setattr(retention, "_BYTES", 8192)
    nano = resolve_base("nano")
    renderer = Renderer.from_folder(nano.path)

    def make(run: Path) -> dict[str, int]:
        for name, general in (("tokens", replay_documents(60_000, seed=0)), ("validation", [])):
            with TokenWriter(run / name, renderer.vocab_size) as writer:
                for number in range(60):
                    writer.append(range(number, number + 120), stream="ntp", document=number)
                for number, document in enumerate(general, 60):
                    ids = renderer.ntp(document.text, ends_file=True)[:200]
                    writer.append(ids, stream="replay", document=number)
        return {}

    dataset = run_stage("dataset", tmp_path / "data", {}, {}, make)

    def forgotten(distillation: float) -> float:
        options = TrainingOptions(
            batch_tokens=2048,
            max_steps=8,
            learning_rate=5e-3,
            validation_tokens=0,
            distillation=distillation,
        )
        run = train(dataset, nano, options, tmp_path / f"run{distillation}", Progress())
        found = run.summary["retention"]
        return float(found["trained"] - found["base"])

    assert forgotten(3) < forgotten(0)
