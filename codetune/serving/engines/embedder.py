"""Vectors of texts from the weights that answer: what a language model knows of a text at its end.

A vector is the mean of the last hidden states (after the final norm) over the text's own tokens,
of length 1. It is what the model has read of the text, and no more: a model that was trained to
go on with code was not trained to lay similar code side by side.

Texts are read in batches of at most `BATCH` tokens by a thread of their own, one batch at a time,
whoever's they are. The scheduler of answers does not wait for it; of models that go through
transformers, which do one thing at a time, for one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from codetune.errors import DeadlineError, OverloadedError, ServingError
from codetune.serving.config import ServingOptions
from codetune.serving.engine import Passage, Servable
from codetune.serving.engines.cache import attend_one
from codetune.serving.engines.foreign import TransformersRunner
from codetune.serving.engines.pool import ModelPool
from codetune.serving.engines.runner import STRETCH, DecoderRunner
from codetune.serving.engines.shape import Shape

BATCH = STRETCH  # tokens


class Embedder:
    """Reads texts with the models of one pool."""

    def __init__(self, pool: ModelPool, options: ServingOptions) -> None:
        self._pool, self._options = pool, options
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="codetune-embedder")
        self._under_way = 0
        self._closing = False

    async def embed(self, model: Servable, passages: Sequence[Passage]) -> np.ndarray:
        """Vectors [passages, hidden size], float32, each of length 1.

        Raises:
            OverloadedError: too many such requests are under way.
            DeadlineError: it took longer than the options allow.
            ModelError, UnservableModelError: the model cannot be loaded.
            ServingError: its numbers are none, or the server is shutting down.
        """
        if self._closing:
            raise ServingError("The server is shutting down.")
        if self._under_way >= self._options.max_waiting:
            raise OverloadedError(
                f"{self._under_way} requests for embeddings are under way.",
                retry_after=2,
                advice="Ask again a little later.",
            )
        self._under_way += 1
        try:
            async with asyncio.timeout(self._options.deadline):
                return await self._embed(model, passages)
        except TimeoutError as error:
            seconds = self._options.deadline
            raise DeadlineError(f"The vectors were not ready within {seconds:g} s.") from error
        finally:
            self._under_way -= 1

    def close(self) -> None:
        self._closing = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _embed(self, model: Servable, passages: Sequence[Passage]) -> np.ndarray:
        await asyncio.to_thread(self._pool.wait, model)
        loop = asyncio.get_running_loop()
        found: list[np.ndarray] = []
        for batch in _batches(passages):
            # One batch at a time into the thread's queue: others' requests take turns with it.
            found.append(await loop.run_in_executor(self._thread, self._read, model, batch))
        return np.concatenate(found)

    def _read(self, model: Servable, batch: Sequence[Passage]) -> np.ndarray:
        while (runner := self._pool.acquire(model)) is None:
            self._pool.wait(model)  # it was dropped between two batches
        try:
            with torch.inference_mode():
                if isinstance(runner, TransformersRunner):
                    means = [_foreign_mean(runner, model, passage) for passage in batch]
                else:
                    assert isinstance(runner, DecoderRunner)
                    means = _means(runner, model, batch)
                vectors = torch.nn.functional.normalize(torch.stack(means), dim=-1, eps=0.0)
        finally:
            self._pool.release(model)
        if not bool(torch.isfinite(vectors).all()):
            raise ServingError(
                f"'{model.id}' cannot answer: it has weights that are not numbers, or too large."
            )
        made: np.ndarray = vectors.cpu().numpy()
        return made


def _batches(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    """Neighbours, as long as they have `BATCH` tokens together; a longer one is alone."""
    batch: list[Passage] = []
    size = 0
    for passage in passages:
        if batch and size + len(passage.ids) > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(passage)
        size += len(passage.ids)
    if batch:
        yield batch


def _means(runner: DecoderRunner, model: Servable, batch: Sequence[Passage]) -> list[torch.Tensor]:
    """The mean states of passages that are read side by side; of a long one in stretches."""
    decoder = runner.decoder
    runner.set_threads()
    mix = runner.bank.alone(model.key) if model.kind == "adapter" else None

    def states(passages: Sequence[Passage], attention: Texts) -> torch.Tensor:
        ids = torch.tensor([i for p in passages for i in p.ids], device=decoder.device)
        return decoder.states(ids, attention.positions, attention, mix).float()

    # In 16 bits a product of many rows may round each of them otherwise than alone.
    if len(batch) > 1 and decoder.dtype == torch.float32:
        found = states(batch, Texts(decoder.shape, [len(p.ids) for p in batch], decoder.device))
        parts = torch.split(found, [len(passage.ids) for passage in batch])
        return [part[p.start :].mean(0) for part, p in zip(parts, batch, strict=True)]
    means = []
    for passage in batch:
        attention = Texts(decoder.shape, [], decoder.device)
        total = torch.zeros(decoder.shape.hidden, device=decoder.device)
        for begin in range(0, len(passage.ids), STRETCH):
            part = passage.ids[begin : begin + STRETCH]
            attention.go_on(len(part))
            found = states([Passage(part)], attention)
            total += found[max(passage.start - begin, 0) :].sum(0)
        means.append(total / (len(passage.ids) - passage.start))
    return means


def _foreign_mean(runner: TransformersRunner, model: Servable, passage: Passage) -> torch.Tensor:
    adapter = model.key if model.kind == "adapter" else None
    return runner.states(list(passage.ids), adapter)[passage.start :].mean(0)


class Texts:
    """Attention of texts that lie side by side, each seeing itself alone; or of one in stretches.

    Nothing of it is left when it is done: the cache of answers is not touched.
    """

    def __init__(self, shape: Shape, lengths: Sequence[int], device: torch.device) -> None:
        self._shape, self._device = shape, device
        self._lengths = list(lengths)
        self._kept: list[torch.Tensor] | None = None  # by layer, of one text's earlier stretches
        self._seen: torch.Tensor | None = None  # keys and values of the layer that is computed
        self._mask: torch.Tensor | None = None
        if lengths:
            self.positions = torch.cat([torch.arange(n, device=device) for n in lengths])

    def go_on(self, count: int) -> None:
        """The next `count` tokens of the one text."""
        if self._kept is None:
            empty = torch.empty(0, device=self._device)
            self._kept = [empty for _ in range(self._shape.layers)]
        start = len(self._kept[0])
        self._lengths = [count]
        self.positions = torch.arange(start, start + count, device=self._device)
        places = torch.arange(start + count, device=self._device)
        self._mask = places[None] <= self.positions[:, None] if start else None

    def keep(self, layer: int, keys_values: torch.Tensor) -> None:
        self._seen = keys_values
        if self._kept is not None:
            earlier = self._kept[layer]
            if len(earlier):
                self._seen = torch.cat([earlier, keys_values])
            self._kept[layer] = self._seen

    def attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        assert self._seen is not None
        if len(self._lengths) == 1:
            return self._one(queries, self._seen)
        parts = zip(
            torch.split(queries, self._lengths), torch.split(self._seen, self._lengths), strict=True
        )
        return torch.cat([self._one(asked, seen) for asked, seen in parts])

    def _one(self, queries: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        shape = self._shape
        keys, values = seen.view(1, len(seen), 2, shape.kv_heads, -1).transpose(1, 3).unbind(2)
        return attend_one(shape, queries, keys, values, self._mask)
