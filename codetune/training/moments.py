"""Which inputs a layer's change is for: the second moments of what the layer reads.

A change of a layer's weights acts on the layer's inputs alone. Let R = E[x xᵀ] over the inputs
from the team's code and G that over the inputs from general code. The change D' that does on the
one as D does, and on the other nothing, as nearly as both can be,

    t · E_R|D'x - Dx|² + (1 - t) · E_G|D'x|²,    is    D' = D · tR · (tR + (1 - t)G)⁻¹

(RegMean, arXiv 2212.09849, for the base and the tuned model). t = 1 is D, t = 0 nothing, and where
both kinds of code look alike to the layer it is t · D. A LoRA layer's change B·A keeps its rank:
only A changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Both moments of all layers together, in bytes; wider layers go without. 1 GiB is enough for what
# reads a hidden state in a model of half a billion weights, and less than training needed.
_MOST = 1 << 30
# A sample shows directions in which inputs hardly differ with too little spread; so what lies
# beside the diagonal counts a little less, as in RegMean.
_BESIDE = 0.9
_RIDGE = 1e-4  # of the mean, for inputs that are always zero


@dataclass(frozen=True)
class Moments:
    """R and G of one layer: (inputs, inputs) each, float32."""

    own: Tensor
    general: Tensor

    def bend(self, change: Tensor, share: float) -> Tensor:
        """`change` (…, inputs) times tR · (tR + (1 - t)G)⁻¹, with t = `share` in (0, 1].

        It is computed where the moments are; the result is where `change` is.
        """
        own = share * self.own
        factor = torch.linalg.cholesky(own + (1 - share) * self.general)
        return torch.cholesky_solve(own @ change.T.to(own.device), factor).T.to(change.device)


def affordable(layers: Mapping[str, Any], most: int = _MOST) -> dict[str, nn.Module]:
    """Those of `layers` whose moments fit into `most` bytes together: all up to a width."""
    chosen: dict[str, nn.Module] = {}
    for width in sorted({int(layer.in_features) for layer in layers.values()}):
        wide = {name: layer for name, layer in layers.items() if layer.in_features == width}
        most -= 2 * 4 * width**2 * len(wide)
        if most < 0:
            break
        chosen |= wide
    return chosen


def second_moments(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, Tensor]:
    """E[x xᵀ], drawn a little towards its diagonal, of what each layer reads while `run` runs.

    Layers that read the same tensor share theirs; those that `run` does not call have none. `run`
    calls them from one thread.
    """
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    shares: dict[str, str] = {}  # a layer → the one before it that reads the same
    latest: tuple[str, Tensor | None] = ("", None)

    def look(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal latest
            if name not in sums and inputs[0] is latest[1]:
                shares[name] = latest[0]
            if name in shares:
                return
            latest = name, inputs[0]
            x = inputs[0].detach().flatten(0, -2).float()
            sums[name] = sums[name].addmm_(x.T, x) if name in sums else x.T @ x
            rows[name] = rows.get(name, 0) + len(x)

        return hook

    hooks = [layer.register_forward_pre_hook(look(name)) for name, layer in layers.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for name, moment in sums.items():
        diagonal = moment.diagonal() / rows[name]
        moment.mul_(_BESIDE / rows[name])
        moment.diagonal().copy_(diagonal + _RIDGE * diagonal.mean())
    return sums | {name: sums[other] for name, other in shares.items()}
