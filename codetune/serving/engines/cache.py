"""Keys and values of the running sequences: one row per sequence, as long as the longest needs."""

from __future__ import annotations

import torch

from codetune.serving.engines.shape import Shape

_SMALLEST = 256  # tokens


def attend_one(
    shape: Shape,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Attention within one text: [tokens, query width] as the queries; causal without a mask.

    Keys and values are [1, kv_heads, tokens, head_size].
    """
    result = torch.nn.functional.scaled_dot_product_attention(
        queries.view(1, len(queries), shape.heads, -1).transpose(1, 2),
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=shape.heads != shape.kv_heads,
    )
    return result.transpose(1, 2).reshape(len(queries), -1)


class KeyValueCache:
    """Rows 0 … used-1 are running sequences; rows and length grow by doubling."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.rows = self.capacity = 0
        # Each [2, rows, kv_heads, capacity, head_size]: the keys, and the values.
        self.layers: list[torch.Tensor] = []

    def token_bytes(self) -> int:
        """Bytes that one token takes in all layers."""
        return self.shape.layers * 2 * self.shape.kv_width * self.dtype.itemsize

    def bytes(self) -> int:
        """What the cache holds now."""
        return self.rows * self.capacity * self.token_bytes()

    def fit(self, rows: int, length: int) -> tuple[int, int]:
        """The rows and capacity that the cache would grow to for `rows` of `length` tokens."""
        capacity = max(self.capacity, _SMALLEST)
        while capacity < length:
            capacity *= 2
        wanted = max(self.rows, 1)
        while wanted < rows:
            wanted *= 2
        return wanted, min(capacity, max(self.shape.window, length))

    def reserve(self, rows: int, length: int) -> None:
        """Make room; what is stored stays, unless there is no memory for it: then all is let go."""
        rows, length = self.fit(rows, length)
        if rows <= self.rows and length <= self.capacity:
            return
        try:
            self.layers = self._grown((2, rows, self.shape.kv_heads, length, self.shape.head_size))
        except BaseException:
            self.release()  # some layers have grown and some have not
            raise
        self.rows, self.capacity = rows, length

    def _grown(self, size: tuple[int, ...]) -> list[torch.Tensor]:
        grown = []
        for number in range(self.shape.layers):
            new = torch.zeros(size, dtype=self.dtype, device=self.device)
            if self.layers:
                new[:, : self.rows, :, : self.capacity] = self.layers[number]
                self.layers[number] = new  # frees the old one before the next is made
            grown.append(new)
        return grown

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row to another."""
        for layer in self.layers:
            layer[:, target, :, :length] = layer[:, source, :, :length]

    def fill(self, row: int, values: torch.Tensor) -> None:
        """Write the first tokens of a row: [layers, 2, kv_heads, tokens, head_size]."""
        for layer, stored in zip(self.layers, values, strict=True):
            layer[:, row, :, : stored.shape[2]] = stored

    def stored(self, row: int, length: int) -> torch.Tensor:
        """A copy of a row's first tokens, as `fill` takes them."""
        return torch.stack([layer[:, row, :, :length] for layer in self.layers])

    def release(self) -> None:
        """Give the memory back; nothing may be running."""
        self.layers, self.rows, self.capacity = [], 0, 0


class Prefill:
    """Attention of a stretch of one sequence, tokens `start` … `start + count - 1`."""

    def __init__(self, cache: KeyValueCache, row: int, start: int, count: int) -> None:
        self.cache, self.row, self.start, self.end = cache, row, start, start + count
        self.mask: torch.Tensor | None = None
        if start:
            places = torch.arange(self.end, device=cache.device)
            ahead = places[None] > places[start:, None]
            mask = torch.zeros(count, self.end, dtype=cache.dtype, device=cache.device)
            self.mask = mask.masked_fill_(ahead, float("-inf"))

    def keep(self, layer: int, keys_values: torch.Tensor) -> None:
        new = keys_values.view(len(keys_values), 2, self.cache.shape.kv_heads, -1)
        self.cache.layers[layer][:, self.row, :, self.start : self.end] = new.permute(1, 2, 0, 3)

    def attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        keys, values = self.cache.layers[layer][:, self.row, None, :, : self.end].unbind(0)
        return attend_one(self.cache.shape, queries, keys, values, self.mask)


class Decode:
    """Attention of one new token of each running sequence.

    `rows` are the sequences' rows, 0 … n-1 in any order; `positions` are the tokens' places.
    """

    def __init__(self, cache: KeyValueCache, rows: list[int], positions: list[int]) -> None:
        self.cache = cache
        self.count, self.length = len(positions), max(positions) + 1
        self.positions = torch.tensor(positions, device=cache.device)
        self.rows = torch.tensor(rows, device=cache.device)
        self.by_row = None if rows == sorted(rows) else self.rows.argsort()
        # In 16 bits the scores must not be rounded, which the fused operator sees to.
        self.fused = cache.dtype != torch.float32
        self.mask: torch.Tensor | None = None
        if min(positions) + 1 < self.length:
            places = self.positions if self.by_row is None else self.positions[self.by_row]
            ahead = torch.arange(self.length, device=cache.device) > places[:, None]
            mask = torch.zeros(self.count, self.length, dtype=cache.dtype, device=cache.device)
            mask = mask.masked_fill_(ahead, float("-inf"))[:, None]
            heads = cache.shape.kv_heads
            self.mask = mask[:, None] if self.fused else mask.repeat_interleave(heads, 0)

    def keep(self, layer: int, keys_values: torch.Tensor) -> None:
        new = keys_values.view(self.count, 2, self.cache.shape.kv_heads, -1)
        self.cache.layers[layer][:, self.rows, :, self.positions] = new

    def attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        if self.by_row is None:
            return self._attend(layer, queries)
        return self._attend(layer, queries[self.by_row])[self.rows]

    def _attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        """The query heads that share a key head stand where a sequence of queries would."""
        heads, size = self.cache.shape.kv_heads, self.cache.shape.head_size
        stored = self.cache.layers[layer][:, : self.count, :, : self.length]
        if self.fused:
            keys, values = stored.unbind(0)
            grouped = queries.view(self.count, heads, -1, size)
            result = torch.nn.functional.scaled_dot_product_attention(
                grouped, keys, values, attn_mask=self.mask
            )
            return result.reshape(self.count, -1)
        # For one query a head, plain products take half as long as the fused operator.
        keys, values = stored.flatten(1, 2).unbind(0)
        grouped = queries.reshape(self.count * heads, -1, size) * size**-0.5
        if self.mask is None:
            scores = torch.bmm(grouped, keys.transpose(1, 2))
        else:
            scores = torch.baddbmm(self.mask, grouped, keys.transpose(1, 2))
        return torch.bmm(scores.softmax(-1), values).view(self.count, -1)
