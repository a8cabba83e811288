"""Cross-entropy over a large vocabulary without ever holding all logits.

The idea is Liger Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv:2410.10989): the
loss's gradient with respect to the logits is known as soon as the logits are, so each chunk of
rows computes its logits, its share of the loss and its share of both gradients, and forgets the
logits. Memory is one chunk of logits instead of all of them, and nothing is computed twice.

The probabilities are rounded to the logits' own precision by the softmax itself: the gradient is
multiplied in that precision anyhow, and a float32 copy of the logits costs more than all three
matrix products (on a CPU, eight times the softmax).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch.nn import functional as F

IGNORE = -100
_CHUNK_LOGITS = 1 << 22  # 8 MB in bf16; 512 rows of an 8 k vocabulary
_LEAST_ROWS = 128  # fewer would add up the head's gradient more often than they compute it
_TINY = 1e-30  # a probability above it has lost nothing to underflow


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    row_weights: torch.Tensor | None = None,
    divisor: float | torch.Tensor | None = None,
    chunk: int | None = None,
    compiled: bool = False,
) -> torch.Tensor:
    """`cross_entropy(hidden @ weight.T, labels)` as a float32 scalar, chunk by chunk.

    Args:
        hidden: (rows, width), any float type; its gradient has the same type.
        weight: (vocabulary, width), the output head.
        labels: (rows,), `IGNORE` (-100) where no loss is wanted. Labels are not shifted here.
        row_weights: (rows,), what each row's loss is multiplied by; None = all 1. They carry no
            gradient.
        divisor: what the summed loss is divided by; None = the number of labels that count, or
            the sum of their weights. Gradient accumulation passes the whole step's number.
        chunk: rows per piece; memory is twice chunk x vocabulary. By default so many that a
            piece of logits stays within a CPU's cache.
        compiled: let torch.compile fuse the softmax (worth it in long runs).
    """
    kernel = _fused_softmax_gradient() if compiled else _softmax_gradient
    if chunk is None:
        chunk = 1024 if compiled else _rows_in_cache(weight)
    loss: torch.Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, labels, row_weights, divisor, chunk, kernel
    )
    return loss


def linear_distillation(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    taught: torch.Tensor,
    *,
    row_weights: torch.Tensor | None = None,
    divisor: float | torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """Cross-entropy of `softmax(hidden @ weight.T)` under a teacher's, chunk by chunk.

    The teacher's probabilities are `softmax(taught @ weight.T)` (Hinton et al., 2015,
    arXiv:1503.02531, at temperature 1). The least value, where both say the same, is the
    teacher's own entropy.

    Args:
        hidden, weight, row_weights, divisor, chunk: as for `linear_cross_entropy`; by default
            the divisor is the number of rows, or the sum of their weights.
        taught: (rows, width), the teacher's hidden states. They and `weight`, as far as it is
            the teacher's, carry no gradient.
    """
    if divisor is None:
        divisor = float(len(hidden)) if row_weights is None else row_weights.sum()
    chunk = chunk or _rows_in_cache(weight)
    kernel = partial(_distillation_gradient, weight.detach())
    loss: torch.Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, taught, row_weights, divisor, chunk, kernel
    )
    return loss


def _rows_in_cache(weight: torch.Tensor) -> int:
    """How many rows' logits stay within a CPU's cache."""
    return max(_LEAST_ROWS, _CHUNK_LOGITS // weight.shape[0])


def _distillation_gradient(
    weight: torch.Tensor, logits: torch.Tensor, taught: torch.Tensor, out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_gradient_of_logits`, by a teacher's hidden states; `out` is room for the gradient."""
    target = torch.softmax(torch.mm(taught, weight.T).float(), dim=-1)
    logs = torch.log_softmax(logits.float(), dim=-1)
    each = -torch.linalg.vecdot(target, logs)
    return each, out.copy_(logs.exp_().sub_(target))


def _softmax_gradient(
    logits: torch.Tensor, labels: torch.Tensor, out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_gradient_of_logits`, with few passes over the logits when nothing fuses them.

    `out` is room for the gradient. The loss is the target's probability's logarithm; where that
    probability is so small that it may have underflowed, it is worked out from the logits.
    """
    rows, vocabulary = logits.shape
    counted = labels != IGNORE
    # Flat places: scatter_ along the rows of a wide tensor is slow on a CPU.
    places = torch.arange(rows, device=logits.device) * vocabulary + labels.clamp(min=0)
    gradient = torch.softmax(logits, dim=-1, out=out)
    of_target = gradient.view(-1).index_select(0, places).float()
    each = -of_target.clamp(min=_TINY).log()
    small = (of_target < _TINY).nonzero()[:, 0]
    if len(small):
        each[small] = F.cross_entropy(
            logits[small].float(), labels[small].clamp(min=0), reduction="none"
        )
    gradient.view(-1).index_add_(0, places, gradient.new_full((rows,), -1.0))
    if not bool(counted.all()):
        gradient *= counted[:, None].to(gradient.dtype)
    return each * counted, gradient


def _gradient_of_logits(
    logits: torch.Tensor, labels: torch.Tensor, out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's loss in the chunk, and the gradient of their sum with respect to the logits."""
    wide = logits.float()
    counted = labels != IGNORE
    target = labels.clamp(min=0)
    log_sum = torch.logsumexp(wide, dim=-1)
    each = (log_sum - wide.gather(1, target[:, None])[:, 0]) * counted
    columns = torch.arange(logits.shape[1], device=logits.device)[None, :]
    probabilities = torch.exp(wide - log_sum[:, None])
    gradient = (probabilities - (columns == target[:, None]).float()) * counted[:, None]
    return each, gradient.to(logits.dtype)


@cache
def _fused_softmax_gradient() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    return torch.compile(_gradient_of_logits, dynamic=True)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        row_weights: torch.Tensor | None,
        divisor: float | torch.Tensor | None,
        chunk: int,
        softmax_gradient: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:
        if divisor is None:
            counted = labels != IGNORE
            mass = counted if row_weights is None else counted * row_weights
            divisor = mass.sum().clamp(min=1)
        scale = 1.0 / torch.as_tensor(divisor, dtype=torch.float32, device=hidden.device)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_gradient = torch.empty_like(hidden) if needs_hidden else None
        weight_gradient = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
            if needs_weight
            else None
        )
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        room = hidden.new_empty(2, min(chunk, len(hidden)), weight.shape[0])
        for start in range(0, hidden.shape[0], chunk):
            rows = hidden[start : start + chunk]
            logits = torch.mm(rows, weight.T, out=room[0, : len(rows)])
            each, gradient = softmax_gradient(
                logits, labels[start : start + chunk], room[1, : len(rows)]
            )
            factors = None if row_weights is None else row_weights[start : start + chunk]
            total += (each if factors is None else each * factors).sum()
            if hidden_gradient is not None:
                part = torch.mm(gradient, weight, out=hidden_gradient[start : start + chunk])
                # A row's weight multiplies its narrow side, not the gradient of all logits.
                if factors is not None:
                    part *= factors[:, None].to(part.dtype)
            if weight_gradient is not None:
                if factors is not None:
                    rows = rows * factors[:, None].to(rows.dtype)
                weight_gradient += gradient.T @ rows
        ctx.save_for_backward(hidden_gradient, weight_gradient, scale)
        ctx.weight_type = weight.dtype
        return total * scale

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:
        # The gradients are those of the sum: scaled here, they are scaled once.
        hidden_gradient, weight_gradient, scale = ctx.saved_tensors
        factor = upstream[0] * scale
        if hidden_gradient is not None:
            hidden_gradient = hidden_gradient * factor.to(hidden_gradient.dtype)
        if weight_gradient is not None:
            weight_gradient = (weight_gradient * factor).to(ctx.weight_type)
        return hidden_gradient, weight_gradient, None, None, None, None, None
