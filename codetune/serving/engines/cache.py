"""Keys and values of the running sequences: one row per sequence, as long as the longest needs."""

from __future__ import annotations

import torch

from codetune.serving.engines.shape import Shape

_SMALLEST = 256  # tokens


class KeyValueCache:
    """Rows 0 … used-1 are running sequences; rows and length grow by doubling."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.rows = self.capacity = 0
        self.layers: list[torch.Tensor] = []  # each [rows, capacity, 2 × kv_width]

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
        """Make room; what is stored stays."""
        rows, length = self.fit(rows, length)
        if rows <= self.rows and length <= self.capacity:
            return
        width = 2 * self.shape.kv_width
        grown = []
        for number in range(self.shape.layers):
            new = torch.zeros(rows, length, width, dtype=self.dtype, device=self.device)
            if self.layers:
                new[: self.rows, : self.capacity] = self.layers[number]
                self.layers[number] = new  # frees the old one before the next is made
            grown.append(new)
        self.layers, self.rows, self.capacity = grown, rows, length

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row to another."""
        for layer in self.layers:
            layer[target, :length] = layer[source, :length]

    def fill(self, row: int, values: torch.Tensor) -> None:
        """Write the first tokens of a row: [layers, tokens, 2 × kv_width]."""
        for layer, stored in zip(self.layers, values, strict=True):
            layer[row, : len(stored)] = stored

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
        self.cache.layers[layer][self.row, self.start : self.end] = keys_values

    def attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        shape = self.cache.shape
        stored = self.cache.layers[layer][self.row, : self.end]
        keys, values = stored.view(1, self.end, 2, shape.kv_heads, -1).transpose(1, 3).unbind(2)
        result = torch.nn.functional.scaled_dot_product_attention(
            queries.view(1, len(queries), shape.heads, -1).transpose(1, 2),
            keys,
            values,
            attn_mask=self.mask,
            is_causal=self.mask is None,
            enable_gqa=shape.heads != shape.kv_heads,
        )
        return result.transpose(1, 2).reshape(len(queries), -1)


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
        self.mask: torch.Tensor | None = None
        if min(positions) + 1 < self.length:
            places = self.positions if self.by_row is None else self.positions[self.by_row]
            ahead = torch.arange(self.length, device=cache.device) > places[:, None]
            mask = torch.zeros(self.count, self.length, dtype=cache.dtype, device=cache.device)
            self.mask = mask.masked_fill_(ahead, float("-inf"))[:, None, None]

    def keep(self, layer: int, keys_values: torch.Tensor) -> None:
        self.cache.layers[layer][self.rows, self.positions] = keys_values

    def attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        shape = self.cache.shape
        stored = self.cache.layers[layer][: self.count, : self.length]
        stored = stored.view(self.count, self.length, 2, shape.kv_heads, -1)
        keys, values = stored.permute(2, 0, 3, 1, 4).unbind(0)
        if self.by_row is not None:
            queries = queries[self.by_row]
        # The query heads that share a key head stand where a sequence of queries would.
        grouped = queries.view(self.count, shape.kv_heads, -1, shape.head_size)
        result = torch.nn.functional.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=self.mask
        )
        result = result.reshape(self.count, -1)
        return result if self.by_row is None else result[self.rows]
