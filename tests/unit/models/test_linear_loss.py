"""The chunked cross-entropy against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from codetune.models import linear_loss
from codetune.models.linear_loss import IGNORE, linear_cross_entropy, linear_distillation


def made(rows: int, dtype: torch.dtype, *, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = (torch.randn(rows, 24) * spread).to(dtype).requires_grad_()
    weight = torch.randn(301, 24).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, 301, (rows,))


def plain(
    hidden: Tensor, weight: Tensor, labels: Tensor, row_weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and both gradients from all logits, in float64."""
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    each = F.cross_entropy(wide[0] @ wide[1].T, labels, ignore_index=IGNORE, reduction="none")
    mass = (labels != IGNORE).double()
    if row_weights is not None:
        mass = mass * row_weights
    loss = (each * mass).sum() / mass.sum()
    of_hidden, of_weight = torch.autograd.grad(loss, wide)
    return loss, of_hidden, of_weight


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("chunk", [None, 7, 64])
def test_loss_and_gradients_are_those_of_all_logits(chunk: int | None) -> None:
    hidden, weight, labels = made(64, torch.float32)
    labels[::5] = IGNORE
    expected = plain(hidden, weight, labels)
    loss = linear_cross_entropy(hidden, weight, labels, chunk=chunk)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert abs(loss.item() - expected[0].item()) < 1e-5
    for found, wanted in zip(gradients, expected[1:], strict=True):
        assert distance(found, wanted) < 1e-5
    assert not gradients[0][::5].any()


@pytest.mark.parametrize("kernel", ["_softmax_gradient", "_gradient_of_logits"])
def test_rows_weigh_what_they_are_told(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both ways to the logits' gradient; the second one is what torch.compile is given."""
    monkeypatch.setattr(linear_loss, "_softmax_gradient", getattr(linear_loss, kernel))
    hidden, weight, labels = made(64, torch.float32)
    labels[::5] = IGNORE
    row_weights = torch.rand(64) * 4
    row_weights[3] = 0
    expected = plain(hidden, weight, labels, row_weights)
    loss = linear_cross_entropy(hidden, weight, labels, row_weights=row_weights, chunk=7)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert abs(loss.item() - expected[0].item()) < 1e-5
    for found, wanted in zip(gradients, expected[1:], strict=True):
        assert distance(found, wanted) < 1e-5
    assert not gradients[0][::5].any() and not gradients[0][3].any()
    part = linear_cross_entropy(hidden, weight, labels, row_weights=row_weights, divisor=7.0)
    counted = row_weights * (labels != IGNORE)
    assert part.item() == pytest.approx(loss.item() * float(counted.sum()) / 7)


def test_bf16_is_as_near_as_bf16_can_be() -> None:
    hidden, weight, labels = made(512, torch.bfloat16, spread=0.3)
    expected = plain(hidden, weight, labels)
    loss = linear_cross_entropy(hidden, weight, labels)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss.dtype == torch.float32
    assert abs(loss.item() - expected[0].item()) < 1e-3 * expected[0].item()
    for found, wanted in zip(gradients, expected[1:], strict=True):
        assert found.dtype == torch.bfloat16
        assert distance(found, wanted) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_probability_that_underflows_still_has_its_loss(dtype: torch.dtype) -> None:
    hidden, weight, labels = made(16, dtype, spread=200.0)
    expected = plain(hidden, weight, labels)[0].item()
    assert expected > 500
    found = linear_cross_entropy(hidden, weight, labels).item()
    assert abs(found - expected) < 5e-3 * expected


def test_the_divisor_scales_loss_and_gradients() -> None:
    hidden, weight, labels = made(32, torch.float32)
    mean = linear_cross_entropy(hidden, weight, labels)
    part = linear_cross_entropy(hidden, weight, labels, divisor=128.0)
    assert part.item() == pytest.approx(mean.item() / 4)
    for one, other in zip(
        torch.autograd.grad(mean, (hidden, weight)),
        torch.autograd.grad(part, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one / 4, other)


@pytest.mark.parametrize("chunk", [None, 7])
def test_distillation_is_the_cross_entropy_under_the_teachers_probabilities(
    chunk: int | None,
) -> None:
    hidden, weight, _ = made(64, torch.float32)
    weight = weight.detach()
    taught, row_weights = torch.randn(64, 24), torch.rand(64) * 4
    wide = hidden.detach().double().requires_grad_()
    target = (taught.double() @ weight.double().T).softmax(-1)
    each = F.cross_entropy(wide @ weight.double().T, target, reduction="none")
    expected = (each * row_weights).sum() / row_weights.sum()
    loss = linear_distillation(hidden, weight, taught, row_weights=row_weights, chunk=chunk)
    assert abs(loss.item() - expected.item()) < 1e-5
    (found,) = torch.autograd.grad(loss, hidden)
    assert distance(found, torch.autograd.grad(expected, wide)[0]) < 1e-5


def test_who_says_what_the_teacher_says_has_nothing_to_learn() -> None:
    hidden, weight, _ = made(64, torch.bfloat16)
    loss = linear_distillation(hidden, weight.detach(), hidden.detach())
    (found,) = torch.autograd.grad(loss, hidden)
    # Two softmaxes of the same logits, in float32 and in bf16.
    assert found.float().norm() < 1e-3 * weight.detach().float().norm()
