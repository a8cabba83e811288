"""LoRA's forward and backward with as few passes over the activations as there can be.

PEFT computes `base(x) + B(A(dropout(x))) * scale` step by step, which reads and writes the
wide activations four more times than needed. Here the adapter's product is added by the
matrix product itself (`addmm`), forwards and backwards. The weights stay PEFT's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Aside(threading.local):
    """Whether this thread computes without the adapters of short layers."""

    on = False


_aside = _Aside()


def speed_up(model: nn.Module) -> int:
    """Use the short forward in all plain LoRA layers of a PEFT model; returns how many.

    Layers with dropout, DoRA, biases of their own or several adapters keep PEFT's.
    """
    from peft.tuners.lora import Linear

    changed = 0
    for layer in model.modules():
        if type(layer) is Linear and _is_plain(layer):
            layer.forward = _forward_of(layer)
            changed += 1
    return changed


def is_short(model: nn.Module) -> bool:
    """Whether all of the model's adapters use the short forward, if it has any.

    Then `set_aside` changes nothing of the model, and concerns this thread alone.
    """
    return all(hasattr(layer.forward, "short") for layer in _adapted(model))


@contextmanager
def set_aside(model: nn.Module, name: str = "default") -> Iterator[None]:
    """While it lasts, a PEFT model computes without its adapter `name`, and with those below it.

    PEFT's own `disable_adapter` leaves out all of them, and trains all of them from then on.
    """
    if name == "default" and is_short(model):
        before, _aside.on = _aside.on, True
        try:
            yield
        finally:
            _aside.on = before
        return
    layers = _adapted(model)
    states = [(layer, layer._active_adapter, layer._disable_adapters) for layer in layers]
    for layer in layers:
        below = [other for other in layer.active_adapters if other != name]
        layer._active_adapter, layer._disable_adapters = below, not below
    try:
        yield
    finally:
        for layer, active, disabled in states:
            layer._active_adapter, layer._disable_adapters = active, disabled


def _adapted(model: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]


def _is_plain(layer: Any) -> bool:
    (name,) = layer.active_adapters if len(layer.active_adapters) == 1 else (None,)
    return (
        name in layer.lora_A
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and not layer.lora_variant.get(name)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and type(layer.base_layer) is nn.Linear
        and not layer.base_layer.weight.requires_grad
        and layer.base_layer.weight.dtype == layer.lora_A[name].weight.dtype
    )


def _forward_of(layer: Any) -> Any:
    (name,) = layer.active_adapters
    down, up, scale = layer.lora_A[name], layer.lora_B[name], float(layer.scaling[name])
    base = layer.base_layer

    def forward(x: Tensor) -> Tensor:
        if _aside.on or layer.disable_adapters:
            return F.linear(x, base.weight, base.bias)
        out: Tensor = _LowRank.apply(  # type: ignore[no-untyped-call]
            x, base.weight, base.bias, down.weight, up.weight, scale
        )
        return out

    forward.short = True  # type: ignore[attr-defined]
    return forward


class _LowRank(torch.autograd.Function):
    """x Wᵀ + b + scale · x Aᵀ Bᵀ, with W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        narrow = rows @ a.T
        out = F.linear(rows, weight, bias).addmm_(narrow, b.T, alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, narrow)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        rows, weight, a, b, narrow = ctx.saved_tensors
        above = upstream[0].reshape(-1, weight.shape[0])
        above_narrow = above @ (b * ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (above @ weight).addmm_(above_narrow, a)
            dx = dx.view(*upstream[0].shape[:-1], weight.shape[1])
        da = above_narrow.T @ rows
        db = (above.T @ narrow) * ctx.scale
        return dx, None, None, da, db, None
