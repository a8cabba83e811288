"""LoRA adapters as files: whether they are plain, whether they fit, and their matrices.

Nothing of an adapter's weights is read before its header has shown that it fits its base.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from codetune.errors import UnservableModelError
from codetune.models.load import read_json
from codetune.serving.engines.decoder import paired
from codetune.serving.engines.matrices import Adapter, Layout
from codetune.serving.engines.shape import Shape

# The projections that share an input are one product in the decoder, in this order.
GROUPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"(base_model\.model\.model\.layers\.(\d+)\.([a-z_.]+))\.lora_([AB])\.weight")
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_HIGHEST_RANK = 1024
_NO_NUMBERS = "The adapter has weights that are not numbers, or a scale that makes them so."
_LOWEST_RANK = 8  # smaller ones are padded to it, larger ones to the next power of two


def is_stackable(folder: Path) -> bool:
    """Whether an adapter is plain LoRA on the decoder's linear layers, and nothing more."""
    known = {name for group in GROUPS.values() for name in group}
    names = [_KEY.fullmatch(key) for key in _shapes(folder)]
    plain = _is_plain(read_json(folder / "adapter_config.json"))
    return plain and all(match and match[3] in known for match in names)


def _is_plain(config: Mapping[str, Any]) -> bool:
    return not (
        config.get("use_dora")
        or config.get("modules_to_save")
        or config.get("bias", "none") != "none"
        or config.get("lora_bias")
        or config.get("layer_replication")
        or config.get("trainable_token_indices")
        or config.get("target_parameters")
        or config.get("alora_invocation_tokens")
        or config.get("init_lora_weights", True) not in _PLAIN_STARTS
    )


def check_shapes(folder: Path, shape: Shape) -> int:
    """The highest rank of a stackable adapter, from its header: no weights are read.

    Raises:
        UnservableModelError: its matrices do not fit the base, each other, or its config.
    """
    config = read_json(folder / "adapter_config.json")
    shapes, sizes = _shapes(folder), widths(shape)
    ranks: dict[str, int] = {}
    for key in shapes:
        match = _KEY.fullmatch(key)
        assert match is not None  # it is stackable
        module, number, name = match[1], int(match[2]), match[3]
        if number >= shape.layers:
            raise UnservableModelError(
                f"The adapter has layers that its base has not: layer {number}."
            )
        into, back = (shapes.get(f"{module}.lora_{letter}.weight") for letter in "AB")
        if into is None or back is None:
            raise UnservableModelError(f"The adapter has only one of the two matrices of {module}.")
        ranks[module] = _check_pair(module, into, back, sizes[name], config)
    if not ranks:
        raise UnservableModelError("The adapter holds no LoRA matrices.")
    return max(ranks.values())


def _check_pair(
    module: str,
    into: tuple[int, ...],
    back: tuple[int, ...],
    sizes: tuple[int, int],
    config: Mapping[str, Any],
) -> int:
    """The rank of one module's two matrices."""
    rank, (size_in, size_out) = into[0] if into else 0, sizes
    if into != (rank, size_in) or back != (size_out, rank):
        raise UnservableModelError(
            f"The adapter does not fit its base: {module} is {back} × {into}, "
            f"the base's is {size_out} × {size_in}."
        )
    declared = _by_pattern(config.get("rank_pattern"), module, config.get("r"))
    if declared != rank:
        raise UnservableModelError(
            f"The adapter's config says rank {declared}, but {module} has rank {rank}."
        )
    if not 0 < rank <= _HIGHEST_RANK:
        raise UnservableModelError(f"Rank {rank} is not served; at most {_HIGHEST_RANK} is.")
    return rank


def layout_of(rank: int, shape: Shape) -> Layout:
    """How an adapter lies in memory; its rank is padded to one that others have, too."""
    sizes = widths(shape)
    groups = tuple(
        (group, sizes[modules[0]][0], tuple(sizes[name][1] for name in modules))
        for group, modules in GROUPS.items()
    )
    return Layout(max(_LOWEST_RANK, 1 << (rank - 1).bit_length()), shape.layers, groups)


def read_adapter(folder: Path, shape: Shape, dtype: torch.dtype, device: torch.device) -> Adapter:
    """Read an adapter that is stackable and that `check_adapter` found safe.

    Modules that it does not tune are zeros.

    Raises:
        UnservableModelError: its matrices are damaged, do not fit the base or are not finite.
    """
    adapter = Adapter.zeros(layout_of(check_shapes(folder, shape), shape), dtype, device)
    rank = adapter.layout.rank
    config = read_json(folder / "adapter_config.json")
    tensors = _read(folder / WEIGHTS)
    for number, layer in enumerate(adapter.layers):
        for group, modules in GROUPS.items():
            block = layer[group]
            intos = torch.split(block.into[0], rank, 1)
            for name, into, back in zip(modules, intos, block.backs, strict=True):
                key = f"base_model.model.model.layers.{number}.{name}"
                if (down := tensors.get(f"{key}.lora_A.weight")) is not None:
                    into[:, : len(down)] = down.T
                    back[: len(down)] = _scaled(tensors, key, name, config, shape).T
    if not all(bool(torch.isfinite(piece).all()) for piece in adapter.pieces):
        raise UnservableModelError(_NO_NUMBERS)
    return adapter


def check_numbers(folder: Path) -> None:
    """Look at the numbers of an adapter that PEFT will compute; `read_adapter` looks itself.

    Raises:
        UnservableModelError: weights or scales are not finite.
    """
    config = read_json(folder / "adapter_config.json")
    scales = [config.get("lora_alpha", 8), *(config.get("alpha_pattern") or {}).values()]
    most = torch.finfo(torch.float32).max
    tensors = _read(folder / WEIGHTS).values()
    if not (
        all(isinstance(scale, int | float) and abs(scale) <= most for scale in scales)
        and all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    ):
        raise UnservableModelError(_NO_NUMBERS)


def _scaled(
    tensors: Mapping[str, torch.Tensor],
    key: str,
    name: str,
    config: Mapping[str, Any],
    shape: Shape,
) -> torch.Tensor:
    """The second matrix [out, rank] times its scale, its rows in the decoder's order."""
    back = tensors[f"{key}.lora_B.weight"].float()
    rank = back.shape[1]
    alpha = _by_pattern(config.get("alpha_pattern"), key, config.get("lora_alpha", 8))
    if not isinstance(alpha, int | float):
        raise UnservableModelError(f"The adapter's lora_alpha for {key} is no number.")
    back = back * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    heads = {"self_attn.q_proj": shape.heads, "self_attn.k_proj": shape.kv_heads}.get(name)
    return paired(back, heads) if heads else back


def _by_pattern(patterns: Mapping[str, Any] | None, key: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the module's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", key):
            return value
    return default


def widths(shape: Shape) -> dict[str, tuple[int, int]]:
    """(in, out) of each projection."""
    hidden, query, kv, middle = shape.hidden, shape.query_width, shape.kv_width, shape.middle
    return {
        "self_attn.q_proj": (hidden, query),
        "self_attn.k_proj": (hidden, kv),
        "self_attn.v_proj": (hidden, kv),
        "self_attn.o_proj": (query, hidden),
        "mlp.gate_proj": (hidden, middle),
        "mlp.up_proj": (hidden, middle),
        "mlp.down_proj": (middle, hidden),
    }


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in an adapter's header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise UnservableModelError("The adapter's weights cannot be read.") from error


def _read(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise UnservableModelError("The adapter's weights cannot be read.") from error
