"""How an architecture's weights and settings are called in GGUF, and how they lie there.

Source: the GGUF specification (github.com/ggml-org/ggml/blob/master/docs/gguf.md) and the tensor
names of the `gguf` package, which llama.cpp's own converter uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codetune.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Architecture:
    """One that can be written; `interleaved`: rotary pairs stand next to each other there."""

    name: str  # llama.cpp's
    interleaved: bool
    activation: str = "silu"
    epsilon: str = "rms_norm_eps"  # the key of config.json


ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen2": Architecture("qwen2", interleaved=False),
    "llama": Architecture("llama", interleaved=True),
    "mistral": Architecture("llama", interleaved=True),
    "starcoder2": Architecture(
        "starcoder2", False, activation="gelu_pytorch_tanh", epsilon="norm_epsilon"
    ),
}
# Keys of config.json whose other values mean other mathematics than what is written.
_MUST_BE: Mapping[str, tuple[Any, ...]] = {
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
}
_SCALING = ("default", "linear", "llama3")
ROPE = "rope_freqs.weight"  # by how much each frequency of the positions is slowed down


class Layout:
    """The names and shapes of one model's tensors in a GGUF file."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """`config` is the model's config.json.

        Raises:
            ExportError: the architecture, or what its config asks for, cannot be written.
        """
        self.config = config
        self.architecture = _known(config)
        import gguf

        self.blocks = int(config["num_hidden_layers"])
        self.heads = int(config["num_attention_heads"])
        self.kv_heads = int(config.get("num_key_value_heads") or self.heads)
        width = int(config["hidden_size"])
        self.head_size = int(config.get("head_dim") or width // self.heads)
        number = next(n for n, s in gguf.MODEL_ARCH_NAMES.items() if s == self.architecture.name)
        self._names = gguf.get_tensor_name_map(number, self.blocks)

    def name(self, name: str) -> str:
        """The GGUF name of a weight that transformers calls `name`."""
        found: str | None = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ExportError(
                f"The weight {name} has no place in a GGUF file of the architecture "
                f"'{self.architecture.name}'.",
                advice="Export as safetensors.",
            )
        return found

    def stored(self, name: str, weight: Tensor) -> Tensor:
        """The weight in the order in which llama.cpp reads its rows."""
        heads = self._rotated(name)
        if heads is None:
            return weight
        # (half, pair) → (pair, half) in each head: [x0 … y0 …] becomes [x0 y0 x1 y1 …]
        split = weight.reshape(heads, 2, self.head_size // 2, *weight.shape[1:])
        return split.swapaxes(1, 2).reshape(weight.shape)

    def restored(self, name: str, weight: Tensor) -> Tensor:
        """`stored` undone."""
        heads = self._rotated(name)
        if heads is None:
            return weight
        split = weight.reshape(heads, self.head_size // 2, 2, *weight.shape[1:])
        return split.swapaxes(1, 2).reshape(weight.shape)

    def add_settings(self, writer: Any) -> None:
        """Write the sizes and constants of the model into the file's header."""
        config = self.config
        writer.add_context_length(self.window)
        writer.add_embedding_length(int(config["hidden_size"]))
        writer.add_block_count(self.blocks)
        writer.add_feed_forward_length(int(config["intermediate_size"]))
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_size)
        writer.add_value_length(self.head_size)
        epsilon = float(config[self.architecture.epsilon])
        if self.architecture.epsilon == "rms_norm_eps":
            writer.add_layer_norm_rms_eps(epsilon)
        else:
            writer.add_layer_norm_eps(epsilon)
        writer.add_vocab_size(int(config["vocab_size"]))
        writer.add_rope_dimension_count(self.head_size)
        rope = _rope(config)
        writer.add_rope_freq_base(float(rope.get("rope_theta") or 10_000.0))
        if _kind(rope) == "linear":
            import gguf

            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))

    @property
    def window(self) -> int:
        """Tokens of context: no more than attention looks back on, for which GGUF has no key.

        Up to there a sliding window changes nothing.
        """
        longest, slides = (
            int(self.config["max_position_embeddings"]),
            self.config.get("use_sliding_window", self.config.get("model_type") != "qwen2"),
        )
        back = self.config.get("sliding_window") if slides else None
        return min(longest, int(back)) if back else longest

    def frequencies(self) -> list[float] | None:
        """What `ROPE` holds, [head size / 2]; None where positions are not scaled by frequency.

        Source: Llama 3.1's `apply_scaling` (github.com/meta-llama/llama-models), as divisors.
        """
        rope = _rope(self.config)
        if _kind(rope) != "llama3":
            return None
        factor, slow, fast = (
            float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
        )
        known = float(rope["original_max_position_embeddings"])
        base = float(rope.get("rope_theta") or 10_000.0)
        found = []
        for place in range(0, self.head_size, 2):
            turns = known / (2 * math.pi * base ** (place / self.head_size))
            share = min(1.0, max(0.0, (turns - slow) / (fast - slow)))
            found.append(1.0 / ((1.0 - share) / factor + share))
        return found

    def _rotated(self, name: str) -> int | None:
        """The heads of a projection whose rows are reordered; None for all others."""
        if not self.architecture.interleaved:
            return None
        if ".self_attn.q_proj." in name:
            return self.heads
        return self.kv_heads if ".self_attn.k_proj." in name else None


def _known(config: Mapping[str, Any]) -> Architecture:
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise ExportError(
            f"A model of the architecture '{kind}' cannot be written as GGUF here.",
            advice=f"Known: {', '.join(sorted(ARCHITECTURES))}. Export as safetensors, which "
            "llama.cpp's own converter reads.",
        )
    usual = (ARCHITECTURES[kind].activation, None)
    for key, allowed in {**_MUST_BE, "hidden_act": usual}.items():
        if config.get(key) not in allowed:
            raise ExportError(
                f"config.json: {key} = {config[key]!r} cannot be written as GGUF here.",
                advice="Export as safetensors.",
            )
    scaling = _kind(_rope(config))
    if scaling not in _SCALING:
        raise ExportError(
            f"config.json: positions scaled by '{scaling}' cannot be written as GGUF here.",
            advice=f"Known: {', '.join(_SCALING)}. Export as safetensors.",
        )
    return ARCHITECTURES[kind]


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings, where transformers 5 keeps them and where 4 did."""
    old = {"rope_theta": config.get("rope_theta"), **(config.get("rope_scaling") or {})}
    return old | (config.get("rope_parameters") or {})


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")
