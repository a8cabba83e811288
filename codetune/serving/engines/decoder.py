"""A lean forward pass for decoders of the Llama family: about twelve operators a layer.

A small model's decode step is bound by the cost of issuing operators, not by arithmetic;
transformers issues some hundred a layer. Rows of one call are tokens: one of each running
sequence (decode), or a stretch of one sequence (prefill).

Rotary positions are applied as one complex product. For that the rows of the query and key
projections are reordered when the weights are read, so that the two halves of each rotated
pair lie side by side; the products of queries and keys do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from codetune.errors import ModelError
from codetune.models.load import weight_files
from codetune.serving.engines.linear import AddLinear, Linear, add_linear, linear
from codetune.serving.engines.shape import Shape

if TYPE_CHECKING:
    from codetune.serving.engines.bank import Mix


class Attention(Protocol):
    """Where keys and values are kept, and which of them each row may see."""

    def keep(self, layer: int, keys_values: torch.Tensor) -> None:
        """Store [rows, 2 × kv_width]."""

    def attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        """[rows, query_width] → [rows, query_width]."""


class Layer:
    """One decoder layer's weights, packed."""

    def __init__(self, shape: Shape, weights: _Weights) -> None:
        self.shape = shape
        self.norm, self.mlp_norm = weights["input_layernorm"], weights["post_attention_layernorm"]
        attention = [f"self_attn.{name}_proj" for name in ("q", "k", "v")]
        rotated = (shape.heads, shape.kv_heads, 0)
        self.qkv: Linear = linear(*weights.joined(attention, rotated))
        self.out: AddLinear = add_linear(*weights.pair("self_attn.o_proj"))
        self.gate_up: Linear = linear(*weights.joined(["mlp.gate_proj", "mlp.up_proj"], (0, 0)))
        self.down: AddLinear = add_linear(*weights.pair("mlp.down_proj"))

    def __call__(
        self,
        number: int,
        x: torch.Tensor,
        turns: torch.Tensor,
        attention: Attention,
        mix: Mix | None,
    ) -> torch.Tensor:
        """[rows, hidden] → [rows, hidden]; `turns` are the rows' complex rotations."""
        shape = self.shape
        y = torch.rms_norm(x, (shape.hidden,), self.norm, shape.epsilon)
        qkv = self.qkv(y)
        if mix is not None:
            qkv = mix.add(number, "qkv", y, qkv)
        self._rotate(qkv, turns)
        width = shape.query_width
        attention.keep(number, qkv[:, width:])
        y = attention.attend(number, qkv[:, :width])
        x = self.out(y, x)
        if mix is not None:
            x = mix.add(number, "out", y, x)
        y = torch.rms_norm(x, (shape.hidden,), self.mlp_norm, shape.epsilon)
        gate_up = self.gate_up(y)
        if mix is not None:
            gate_up = mix.add(number, "gate_up", y, gate_up)
        gate, up = gate_up.chunk(2, -1)
        y = torch.nn.functional.silu(gate).mul_(up)
        x = self.down(y, x)
        return x if mix is None else mix.add(number, "down", y, x)

    def _rotate(self, qkv: torch.Tensor, turns: torch.Tensor) -> None:
        """Turn queries and keys in place by their positions."""
        shape = self.shape
        heads = qkv[:, : shape.query_width + shape.kv_width]
        pairs = heads.view(len(qkv), shape.heads + shape.kv_heads, -1, 2)
        if qkv.dtype == torch.float32:
            torch.view_as_complex(pairs).mul_(turns)
        else:
            turned = torch.view_as_complex(pairs.float()).mul_(turns)
            pairs.copy_(torch.view_as_real(turned))


class Decoder:
    """A whole model, read from safetensors without transformers."""

    def __init__(
        self, folder: Path, shape: Shape, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Read the weights.

        Raises:
            ModelError: a tensor is missing or has another shape than the config says.
        """
        self.shape, self.dtype, self.device = shape, dtype, device
        tensors = _read(folder)
        try:
            weights = _Weights(tensors, "model.", dtype, device)
            self.embedding = weights["embed_tokens"]
            if self.embedding.shape != (shape.vocabulary, shape.hidden):
                raise ValueError(f"embed_tokens has shape {tuple(self.embedding.shape)}")
            head = tensors.get("lm_head.weight")
            self.head = linear(self.embedding if head is None else head.to(device, dtype))
            self.norm = weights["norm"]
            self.layers = [Layer(shape, weights.below(f"layers.{i}.")) for i in range(shape.layers)]
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{folder} does not hold the tensors that its config.json promises: {error}.",
                advice="Fetch or write the model again.",
            ) from error
        self.bytes = sum(t.numel() for t in tensors.values()) * dtype.itemsize
        steps = torch.arange(0, shape.head_size, 2, dtype=torch.int64, device=device).float()
        speeds = 1.0 / (shape.rope_theta ** (steps / shape.head_size))
        angles = torch.outer(torch.arange(shape.window, device=device).float(), speeds)
        # By position; the middle dimension is for the heads.
        self.turns = torch.polar(torch.ones_like(angles), angles).unsqueeze(1)

    def __call__(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        mix: Mix | None = None,
        *,
        last_only: bool = False,
    ) -> torch.Tensor:
        """Logits in float32, [rows, vocabulary], or [1, vocabulary] of the last row."""
        x = self._last(ids, positions, attention, mix)
        if last_only:
            x = x[-1:]
        return self.head(self._normed(x)).float()

    def states(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        mix: Mix | None = None,
    ) -> torch.Tensor:
        """The last hidden states, after the final norm: [rows, hidden]."""
        return self._normed(self._last(ids, positions, attention, mix))

    def _last(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        mix: Mix | None,
    ) -> torch.Tensor:
        x = self.embedding[ids]
        turns = self.turns[positions]
        for number, layer in enumerate(self.layers):
            x = layer(number, x, turns, attention, mix)
        return x

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rms_norm(x, (self.shape.hidden,), self.norm, self.shape.epsilon)


class _Weights:
    """The tensors below one prefix of a checkpoint, in the engine's dtype."""

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        prefix: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._tensors, self._prefix, self._dtype, self._device = tensors, prefix, dtype, device

    def below(self, prefix: str) -> _Weights:
        return _Weights(self._tensors, self._prefix + prefix, self._dtype, self._device)

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._tensors[f"{self._prefix}{name}.weight"]
        return tensor.to(self._device, self._dtype)

    def optional(self, name: str) -> torch.Tensor | None:
        tensor = self._tensors.get(self._prefix + name)
        return None if tensor is None else tensor.to(self._device, self._dtype)

    def pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self[name], self.optional(f"{name}.bias")

    def joined(
        self, names: list[str], heads: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Several projections of the same input as one; rotated ones (heads > 0) in pair order."""
        pairs = [self.pair(name) for name in names]
        weights = [paired(w, n) if n else w for (w, _), n in zip(pairs, heads, strict=True)]
        if all(bias is None for _, bias in pairs):
            return torch.cat(weights), None
        filled = [w.new_zeros(len(w)) if b is None else b for w, b in pairs]
        biases = [paired(b, n) if n else b for b, n in zip(filled, heads, strict=True)]
        return torch.cat(weights), torch.cat(biases)


def paired(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of each head from (first halves, second halves) to pairs."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def _read(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} cannot be read: {error}.", advice="Fetch or write it again."
            ) from error
    return tensors
