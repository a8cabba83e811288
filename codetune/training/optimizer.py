"""AdamW on float32 master weights, while the model computes in bf16.

bf16 keeps 8 bits of a weight: an update smaller than 1/256 of it is lost when it is added in
bf16, and with it most of late training. So each trained weight has a float32 master; gradients
are added up in float32, the step is taken there, and the model gets the rounded result. With a
float32 model the masters are the model's own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class MasterAdamW(torch.optim.AdamW):
    """Fused AdamW over float32 masters of `parameters` (name, weight), which it keeps in step.

    Weights of one dimension (norms, biases) are not decayed.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], *, lr: float, weight_decay: float
    ) -> None:
        self.weights: dict[str, nn.Parameter] = dict(parameters)
        self.masters: dict[str, nn.Parameter] = {}
        for name, weight in self.weights.items():
            if weight.dtype == torch.float32:
                self.masters[name] = weight
                continue
            master = nn.Parameter(weight.detach().to(torch.float32, copy=True))
            hook = _adds_gradient_to(master)
            weight.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
            self.masters[name] = master
        plain = [m for m in self.masters.values() if m.ndim < 2]
        decayed = [m for m in self.masters.values() if m.ndim >= 2]
        groups: list[dict[str, Any]] = [
            {"params": group, "weight_decay": decay}
            for group, decay in ((decayed, weight_decay), (plain, 0.0))
            if group
        ]
        super().__init__(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def clip(self, largest: float) -> float:
        """Scale the gradient to at most this norm; returns its norm before."""
        norm = nn.utils.clip_grad_norm_(self.masters.values(), largest)
        return float(norm)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update masters and model, and forget the gradients."""
        result: float | None = super().step(closure)
        self.round_to_model()
        self.zero_grad(set_to_none=True)
        return result

    @torch.no_grad()
    def round_to_model(self) -> None:
        """Copy the masters into the model's weights, in its precision."""
        for name, weight in self.weights.items():
            if weight is not self.masters[name]:
                weight.copy_(self.masters[name])

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs: masters, both moments and the step counts, by name."""
        found: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            found[f"weight/{name}"] = master.detach()
            for key, value in self.state.get(master, {}).items():
                found[f"{key}/{name}"] = value
        return found

    def tensors_of_weights(self) -> dict[str, Tensor]:
        """The masters by the model's names."""
        return {name: master.detach() for name, master in self.masters.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned; a name that is missing or too much is a KeyError."""
        expected = {f"weight/{name}" for name in self.masters}
        found = {name for name in tensors if name.startswith("weight/")}
        if expected != found:
            raise KeyError(f"other weights: {sorted(expected ^ found)[:3]}")
        for name, master in self.masters.items():
            master.copy_(tensors[f"weight/{name}"])
            state = {
                key: tensors[f"{key}/{name}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
            if state:
                self.state[master] = state
        self.round_to_model()


def _adds_gradient_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    def hook(weight: Tensor) -> None:
        if weight.grad is not None:
            gradient = weight.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            weight.grad = None

    return hook
