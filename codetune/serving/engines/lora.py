"""LoRA adapters on one shared base, several of them in one batch, without merging.

The low-rank matrices of the adapters in a batch are laid side by side: one narrow product for
all of them, the columns of other rows' adapters set to zero, one product back. Rows of the base
are all zeros there and stay exactly the base's. (Punica and S-LoRA gather per row instead;
for the small batches of a small server one product with a mask is faster.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codetune.errors import UnservableModelError
from codetune.models.load import read_json
from codetune.serving.engines.decoder import paired
from codetune.serving.engines.linear import AddLinear, Linear, add_linear, linear
from codetune.serving.engines.shape import Shape

# The projections that share an input are one product in the decoder, in this order.
GROUPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_KEY = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.([a-z_.]+)\.lora_([AB])\.weight")
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Adapter:
    """One adapter's matrices by layer and group: ([group ranks, in], [out, group ranks])."""

    rank: int
    layers: list[dict[str, tuple[torch.Tensor, torch.Tensor]]]
    bytes: int


@dataclass(frozen=True)
class Mix:
    """Which adapter each row uses: masks [rows, ranks] by group, or None for one and the same."""

    masks: Mapping[str, torch.Tensor] | None


class LayerLora:
    """The adapters of one batch in one layer."""

    def __init__(self, parts: Sequence[dict[str, tuple[torch.Tensor, torch.Tensor]]]) -> None:
        self._pairs: dict[str, tuple[Linear, AddLinear]] = {
            group: (
                linear(torch.cat([part[group][0] for part in parts])),
                add_linear(torch.cat([part[group][1] for part in parts], 1)),
            )
            for group in GROUPS
        }

    def _apply(
        self, group: str, x: torch.Tensor, result: torch.Tensor, mix: Mix | None
    ) -> torch.Tensor:
        into, back = self._pairs[group]
        narrow = into(x)
        if mix is not None and mix.masks is not None:
            narrow = narrow.mul_(mix.masks[group])
        return back(narrow, result)

    def qkv(self, x: torch.Tensor, result: torch.Tensor, mix: Mix | None) -> torch.Tensor:
        return self._apply("qkv", x, result, mix)

    def out(self, x: torch.Tensor, result: torch.Tensor, mix: Mix | None) -> torch.Tensor:
        return self._apply("out", x, result, mix)

    def gate_up(self, x: torch.Tensor, result: torch.Tensor, mix: Mix | None) -> torch.Tensor:
        return self._apply("gate_up", x, result, mix)

    def down(self, x: torch.Tensor, result: torch.Tensor, mix: Mix | None) -> torch.Tensor:
        return self._apply("down", x, result, mix)


class Stack:
    """A set of adapters ready for one batch."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self.layers = [
            LayerLora([adapter.layers[i] for adapter in adapters])
            for i in range(len(adapters[0].layers))
        ]
        device = adapters[0].layers[0]["out"][0].device
        dtype = adapters[0].layers[0]["out"][0].dtype
        ranks = torch.tensor([adapter.rank for adapter in adapters])
        own = torch.arange(len(adapters))
        # One row per adapter and a last row of zeros for the base: [adapters + 1, ranks]
        self._rows = {
            group: torch.cat(
                [
                    own[:, None] == own.repeat_interleave(ranks * len(names))[None],
                    torch.zeros(1, int(ranks.sum()) * len(names), dtype=torch.bool),
                ]
            ).to(device, dtype)
            for group, names in GROUPS.items()
        }

    def mix(self, rows: Sequence[int]) -> Mix:
        """`rows[i]` is the place of row i's adapter in the stack, or -1 for the base."""
        if len(self._rows["out"]) == 2 and all(row == 0 for row in rows):
            return Mix(None)
        index = torch.tensor(rows, device=self._rows["out"].device)
        return Mix({group: table[index] for group, table in self._rows.items()})


def is_stackable(folder: Path) -> bool:
    """Whether an adapter is plain LoRA on the decoder's linear layers, and nothing more."""
    from safetensors import SafetensorError, safe_open

    config = read_json(folder / "adapter_config.json")
    try:
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            names = [_KEY.fullmatch(key) for key in file.keys()]  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise UnservableModelError("The adapter's weights cannot be read.") from error
    known = {name for group in GROUPS.values() for name in group}
    return _is_plain(config) and all(match and match[2] in known for match in names)


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


def read_adapter(folder: Path, shape: Shape, dtype: torch.dtype, device: torch.device) -> Adapter:
    """Read an adapter that is stackable and that `check_adapter` found safe.

    Raises:
        UnservableModelError: its matrices are damaged or do not fit the base.
    """
    config = read_json(folder / "adapter_config.json")
    tensors = _read(folder / "adapter_model.safetensors")
    rank = max((len(t) for k, t in tensors.items() if ".lora_A." in k), default=0)
    if rank == 0:
        raise UnservableModelError("The adapter holds no LoRA matrices.")
    outs = _widths(shape)
    layers = []
    for number in range(shape.layers):
        layer = {}
        for group, modules in GROUPS.items():
            pairs = [
                _module(tensors, number, name, config, rank, outs[name], shape) for name in modules
            ]
            layer[group] = (
                torch.cat([a for a, _ in pairs]).to(device, dtype),
                _block_diagonal([b for _, b in pairs]).to(device, dtype),
            )
        layers.append(layer)
    numbers = [int(match[1]) for key in tensors if (match := _KEY.fullmatch(key))]
    if deeper := [number for number in numbers if number >= shape.layers]:
        raise UnservableModelError(
            f"The adapter has layers that its base has not: layer {deeper[0]}."
        )
    size = sum(a.nbytes + b.nbytes for layer in layers for a, b in layer.values())
    return Adapter(rank, layers, size)


def _module(
    tensors: Mapping[str, torch.Tensor],
    layer: int,
    name: str,
    config: Mapping[str, Any],
    rank: int,
    sizes: tuple[int, int],
    shape: Shape,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One module's matrices, zero-padded to `rank`; its scale is in the second one."""
    key = f"base_model.model.model.layers.{layer}.{name}"
    into, back = tensors.get(f"{key}.lora_A.weight"), tensors.get(f"{key}.lora_B.weight")
    size_in, size_out = sizes
    if into is None and back is None:
        return torch.zeros(rank, size_in), torch.zeros(size_out, rank)
    if into is None or back is None:
        raise UnservableModelError(f"The adapter has only one of the two matrices of {key}.")
    own = len(into)
    if into.shape != (own, size_in) or back.shape != (size_out, own):
        raise UnservableModelError(
            f"The adapter does not fit its base: {key} is {tuple(back.shape)} × "
            f"{tuple(into.shape)}, the base's is {size_out} × {size_in}."
        )
    declared = _by_pattern(config.get("rank_pattern"), key, config.get("r"))
    if declared != own:
        raise UnservableModelError(
            f"The adapter's config says rank {declared}, but {key} has rank {own}."
        )
    alpha = _by_pattern(config.get("alpha_pattern"), key, config.get("lora_alpha", 8))
    scale = alpha / (math.sqrt(own) if config.get("use_rslora") else own)
    heads = {"self_attn.q_proj": shape.heads, "self_attn.k_proj": shape.kv_heads}.get(name)
    scaled = back.float() * scale
    scaled = paired(scaled, heads) if heads else scaled
    pad = rank - own
    return (
        torch.nn.functional.pad(into.float(), (0, 0, 0, pad)),
        torch.nn.functional.pad(scaled, (0, pad)),
    )


def _block_diagonal(blocks: list[torch.Tensor]) -> torch.Tensor:
    whole: torch.Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return whole


def _by_pattern(patterns: Mapping[str, Any] | None, key: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the module's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", key):
            return value
    return default


def _widths(shape: Shape) -> dict[str, tuple[int, int]]:
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


def _read(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise UnservableModelError("The adapter's weights cannot be read.") from error
