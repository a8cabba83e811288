"""Greedy answers to many prompts at once, the same as one at a time.

In float32 they are the same to the token. In bf16 the size of a batch changes the last bits of
the logits, and of two tokens that are equally likely to three digits another one may win: with
nano, 28 of 32 answers equalled those of float32, and the scores agreed within their intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codetune.models.prompts import Beginning, Pending

if TYPE_CHECKING:
    import torch

# Prompt tokens of one batch: enough to fill the cores, little enough for the key-value cache.
BATCH_TOKENS = 32_768
# Measured with nano on two cores: 8 rows took 0.7 of the time of 32, whose cache is too large
# for the processor's own.
BATCH_ROWS = 8


@dataclass(frozen=True)
class Prompt:
    """Tokens to continue, how many tokens the answer may have, and what it begins with, if so."""

    tokens: list[int]
    limit: int
    beginning: Beginning | None = None


def greedy_answers(
    model: torch.nn.Module,
    prompts: Sequence[Prompt],
    stops: frozenset[int],
    *,
    batch_tokens: int = BATCH_TOKENS,
    done: Callable[[int], None] = lambda count: None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, without its stop token, in their order.

    Prompts of like length share a batch, padded on the left; a row that has finished leaves
    the batch and its key-value cache. `done` is told how many prompts have been answered.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    for batch in _batches(prompts, batch_tokens):
        rows = _Rows(model, [prompts[number] for number in batch], stops)
        while rows.alive:
            done(rows.step())
        for number, answer in zip(batch, rows.answers, strict=True):
            answers[number] = answer
    return answers


def _batches(prompts: Sequence[Prompt], batch_tokens: int) -> list[list[int]]:
    """Numbers of prompts that run together; long answers with long answers."""
    order = sorted(
        (number for number, prompt in enumerate(prompts) if prompt.limit > 0),
        key=lambda number: (-len(prompts[number].tokens), number),
    )
    batches: list[list[int]] = []
    for number in order:
        if batches and len(batches[-1]) < BATCH_ROWS:
            longest = len(prompts[batches[-1][0]].tokens)
            if (len(batches[-1]) + 1) * longest <= batch_tokens:
                batches[-1].append(number)
                continue
        batches.append([number])
    return batches


class _Rows:
    """One batch under way; `alive` holds the numbers of the rows still in the tensors."""

    def __init__(
        self, model: torch.nn.Module, prompts: Sequence[Prompt], stops: frozenset[int]
    ) -> None:
        import torch
        from transformers import DynamicCache

        self.model, self.stops = model, stops
        self.device = next(model.parameters()).device
        self.limits = [prompt.limit for prompt in prompts]
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.pending = [Pending(p.beginning) if p.beginning else None for p in prompts]
        self.alive = list(range(len(prompts)))
        width = max(len(prompt.tokens) for prompt in prompts)
        self.ids = torch.zeros((len(prompts), width), dtype=torch.long)
        self.mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for number, prompt in enumerate(prompts):
            self.ids[number, width - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
            self.mask[number, width - len(prompt.tokens) :] = 1
        self.ids, self.mask = self.ids.to(self.device), self.mask.to(self.device)
        self.places = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.cache: Any = DynamicCache()

    def step(self) -> int:
        """One token for every living row; returns how many rows finished with it."""
        import torch

        with torch.inference_mode():
            logits = self.model(
                input_ids=self.ids,
                attention_mask=self.mask,
                position_ids=self.places,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = self._agreeing(logits).argmax(-1)
            keep = [
                index
                for index, (row, token) in enumerate(zip(self.alive, chosen.tolist(), strict=True))
                if self._take(row, token)
            ]
            finished = len(self.alive) - len(keep)
            self.ids, self.places = chosen[:, None], self.places[:, -1:] + 1
            self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
            if finished and keep:
                kept = torch.tensor(keep, device=self.device)
                self.ids, self.places, self.mask = (
                    self.ids[kept],
                    self.places[kept],
                    self.mask[kept],
                )
                self.cache.batch_select_indices(kept)
            self.alive = [self.alive[index] for index in keep]
        return finished

    def _agreeing(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` [rows, vocabulary] without tokens that contradict an answer's beginning."""
        import torch

        for index, row in enumerate(self.alive):
            pending = self.pending[row]
            if pending is not None and pending.rest:
                allowed = torch.from_numpy(pending.allowed).to(self.device)
                agreeing = torch.full_like(logits[index], -torch.inf)
                agreeing[allowed] = logits[index, allowed]
                logits[index] = agreeing
        return logits

    def _take(self, row: int, token: int) -> bool:
        """Add a token to a row's answer; False when that ended it."""
        if token in self.stops:
            return False
        self.answers[row].append(token)
        pending = self.pending[row]
        if pending is not None and pending.rest and pending.push(token):
            self.limits[row] += 1  # it wrote nothing of the answer itself
        return len(self.answers[row]) < self.limits[row]
