"""How an architecture's weights and settings are called in GGUF, and how they lie there.

Source: the GGUF specification (github.com/ggml-org/ggml/blob/master/docs/gguf.md) and the tensor
names of the `gguf` package, which llama.cpp's own converter uses.
"""

from __future__ import annotations

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


ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen2": Architecture("qwen2", interleaved=False),
    "llama": Architecture("llama", interleaved=True),
    "mistral": Architecture("llama", interleaved=True),
}
# Keys of config.json whose other values mean other mathematics than what is written.
_MUST_BE: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", None),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
}
_SCALING = ("default", "linear")


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
        writer.add_context_length(int(config["max_position_embeddings"]))
        writer.add_embedding_length(int(config["hidden_size"]))
        writer.add_block_count(self.blocks)
        writer.add_feed_forward_length(int(config["intermediate_size"]))
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_size)
        writer.add_value_length(self.head_size)
        writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
        writer.add_vocab_size(int(config["vocab_size"]))
        writer.add_rope_dimension_count(self.head_size)
        rope = _rope(config)
        writer.add_rope_freq_base(float(rope.get("rope_theta") or 10_000.0))
        if _kind(rope) == "linear":
            import gguf

            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))

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
    for key, allowed in _MUST_BE.items():
        if config.get(key) not in allowed:
            raise ExportError(
                f"config.json: {key} = {config[key]!r} cannot be written as GGUF here.",
                advice="Export as safetensors.",
            )
    if config.get("sliding_window") and config.get("use_sliding_window", kind == "mistral"):
        raise ExportError(
            "This model looks back through a sliding window, which GGUF has no key for in the "
            f"architecture '{ARCHITECTURES[kind].name}'.",
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
