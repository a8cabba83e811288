"""What differs between architectures, read from the model itself instead of from its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from codetune.models.seq2seq import USUAL_WINDOW

if TYPE_CHECKING:
    from torch import nn

# Layers that choose experts: an adapter there would change which expert learns what.
_ROUTERS = ("gate", "router", "shared_expert_gate")
# What architectures call the longest text that they were made for, in tokens.
_WINDOWS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)
_DROPOUTS = (
    "attention_dropout",
    "attn_dropout",
    "resid_dropout",
    "hidden_dropout",
    "activation_dropout",
    "dropout",
    "dropout_rate",
)


def is_seq2seq(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes an encoder with a decoder (T5 and its like)."""
    return bool(config.get("is_encoder_decoder", False))


def linear_layers(model: nn.Module) -> list[str]:
    """Full names of the layers that an adapter goes to: every linear one but head and routers.

    GPT-2's transposed `Conv1D` counts as linear, as do layers quantised by bitsandbytes. In a
    mixture of experts only attention's layers count: its experts are one tensor, not layers.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    whole: Any = model
    head = whole.get_output_embeddings()
    found = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D)
        and layer is not head
        and name.rpartition(".")[2] not in _ROUTERS
    ]
    if any(".experts." in name and w.ndim == 3 for name, w in model.named_parameters()):
        return [name for name in found if "attn" in name or "attention" in name]
    return found


def has_transposed_layers(model: nn.Module) -> bool:
    """Whether the linear layers are GPT-2's, whose weights stand (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(layer, Conv1D) for layer in model.modules())


def turn_off_dropout(model: nn.Module) -> None:
    """Set the base's own dropout to zero in this copy of it.

    It belongs to pretraining. With it the loss of a step would depend on how documents are
    packed into passes, and a run of few epochs gains nothing from it.
    """
    from torch import nn

    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
            continue
        for name in _DROPOUTS:
            if isinstance(getattr(layer, name, None), float):
                setattr(layer, name, 0.0)


def stated_window(config: Mapping[str, Any]) -> int | None:
    """Tokens of the longest text that a config.json names, None where it names none."""
    known = [value for name in _WINDOWS if isinstance(value := config.get(name), int) and value > 0]
    return min(known, default=None)


def model_window(config: Mapping[str, Any]) -> int | None:
    """`stated_window`, or what an encoder with a decoder is usually trained on."""
    return stated_window(config) or (USUAL_WINDOW if is_seq2seq(config) else None)


def longest_document(config: Any) -> int | None:
    """Tokens that one document may have, None where the architecture sets no limit."""
    facts = config.to_dict()
    return None if is_seq2seq(facts) else stated_window(facts)


def sliding_window(config: Any) -> int | None:
    """Tokens that attention looks back on, None where it sees the whole document."""
    if not getattr(config, "use_sliding_window", True):
        return None
    value = getattr(config, "sliding_window", None)
    return int(value) if value else None


def count_parameters(model: nn.Module) -> int:
    """Weights of the model; those packed into 4 bits count as what they stand for."""
    total = 0
    for weight in model.parameters():
        packed = type(weight).__name__ == "Params4bit"
        total += weight.numel() * (2 * weight.element_size() if packed else 1)
    return total
