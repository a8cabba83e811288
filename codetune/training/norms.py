"""RMSNorm for training on a CPU, piece by piece within its cache.

The modules of transformers make seven passes over the whole batch in float32, forwards, and more
backwards: on a narrow model as much work as a tenth of the matrix products. Here each piece of
the rows goes through all of it while it is in the cache, what the backward pass needs is one
number a row, and the gradient is written down (Zhang & Sennrich 2019, arXiv 1910.07467).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_PIECE = 1 << 17  # numbers of one piece: 512 kB in float32
_EPSILONS = ("variance_epsilon", "eps")  # what architectures call it


def quicken_norms(model: nn.Module) -> int:
    """Let the model's RMSNorms run by the piece on a CPU; returns how many do.

    Only modules that give, on random input, what plain RMSNorm gives: others that bear the name
    (Gemma's, which adds 1 to the weight) stay as they are.
    """
    found = [module for module in model.modules() if _is_rms_norm(module)]
    for module in found:
        module.forward = _forward_of(module)
    return len(found)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`weight · x / √(mean(x²) + eps)` over the last dimension, computed in float32.

    `x` is (…, width), `weight` (width,), of one float type, which the result has, too.
    """
    found: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return found


def _is_rms_norm(module: nn.Module) -> bool:
    weight, eps = getattr(module, "weight", None), _epsilon(module)
    if not type(module).__name__.endswith("RMSNorm") or eps is None:
        return False
    if not isinstance(weight, Tensor) or weight.ndim != 1 or weight.device.type != "cpu":
        return False
    x = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    with torch.no_grad():
        own, ours = module(x), rms_norm(x, weight, eps)
    # One rounding instead of two: the last bit may differ.
    return own.dtype == ours.dtype and bool(
        torch.allclose(own.float(), ours.float(), rtol=2 * torch.finfo(x.dtype).eps, atol=1e-6)
    )


def _epsilon(module: nn.Module) -> float | None:
    return next((float(getattr(module, name)) for name in _EPSILONS if hasattr(module, name)), None)


def _forward_of(module: Any) -> Callable[..., Tensor]:
    before, eps = module.forward, _epsilon(module)
    assert eps is not None

    def forward(hidden_states: Tensor, *more: Any, **named: Any) -> Tensor:
        # The weight is looked up each time: it may be moved, or get another type.
        weight = module.weight
        other = hidden_states.device.type != "cpu" or hidden_states.dtype != weight.dtype
        if other or more or named:  # a gate, a residual
            found: Tensor = before(hidden_states, *more, **named)
            return found
        return rms_norm(hidden_states, weight, eps)

    return forward


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows, out = _rows(x), torch.empty(x.shape, dtype=x.dtype)
        scales, wide = torch.empty(len(rows), 1), weight.float()
        for piece in _pieces(rows):
            part = rows[piece].to(torch.float32, copy=True)
            scale = torch.linalg.vector_norm(part, dim=-1, keepdim=True, out=scales[piece])
            scale.square_().mul_(1 / part.shape[1]).add_(eps).rsqrt_()
            _rows(out)[piece] = part.mul_(scale).mul_(wide)
        ctx.save_for_backward(x, weight, scales)
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        x, weight, scales = ctx.saved_tensors
        rows, above = _rows(x), _rows(upstream[0])
        width, wide = rows.shape[1], weight.float()
        to_x = torch.empty_like(rows)
        to_weight = torch.zeros(width) if ctx.needs_input_grad[1] else None
        for piece in _pieces(rows):
            normed = rows[piece].to(torch.float32, copy=True).mul_(scales[piece])
            part = above[piece].to(torch.float32, copy=True)
            product = part * normed
            if to_weight is not None:
                to_weight += product.sum(0)
            along = torch.mv(product, wide)[:, None].mul_(1 / width)
            part.mul_(wide).addcmul_(normed, along, value=-1)
            to_x[piece] = part.mul_(scales[piece])
        weights = None if to_weight is None else to_weight.to(weight.dtype)
        return to_x.view(x.shape), weights, None


def _rows(x: Tensor) -> Tensor:
    """(…, width) as (rows, width)."""
    return x.reshape(-1, x.shape[-1])


def _pieces(rows: Tensor) -> list[slice]:
    size = max(1, _PIECE // rows.shape[1])
    return [slice(start, start + size) for start in range(0, len(rows), size)]
