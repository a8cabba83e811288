"""The Qwen2 network as nano trains it: transformers' weights by name, documents laid end to end.

transformers' own Qwen2 computes the same function (a test compares the logits). This one takes
a flat row of tokens with the documents' lengths, and each document attends only to itself: no
mask, no padding to the longest, and attention costs what the documents cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from codetune.models.nano.recipe import ModelRecipe


class Lengths:
    """The documents' lengths of one row; an object that torch.compile does not look into, so
    that rows with other lengths do not compile again."""

    def __init__(self, values: Sequence[int]) -> None:
        self.values = list(values)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Lengths
) -> torch.Tensor:
    """Causal attention inside each document; tensors are (heads, tokens, head width)."""
    pieces = zip(
        *(torch.split(part, lengths.values, dim=1) for part in (query, key, value)), strict=True
    )
    return torch.cat(
        [
            F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
            for q, k, v in pieces
        ],
        dim=1,
    )


class Attention(nn.Module):
    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.heads, self.kv_heads = recipe.heads, recipe.kv_heads
        self.head_width = recipe.width // recipe.heads
        self.q_proj = nn.Linear(recipe.width, recipe.heads * self.head_width)
        self.k_proj = nn.Linear(recipe.width, recipe.kv_heads * self.head_width)
        self.v_proj = nn.Linear(recipe.width, recipe.kv_heads * self.head_width)
        self.o_proj = nn.Linear(recipe.heads * self.head_width, recipe.width, bias=False)

    def forward(
        self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], lengths: Lengths
    ) -> torch.Tensor:
        query = rotate(self.q_proj(x).view(-1, self.heads, self.head_width), rotation)
        key = rotate(self.k_proj(x).view(-1, self.kv_heads, self.head_width), rotation)
        value = self.v_proj(x).view(-1, self.kv_heads, self.head_width)
        shared = self.heads // self.kv_heads
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
        query, key, value = (part.transpose(0, 1).contiguous() for part in (query, key, value))
        out = attend(query, key, value, lengths)
        projected: torch.Tensor = self.o_proj(out.transpose(0, 1).reshape(x.shape[0], -1))
        return projected


class FeedForward(nn.Module):
    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(recipe.width, recipe.inner, bias=False)
        self.up_proj = nn.Linear(recipe.width, recipe.inner, bias=False)
        self.down_proj = nn.Linear(recipe.inner, recipe.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Norm(nn.Module):
    """RMSNorm in float32, as in Qwen2."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * wide.to(x.dtype)


class Layer(nn.Module):
    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.self_attn = Attention(recipe)
        self.mlp = FeedForward(recipe)
        self.input_layernorm = Norm(recipe.width, recipe.epsilon)
        self.post_attention_layernorm = Norm(recipe.width, recipe.epsilon)

    def forward(
        self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], lengths: Lengths
    ) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, lengths)
        out: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):
    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(recipe.vocabulary, recipe.width)
        self.layers = nn.ModuleList(Layer(recipe) for _ in range(recipe.layers))
        self.norm = Norm(recipe.width, recipe.epsilon)


class Network(nn.Module):
    """Parameters are named as transformers names them (`model.layers.0.self_attn.q_proj…`)."""

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.model = Body(recipe)

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, lengths: Lengths
    ) -> torch.Tensor:
        """Final hidden states (tokens, width) of documents laid end to end."""
        x = self.model.embed_tokens(tokens)
        rotation = self.rotation(positions, x.dtype)
        for layer in self.model.layers:
            x = layer(x, rotation, lengths)
        out: torch.Tensor = self.model.norm(x)
        return out

    def rotation(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.recipe.width // self.recipe.heads // 2
        exponents = torch.arange(half, device=positions.device, dtype=torch.float32) / half
        angles = positions[:, None].float() * self.recipe.rope_theta ** -exponents[None, :]
        angles = torch.cat([angles, angles], dim=-1)[:, None, :]
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def initialise(self, seed: int) -> None:
        """Small normal weights; what writes into the residual stream starts at zero."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias") or "o_proj" in name or "down_proj" in name:
                    parameter.zero_()
                elif "embed" in name:
                    parameter.normal_(0.0, 0.02, generator=generator)
                elif "norm" not in name:
                    parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)


def rotate(x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary positions, halves convention (as in transformers' Qwen2)."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
