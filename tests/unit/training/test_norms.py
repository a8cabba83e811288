"""RMSNorm by the piece gives what the model's own modules give."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from codetune.training import norms
from codetune.training.norms import quicken_norms, rms_norm


def gradients(module: nn.Module, x: torch.Tensor, above: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    module.zero_grad()
    out = module(x)
    out.backward(above)
    assert x.grad is not None
    assert isinstance(module.weight, nn.Parameter)
    assert module.weight.grad is not None
    return [out.detach(), x.grad, module.weight.grad.clone()]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_output_and_gradients_are_the_modules_own(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float
) -> None:
    monkeypatch.setattr(norms, "_PIECE", 24 * 10)  # pieces of ten rows, the last one smaller
    torch.manual_seed(0)
    module = Qwen2RMSNorm(24, eps=1e-3)
    module.weight.data += torch.randn(24) / 4
    module.to(dtype)
    x, above = torch.randn(3, 11, 24).to(dtype) * 3, torch.randn(3, 11, 24).to(dtype)
    x[0, 0] = 0
    expected = gradients(module, x, above)
    assert quicken_norms(nn.Sequential(module)) == 1
    found = gradients(module, x, above)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        size = float(other.abs().max())
        assert float((one - other).abs().max()) <= tolerance * size


def test_a_row_that_is_not_contiguous() -> None:
    x = torch.randn(8, 24).T.requires_grad_()
    assert not x.is_contiguous()
    weight = torch.ones(8)
    rms_norm(x, weight, 1e-6).sum().backward()
    plain = x.detach().clone().requires_grad_()
    nn.functional.rms_norm(plain, (8,), weight, 1e-6).sum().backward()
    assert x.grad is not None and plain.grad is not None
    assert torch.allclose(x.grad, plain.grad, atol=1e-5)


def test_a_norm_that_computes_something_else_is_left_alone() -> None:
    other = GemmaRMSNorm(16)  # multiplies by 1 + weight
    with torch.no_grad():
        other.weight += 0.5
    before = other.forward
    assert quicken_norms(nn.Sequential(other, nn.LayerNorm(16))) == 0
    assert other.forward == before


def test_another_type_than_the_weights_goes_the_old_way() -> None:
    module = Qwen2RMSNorm(16)
    x = torch.randn(2, 16)
    module.weight.data += 1
    expected = module(x.bfloat16())
    quicken_norms(module)
    found = module(x.bfloat16())
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)
