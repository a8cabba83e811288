"""Adapters on adapters: a team's adapter stays frozen while a thin one is trained on top.

The two are joined when they are saved. ΔW = s₁B₁A₁ + s₂B₂A₂ is itself a product of the rank
r₁ + r₂, with the matrices side by side, so that the joined adapter is an ordinary one on the
plain base: serving, evaluation and merging need to know nothing of it, and nothing is rounded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import write_json
from codetune.errors import TrainingError
from codetune.models.load import Parent, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "parent"  # of the frozen adapter in PEFT's model
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_UNKNOWN = ("use_dora", "modules_to_save", "lora_bias", "layer_replication", "target_parameters")


def refuse_unless_plain(parent: Parent) -> None:
    """Raise TrainingError when `parent` is more than two matrices a layer."""
    config = read_json(parent.path / _CONFIG)
    used = [name for name in _UNKNOWN if config.get(name)]
    if used or config.get("bias", "none") != "none":
        raise TrainingError(
            f"No adapter can be trained on top of '{parent.id}': it uses "
            f"{', '.join(used) or 'biases'}.",
            advice="Only plain LoRA adapters can be built on.",
        )


def put_below(tuned: nn.Module, parent: Parent) -> None:
    """Put the parent beside the adapter to train; only the latter keeps its gradient."""
    from torch.nn import Identity

    model: Any = tuned
    model.load_adapter(
        str(parent.path), adapter_name=NAME, is_trainable=False, autocast_adapter_dtype=False
    )
    model.base_model.set_adapter(["default", NAME])
    for module in model.modules():
        # Perhaps it was trained with dropout; what stays as it is must not be noisy.
        if NAME in (getattr(module, "lora_dropout", None) or ()):
            module.lora_dropout[NAME] = Identity()
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name and ".default." in name)


def join(parent: Parent, folder: Path) -> None:
    """Turn the adapter in `folder` into the one that does what parent and it do together."""
    from safetensors.torch import load_file, save_file

    below, above = read_json(parent.path / _CONFIG), read_json(folder / _CONFIG)
    lower, upper = load_file(parent.path / _WEIGHTS), load_file(folder / _WEIGHTS)
    modules = sorted({key.rpartition(".lora_")[0] for key in (*lower, *upper)})
    sizes = [_largest_rank(tensors) for tensors in (lower, upper)]
    scales = {
        module: (_scale(module, lower, below), _scale(module, upper, above)) for module in modules
    }
    # Usually all are the same, and no number needs to be changed; else they go into B.
    same = {scale for pair in scales.values() for scale in pair if scale is not None}
    common = same.pop() if len(same) == 1 else None
    joined: dict[str, Tensor] = {}
    for module in modules:
        parts = [
            _padded(module, tensors, size, 1.0 if common else scale or 1.0, {**lower, **upper})
            for tensors, size, scale in zip((lower, upper), sizes, scales[module], strict=True)
        ]
        joined |= _side_by_side(module, parts)
    rank = sum(sizes)
    config = {
        **above,
        "r": rank,
        "lora_alpha": (common or 1.0) * rank,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "lora_dropout": 0.0,
        "target_modules": sorted({*below["target_modules"], *above["target_modules"]}),
    }
    save_file(joined, folder / _WEIGHTS, metadata={"format": "pt"})
    write_json(folder / _CONFIG, json.loads(json.dumps(config)))


def _largest_rank(tensors: Mapping[str, Tensor]) -> int:
    return max(len(tensor) for key, tensor in tensors.items() if ".lora_A." in key)


def _scale(module: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> float | None:
    """alpha/r or alpha/√r by PEFT's rules; None where the adapter leaves the module alone."""
    matrix = tensors.get(f"{module}.lora_A.weight")
    if matrix is None:
        return None
    name = module.removeprefix("base_model.model.")
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            alpha = float(value)
            break
    return alpha / (math.sqrt(len(matrix)) if config.get("use_rslora") else len(matrix))


def _padded(
    module: str, tensors: Mapping[str, Tensor], rank: int, scale: float, other: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """(A, B · scale) with zeros up to `rank`; all zeros for a module that has none."""
    import torch

    keys = [f"{module}.lora_{which}.weight" for which in "AB"]
    if keys[0] not in tensors:
        into, back = other[keys[0]], other[keys[1]]
        return into.new_zeros(rank, into.shape[1]), back.new_zeros(len(back), rank)
    into, back = tensors[keys[0]], tensors[keys[1]]
    if scale != 1.0:
        back = back.float() * scale
    pad = rank - len(into)
    return (
        torch.nn.functional.pad(into, (0, 0, 0, pad)),
        torch.nn.functional.pad(back, (0, pad)),
    )


def _side_by_side(module: str, parts: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    import torch

    dtype = torch.promote_types(parts[0][1].dtype, parts[1][1].dtype)
    return {
        f"{module}.lora_A.weight": torch.cat([a.to(dtype) for a, _ in parts]),
        f"{module}.lora_B.weight": torch.cat([b.to(dtype) for _, b in parts], 1).contiguous(),
    }
