"""Muon for the matrices, AdamW for everything else, on float32 masters of bfloat16 weights.

Muon (Jordan et al., 2024): the momentum of a matrix is orthogonalised by five Newton–Schulz
steps before it is applied. bfloat16 weights alone would lose small updates, therefore every
weight has a float32 master; the network only ever sees a rounded copy.
"""

from __future__ import annotations

from typing import Any

import torch

from codetune.models.nano.recipe import TrainRecipe


def orthogonalised(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Newton–Schulz on a stack of matrices (n, rows, columns): singular values go to about 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    flip = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if flip else matrices).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = (x.mT if flip else x).float()
    return result


class Optimiser:
    """Holds masters and the step's summed gradients in float32, and steps."""

    def __init__(self, network: torch.nn.Module, recipe: TrainRecipe) -> None:
        self.recipe = recipe
        self.weights = dict(network.named_parameters())
        self.masters = {
            name: weight.detach().float().clone() for name, weight in self.weights.items()
        }
        self.gradients = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        self.first = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        self.matrices = [
            name
            for name, master in self.masters.items()
            if master.ndim == 2 and "embed" not in name
        ]
        others = [name for name in self.masters if name not in self.matrices]
        self.second = {name: torch.zeros_like(self.masters[name]) for name in others}
        # The running average of the masters: during the plateau it is about as good as a decayed
        # model, so that any checkpoint can be published.
        self.average = {name: master.clone() for name, master in self.masters.items()}
        self.steps = 0

    @torch.no_grad()
    def step(self, factor: float) -> float:
        """Apply the step with learning rates times `factor`; gives the gradient's norm."""
        self.steps += 1
        gradients = list(self.gradients.values())
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        torch._foreach_mul_(gradients, min(1.0, self.recipe.clip / (norm + 1e-6)))
        self._step_matrices(factor)
        self._step_others(factor)
        for name, weight in self.weights.items():
            weight.copy_(self.masters[name])
        torch._foreach_zero_(gradients)
        torch._foreach_lerp_(
            list(self.average.values()), list(self.masters.values()), 1 - self.recipe.averaging
        )
        return norm

    def _step_matrices(self, factor: float) -> None:
        rate = self.recipe.matrix_rate * factor
        by_shape: dict[torch.Size, list[str]] = {}
        for name in self.matrices:
            by_shape.setdefault(self.masters[name].shape, []).append(name)
        for shape, names in by_shape.items():
            momentum = self.recipe.momentum
            for name in names:
                self.first[name].lerp_(self.gradients[name], 1 - momentum)
            nesterov = [self.gradients[n].lerp(self.first[n], momentum) for n in names]
            updates = orthogonalised(torch.stack(nesterov))
            scale = rate * max(1.0, shape[0] / shape[1]) ** 0.5
            for name, update in zip(names, updates, strict=True):
                self.masters[name].mul_(1 - rate * self.recipe.matrix_decay)
                self.masters[name].sub_(update, alpha=scale)

    def _step_others(self, factor: float) -> None:
        rate = self.recipe.other_rate * factor
        for name, second in self.second.items():
            gradient, first = self.gradients[name], self.first[name]
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.05)
            unbiased = first / (1 - 0.9**self.steps)
            spread = (second / (1 - 0.95**self.steps)).sqrt_().add_(1e-10)
            self.masters[name].sub_(unbiased.div_(spread), alpha=rate)

    def state(self) -> dict[str, Any]:
        return {
            "masters": self.masters,
            "first": self.first,
            "second": self.second,
            "average": self.average,
            "steps": self.steps,
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        for group in ("masters", "first", "second", "average"):
            for name, tensor in getattr(self, group).items():
                tensor.copy_(state[group][name])
        self.steps = state["steps"]
        for name, weight in self.weights.items():
            weight.copy_(self.masters[name])
