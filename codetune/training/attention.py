"""Causal attention within documents that lie one after the other in one long row.

transformers calls it under the name `NAME` (its AttentionInterface). No mask is made and
nothing is computed across documents: isolation is exact, and the cost grows with the squares
of the documents' lengths instead of the row's.

On a CPU torch's flash kernel runs far below the speed of the matrix product, so that documents
up to `LONGEST_KEPT` tokens go through plain batched products, block by block of the queries;
the probabilities are kept for the backward pass. Documents of about the same length share one
batch: padding at a document's end is invisible to it under causal attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NAME = "codetune_documents"
# Documents share a batch when they need the same multiple of this. Products have few different
# shapes then, too: for each new one, oneDNN spends half a millisecond on code for it.
STEP = 64
BLOCK = 256  # positions of one block of queries
LONGEST_KEPT = 2048  # tokens; above it the kept probabilities would cost too much memory


@dataclass(frozen=True)
class Group:
    """Documents of about the same length: which positions of the row they hold.

    `places` has shape (documents · length,) and points into the row; `pads` is None when
    nothing is padded, else True (same shape) where a place is padding.
    """

    documents: int
    length: int
    places: Tensor
    pads: Tensor | None
    starts: tuple[int, ...]  # of each document in the row
    lengths: tuple[int, ...]  # of each document

    @property
    def room(self) -> int:
        """`length`, up to a whole multiple of STEP."""
        return -(-self.length // STEP) * STEP

    @property
    def blocks(self) -> int:
        """Blocks of queries."""
        return -(-self.room // BLOCK)


@dataclass(frozen=True)
class Layout:
    """How the documents lie in a row, worked out once for all layers."""

    lengths: tuple[int, ...]
    groups: tuple[Group, ...]


def layout_of(lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
    """Group the documents of a row, given their lengths in order."""
    starts, start = [], 0
    for length in lengths:
        starts.append(start)
        start += length
    by_size: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_size.setdefault(-(-length // STEP) * STEP, []).append(index)
    groups = []
    for size in sorted(by_size):
        members = by_size[size]
        longest = max(lengths[i] for i in members)
        offsets = torch.arange(longest)[None, :]
        ends = torch.tensor([lengths[i] for i in members])[:, None]
        places = torch.tensor([starts[i] for i in members])[:, None] + offsets
        pads = offsets >= ends
        padded = bool(pads.any())
        groups.append(
            Group(
                len(members),
                longest,
                # A padded place may read anything that exists: nothing looks at it.
                torch.where(pads, 0, places).flatten().to(device),
                pads.flatten().to(device) if padded else None,
                tuple(starts[i] for i in members),
                tuple(lengths[i] for i in members),
            )
        )
    return Layout(tuple(lengths), tuple(groups))


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in transformers' form: (1, heads, T, size) in, (1, T, heads, size) out."""
    if layout is None or attention_mask is not None or dropout:
        raise ValueError(f"{NAME} needs a layout, and takes neither a mask nor dropout")
    if kwargs.get("sliding_window") and max(layout.lengths) > kwargs["sliding_window"]:
        raise ValueError(f"{NAME} has no sliding window")
    if kwargs.get("softcap") is not None:
        raise ValueError(f"{NAME} has no soft capping")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if (
        query.device.type != "cpu"
        or max(layout.lengths) > LONGEST_KEPT
        or value.shape[-1] != query.shape[-1]  # DeepSeek's latent attention
    ):
        return _per_document(query, key, value, scale, layout), None
    rows = [x[0].transpose(0, 1) for x in (query, key, value)]
    out: Tensor = _Documents.apply(  # type: ignore[no-untyped-call]
        *rows, scale, layout
    )
    return out[None], None


def register() -> None:
    """Make the attention known to transformers under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def _per_document(q: Tensor, k: Tensor, v: Tensor, scale: float, layout: Layout) -> Tensor:
    """One fused call a document: for GPUs, whose flash kernels are fast, and long documents."""
    pieces = zip(*(torch.split(x, list(layout.lengths), dim=2) for x in (q, k, v)), strict=True)
    out = [
        F.scaled_dot_product_attention(a, b, c, is_causal=True, scale=scale, enable_gqa=True)
        for a, b, c in pieces
    ]
    return torch.cat(out, dim=2).transpose(1, 2)


class _Documents(torch.autograd.Function):
    """(T, heads, size) queries against (T, key heads, size) keys and values."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, layout: Layout) -> Tensor:
        keep = any(ctx.needs_input_grad[:3])
        heads, out = k.shape[1], torch.empty(q.shape, dtype=q.dtype)
        kept: list[Tensor] = []
        for group in layout.groups:
            queries, keys, values = (_by_head(group, x, heads) for x in (q, k, v))
            queries *= scale
            result, probabilities = _forward(queries, keys, values, q.shape[1] // heads, keep)
            _by_position(group, result, out, heads)
            kept += [queries, keys, values, *probabilities]
        if keep:
            ctx.save_for_backward(*kept)
            ctx.scale, ctx.layout, ctx.shapes = scale, layout, (q.shape, k.shape, v.shape)
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        above, kept = upstream[0], list(ctx.saved_tensors)
        places, heads = ctx.shapes[0][1], ctx.shapes[1][1]
        gradients = [torch.empty(shape, dtype=above.dtype) for shape in ctx.shapes]
        for group in ctx.layout.groups:
            q, k, v, *probabilities = kept[: 3 + group.blocks]
            del kept[: 3 + group.blocks]
            found = _backward(
                _by_head(group, above, heads), q, k, v, probabilities, places // heads
            )
            found[0].mul_(ctx.scale)
            for target, gradient in zip(gradients, found, strict=True):
                _by_position(group, gradient, target, heads)
        return *gradients, None, None


# A group's tensors are (documents · key heads, positions · share, size): the `share` query heads
# that use one key head (grouped-query attention) stand beside each other at each position, so
# that a block of positions is a block of rows, and all of them are rows of one product.


def _by_head(group: Group, x: Tensor, heads: int) -> Tensor:
    """The group's positions of (T, heads · share, size), zeros where a document is shorter."""
    share, size = x.shape[1] // heads, x.shape[2]
    found = x.new_empty(group.documents, heads, group.room, share, size)
    for one, start, length in zip(found, group.starts, group.lengths, strict=True):
        block = x[start : start + length].view(length, heads, share, size)
        one[:, :length].copy_(block.transpose(0, 1))
        one[:, length:].zero_()
    return found.view(group.documents * heads, group.room * share, size)


def _by_position(group: Group, found: Tensor, target: Tensor, heads: int) -> None:
    """The way back: write into (T, heads · share, size), without what fills the room."""
    size = target.shape[2]
    found = found.view(group.documents, heads, group.room, -1, size)
    for one, start, length in zip(found, group.starts, group.lengths, strict=True):
        block = target[start : start + length].view(length, heads, -1, size)
        block.copy_(one[:, :length].transpose(0, 1))


def _forward(
    q: Tensor, k: Tensor, v: Tensor, share: int, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """The output, laid out as the (scaled) queries are, and the probabilities of each block."""
    room, out, kept = k.shape[1], torch.empty_like(q), []
    for start in range(0, room, BLOCK):
        end = min(start + BLOCK, room)
        rows = slice(start * share, end * share)
        scores = torch.bmm(q[:, rows], k[:, :end].transpose(1, 2))
        scores[:, :, start:].add_(_later(end - start, share, scores.dtype))
        probabilities = torch.softmax(scores, dim=-1)
        torch.bmm(probabilities, v[:, :end], out=out[:, rows])
        if keep:
            kept.append(probabilities)
    return out, kept


def _backward(
    above: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor], share: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the scaled queries, the keys and the values."""
    room = k.shape[1]
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    # The last block sees all keys: its products are the sums' first terms.
    for start in reversed(range(0, room, BLOCK)):
        end = min(start + BLOCK, room)
        rows, probabilities = slice(start * share, end * share), kept[start // BLOCK]
        dp = torch.bmm(above[:, rows], v[:, :end].transpose(1, 2))
        ds = torch._softmax_backward_data(dp, probabilities, -1, dp.dtype)
        torch.bmm(ds, k[:, :end], out=dq[:, rows])
        more = 0 if end == room else 1
        dv[:, :end].baddbmm_(probabilities.transpose(1, 2), above[:, rows], beta=more)
        dk[:, :end].baddbmm_(ds.transpose(1, 2), q[:, rows], beta=more)
    return dq, dk, dv


@cache
def _later(size: int, share: int, dtype: torch.dtype) -> Tensor:
    """(size · share, size): -inf where a key stands after the row's position, else 0."""
    square = torch.full((size, size), float("-inf"), dtype=dtype).triu_(1)
    return square.repeat_interleave(share, dim=0)
