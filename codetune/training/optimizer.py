"""Optimizers on float32 master weights, while the model computes in bf16.

bf16 keeps 8 bits of a weight: an update smaller than 1/256 of it is lost when it is added in
bf16, and with it most of late training. So each trained weight has a float32 master; gradients
are added up in float32, the step is taken there, and the model gets the rounded result. With a
float32 model the masters are the model's own weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codetune.models.quantised import bitsandbytes_for

Named = Iterable[tuple[str, nn.Parameter]]
_BETAS = (0.9, 0.95)
# Which weights Muon leaves to AdamW: it is made for the matrices between layers.
_NOT_HIDDEN = ("embed", "lm_head", "wte", "wpe", "shared", "embed_out")


class Masters(torch.optim.Optimizer):
    """Keeps float32 masters of the model's weights; mixed into one of torch's optimizers.

    Weights of one dimension (norms, biases) are not decayed.
    """

    weights: dict[str, nn.Parameter]
    masters: dict[str, nn.Parameter]

    def hold(self, parameters: Named, weight_decay: float) -> list[dict[str, Any]]:
        """Take the weights in; returns the groups of masters for the optimizer's own setup."""
        self.weights = dict(parameters)
        self.masters = {}
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
        return [
            {"params": group, "weight_decay": decay}
            for group, decay in ((decayed, weight_decay), (plain, 0.0))
            if group
        ]

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

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add up gradients that were not left at the weights, in the order of `weights`."""
        for master, gradient in zip(self.masters.values(), gradients, strict=True):
            if gradient is not None:
                _add(master, gradient)

    def forget_gradients(self) -> None:
        """Drop what has been added up, and what a pass that broke off left at the weights."""
        self.zero_grad(set_to_none=True)
        for weight in self.weights.values():
            weight.grad = None

    def forget_moments(self) -> None:
        """Training is over: give back the memory of what only another step would need."""
        self.forget_gradients()
        self.state.clear()

    @torch.no_grad()
    def round_to_model(self) -> None:
        """Copy the masters into the model's weights, in its precision."""
        for name, weight in self.weights.items():
            if weight is not self.masters[name]:
                weight.copy_(self.masters[name])

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs: masters and the optimizer's state, `what/name`."""
        found: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            found[f"weight/{name}"] = master.detach()
            for key, value in self.state.get(master, {}).items():
                if isinstance(value, Tensor):
                    # Some optimizers share one table between weights; a file must not.
                    found[f"{key}/{name}"] = value.clone() if key.startswith("qmap") else value
                elif isinstance(value, int | float):
                    kind = torch.int64 if isinstance(value, int) else torch.float64
                    found[f"{_NUMBER}{key}/{name}"] = torch.tensor(value, dtype=kind)
        return found

    def tensors_of_weights(self) -> dict[str, Tensor]:
        """The masters by the model's names."""
        return {name: master.detach() for name, master in self.masters.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned; a name that is missing or too much is a KeyError."""
        states: dict[str, dict[str, Any]] = {}
        for full, tensor in tensors.items():
            key, _, name = full.partition("/")
            state = states.setdefault(name, {})
            if key.startswith(_NUMBER):
                state[key.removeprefix(_NUMBER)] = tensor.item()
            else:
                state[key] = tensor
        if states.keys() != self.masters.keys() or any("weight" not in s for s in states.values()):
            raise KeyError(f"other weights: {sorted(states.keys() ^ self.masters.keys())[:3]}")
        for name, master in self.masters.items():
            state = states[name]
            master.copy_(state.pop("weight"))
            if state:
                self.state[master] = {key: _at(value, key, master) for key, value in state.items()}
        self.round_to_model()


_NUMBER = "number:"  # before the name of a state that is a Python number


def _at(value: Any, key: str, master: nn.Parameter) -> Any:
    if not isinstance(value, Tensor):
        return value
    # torch keeps AdamW's step count beside the weights only in the fused optimizer.
    return value.clone().to(master.device)


class MasterAdamW(Masters, torch.optim.AdamW):
    """Fused AdamW."""

    def __init__(self, parameters: Named, *, lr: float, weight_decay: float) -> None:
        groups = self.hold(parameters, weight_decay)
        torch.optim.AdamW.__init__(self, groups, lr=lr, betas=_BETAS, eps=1e-8, fused=True)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for hidden matrices, AdamW for embeddings, head and vectors.

    Muon's updates are scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982), so that both
    take the same learning rate and decay.
    """

    def __init__(self, hidden: list[dict[str, Any]], rest: list[dict[str, Any]], lr: float) -> None:
        super().__init__([*hidden, *rest], {"lr": lr})
        self._parts: list[torch.optim.Optimizer] = []
        if hidden:
            self._parts.append(torch.optim.Muon(hidden, lr=lr, adjust_lr_fn="match_rms_adamw"))
        if rest:
            self._parts.append(torch.optim.AdamW(rest, lr=lr, betas=_BETAS, fused=True))
        # One list of groups: the schedule and the checkpoints see both parts.
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both, with the groups and the state as they are here."""
        start = 0
        for part in self._parts:
            # Whoever loads a state or wraps an optimizer puts new lists in its place.
            end = start + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[start:end], self.state
            part.step()
            start = end
        return None


class MasterMuon(Masters, MuonWithAdamW):
    """Muon and AdamW over masters."""

    def __init__(self, parameters: Named, *, lr: float, weight_decay: float) -> None:
        self.hold(parameters, weight_decay)
        hidden, matrices, vectors = [], [], []
        for name, master in self.masters.items():
            if master.ndim != 2:
                vectors.append(master)
            elif any(part in name for part in _NOT_HIDDEN) and "lora_" not in name:
                matrices.append(master)
            else:
                hidden.append(master)
        rest = [(matrices, weight_decay), (vectors, 0.0)]
        MuonWithAdamW.__init__(
            self,
            [{"params": hidden, "weight_decay": weight_decay}] if hidden else [],
            [{"params": group, "weight_decay": decay} for group, decay in rest if group],
            lr,
        )


@dataclass(frozen=True)
class Kind:
    """An optimizer: how it is made, and the bytes a weight that its state takes."""

    make: Callable[..., Masters]
    state_bytes: float


def make_optimizer(name: str, parameters: Named, *, lr: float, weight_decay: float) -> Masters:
    """The optimizer called `name` over masters of `parameters`.

    Raises:
        MissingExtraError: it comes from bitsandbytes, which is not installed.
    """
    return OPTIMIZERS[name].make(parameters, lr=lr, weight_decay=weight_decay)


def _adafactor(parameters: Named, *, lr: float, weight_decay: float) -> Masters:
    """Adafactor (arXiv 1804.04235) with a rate from outside, as AdamW takes it."""
    from transformers.optimization import Adafactor

    settings = {"scale_parameter": False, "relative_step": False}
    return _mastered(Adafactor, settings)(parameters, lr=lr, weight_decay=weight_decay)


def _adamw8bit(parameters: Named, *, lr: float, weight_decay: float) -> Masters:
    bitsandbytes = bitsandbytes_for("The optimizer adamw8bit")
    kind = _mastered(bitsandbytes.optim.AdamW8bit, {"betas": _BETAS})
    return kind(parameters, lr=lr, weight_decay=weight_decay)


def _paged_adamw(parameters: Named, *, lr: float, weight_decay: float) -> Masters:
    bitsandbytes = bitsandbytes_for("The optimizer paged_adamw")
    kind = _mastered(bitsandbytes.optim.PagedAdamW, {"betas": _BETAS})
    return kind(parameters, lr=lr, weight_decay=weight_decay)


def _mastered(kind: Any, settings: dict[str, Any]) -> Callable[..., Masters]:
    """A class that is both `Masters` and an optimizer of another library."""

    def __init__(self: Any, parameters: Named, *, lr: float, weight_decay: float) -> None:
        groups = self.hold(parameters, weight_decay)
        kind.__init__(self, groups, lr=lr, weight_decay=weight_decay, **settings)

    def step(self: Any, closure: Callable[[], float] | None = None) -> float | None:
        with warnings.catch_warnings():
            # On a CPU there is nothing to page: it is plain AdamW there, and says so each step.
            warnings.filterwarnings("ignore", message="Paged optimizers are not supported")
            return Masters.step(self, closure)

    made: Any = type(f"Master{kind.__name__}", (Masters, kind), {"__init__": __init__})
    return type(made.__name__, (made,), {"step": step})


OPTIMIZERS = {
    "adamw": Kind(MasterAdamW, 8),
    "adamw8bit": Kind(_adamw8bit, 2.1),
    "paged_adamw": Kind(_paged_adamw, 8),
    "adafactor": Kind(_adafactor, 0.5),
    "muon": Kind(MasterMuon, 5),
}


def _adds_gradient_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    def hook(weight: Tensor) -> None:
        if weight.grad is not None:
            _add(master, weight.grad)
            weight.grad = None

    return hook


def _add(master: nn.Parameter, gradient: Tensor) -> None:
    master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)
