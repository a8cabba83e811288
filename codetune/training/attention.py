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
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NAME = "codetune_documents"
STEP = 64  # batches of documents have lengths that are multiples of this
BLOCK = 128  # queries of one block
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
        out = torch.empty(q.shape, dtype=q.dtype)
        kept = []
        for group in layout.groups:
            grouped = _Grouped.take(group, q, k, v)
            result, probabilities = grouped.forward(scale, keep)
            _put(out, group, result)
            kept.append(probabilities)
        if keep:
            ctx.save_for_backward(q, k, v, *(p for ps in kept for p in ps))
            ctx.scale, ctx.layout = scale, layout
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        gradients = [torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v)]
        for group in ctx.layout.groups:
            blocks = -(-group.length // BLOCK)
            probabilities, kept = kept[:blocks], kept[blocks:]
            grouped = _Grouped.take(group, q, k, v)
            above = _take(group, upstream[0])
            if group.pads is not None:
                above = above.masked_fill(group.pads[:, None, None], 0)
            for target, gradient in zip(
                gradients, grouped.backward(above, probabilities, ctx.scale), strict=True
            ):
                _put(target, group, gradient)
        return *gradients, None, None


@dataclass
class _Grouped:
    """One group's queries (n, length, key heads, share, size); keys, values (n·kh, length, size).

    `share` is how many query heads use one key head (grouped-query attention): they become
    rows of the same product.
    """

    q: Tensor
    k: Tensor
    v: Tensor

    @classmethod
    def take(cls, group: Group, q: Tensor, k: Tensor, v: Tensor) -> _Grouped:
        n, length, heads = group.documents, group.length, k.shape[1]
        share, size = q.shape[1] // heads, q.shape[2]
        keys, values = (
            _take(group, x)
            .view(n, length, heads, size)
            .transpose(1, 2)
            .reshape(n * heads, length, size)
            for x in (k, v)
        )
        return cls(_take(group, q).view(n, length, heads, share, size), keys, values)

    def _rows(self, x: Tensor, start: int, end: int) -> Tensor:
        """Block start..end of (n, length, kh, share, size) as (n·kh, share·block, size)."""
        n, _, heads, share, size = x.shape
        block = x[:, start:end].permute(0, 2, 3, 1, 4)
        return block.reshape(n * heads, share * (end - start), size)

    def _unrows(self, target: Tensor, start: int, end: int, rows: Tensor) -> None:
        n, _, heads, share, size = target.shape
        block = rows.view(n, heads, share, end - start, size)
        target[:, start:end].copy_(block.permute(0, 3, 1, 2, 4))

    def forward(self, scale: float, keep: bool) -> tuple[Tensor, list[Tensor]]:
        _, length, _, share, _ = self.q.shape
        out, kept = torch.empty_like(self.q), []
        for start in range(0, length, BLOCK):
            end = min(start + BLOCK, length)
            rows = self._rows(self.q, start, end) * scale
            scores = torch.bmm(rows, self.k[:, :end].transpose(1, 2))
            square = scores.view(-1, share, end - start, end)[..., start:]
            square += _above_diagonal(end - start, scores.dtype)
            probabilities = torch.softmax(scores, dim=-1)
            if keep:
                kept.append(probabilities)
            self._unrows(out, start, end, torch.bmm(probabilities, self.v[:, :end]))
        return out, kept

    def backward(
        self, above: Tensor, kept: list[Tensor], scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, length, heads, _, size = self.q.shape
        above = above.view(self.q.shape)
        dq, dk, dv = torch.empty_like(self.q), torch.zeros_like(self.k), torch.zeros_like(self.v)
        for index, start in enumerate(range(0, length, BLOCK)):
            end = min(start + BLOCK, length)
            rows = self._rows(above, start, end)
            dv[:, :end].baddbmm_(kept[index].transpose(1, 2), rows)
            dp = torch.bmm(rows, self.v[:, :end].transpose(1, 2))
            ds = torch._softmax_backward_data(dp, kept[index], -1, dp.dtype)
            self._unrows(dq, start, end, torch.bmm(ds, self.k[:, :end]) * scale)
            queries = self._rows(self.q, start, end)
            dk[:, :end].baddbmm_(ds.transpose(1, 2), queries, alpha=scale)
        flat = [
            x.view(n, heads, length, size).transpose(1, 2).reshape(n * length, heads, size)
            for x in (dk, dv)
        ]
        return dq.view(n * length, -1, size), flat[0], flat[1]


def _above_diagonal(size: int, dtype: torch.dtype) -> Tensor:
    """(size, size): -inf above the diagonal, 0 elsewhere."""
    return torch.full((size, size), float("-inf"), dtype=dtype).triu_(1)


def _take(group: Group, x: Tensor) -> Tensor:
    """The group's positions of (T, heads, size), padded: (documents · length, heads, size)."""
    return x.index_select(0, group.places)


def _put(target: Tensor, group: Group, x: Tensor) -> None:
    """Write the group's positions back into (T, heads, size), without the padding."""
    x = x.view(-1, *target.shape[1:])
    if group.pads is None:
        target.index_copy_(0, group.places, x)
    else:
        real = ~group.pads
        target.index_copy_(0, group.places[real], x[real])
