"""What a config.json says about a decoder of the Llama family (Llama, Qwen2, Mistral)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FAMILY = ("llama", "qwen2", "mistral")


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder; `window` is in tokens."""

    layers: int
    hidden: int
    middle: int  # of the MLP
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    window: int
    epsilon: float
    rope_theta: float

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Width of the keys and of the values, each."""
        return self.kv_heads * self.head_size


def read_shape(config: Mapping[str, Any]) -> Shape | None:
    """The shape of a decoder that the lean forward computes exactly; None for any other."""
    if config.get("model_type") not in _FAMILY or config.get("hidden_act", "silu") != "silu":
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        return None
    if "rope_theta" not in {**config, **rope}:
        return None
    sliding = config.get("sliding_window")
    if sliding and config.get("use_sliding_window", config["model_type"] == "mistral"):
        return None
    if set(config.get("layer_types") or ["full_attention"]) != {"full_attention"}:
        return None
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        return None
    heads = int(config["num_attention_heads"])
    return Shape(
        layers=int(config["num_hidden_layers"]),
        hidden=int(config["hidden_size"]),
        middle=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or config["hidden_size"] // heads),
        vocabulary=int(config["vocab_size"]),
        window=int(config["max_position_embeddings"]),
        epsilon=float(config["rms_norm_eps"]),
        rope_theta=float({**config, **rope}["rope_theta"]),
    )
