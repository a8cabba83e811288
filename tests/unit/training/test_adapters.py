"""The short LoRA forward computes what PEFT computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from codetune.models.load import BaseModel, Parent, load_model
from codetune.training.adapters import set_aside, speed_up
from codetune.training.config import TrainingOptions
from codetune.training.methods import prepare, trained


def adapted(base: BaseModel, dropout: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(0)
    options = TrainingOptions(rank=4, alpha=3, dropout=dropout)
    model = prepare(load_model(base.path, dtype=torch.float32), options, speed=False)
    for name, weight in trained(model):
        if "lora_B" in name:  # zero at the start: nothing would be seen
            torch.nn.init.normal_(weight, std=0.3)
    return model


def test_outputs_and_gradients_equal_pefts(base: BaseModel) -> None:
    model = adapted(base)
    ids = torch.arange(1, 40)[None]

    def result() -> tuple[torch.Tensor, list[torch.Tensor]]:
        logits = model(ids).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
        weights = [weight for _, weight in trained(model)]
        return logits, list(torch.autograd.grad(loss, weights))

    wanted, wanted_gradients = result()
    assert speed_up(model) == 14  # seven linear layers in each of two
    got, gradients = result()
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    with set_aside(model):
        plain = load_model(base.path, dtype=torch.float32)(ids).logits
        torch.testing.assert_close(model(ids).logits, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(ids).logits, got)


def test_what_is_set_aside_leaves_the_adapter_below_and_nothing_else_changed(
    base: BaseModel, tmp_path: Path
) -> None:
    def noisy(model: Any) -> Any:
        for name, weight in trained(model):
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        return model

    ids, options = torch.arange(1, 40)[None], TrainingOptions(rank=4)
    whole = load_model(base.path, dtype=torch.float32)
    below = noisy(prepare(whole, options, speed=False))
    below.save_pretrained(tmp_path)
    expected = below(ids).logits
    again = load_model(base.path, dtype=torch.float32)
    model = noisy(prepare(again, options, parent=Parent("below:1", tmp_path, "digest")))
    before, names = model(ids).logits, [name for name, _ in trained(model)]
    with set_aside(model):
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(ids).logits, before)
    assert not torch.allclose(before, expected, atol=1e-2)
    assert [name for name, _ in trained(model)] == names
    assert all(".default." in name for name in names)


@pytest.mark.parametrize("dropout", [0.1])
def test_layers_it_does_not_know_stay(base: BaseModel, dropout: float) -> None:
    assert speed_up(adapted(base, dropout)) == 0
