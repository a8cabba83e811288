"""The next token of each sequence of a batch, by its own rules and its own random numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from codetune.models.prompts import Beginning, Pending
from codetune.serving.engine import Sampling

_NUCLEUS = 1024  # candidates that are looked at before the whole vocabulary is sorted


class Chosen(NamedTuple):
    """A token; its log-probability and the likeliest alternatives where they were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """One sequence's rules and random numbers.

    A number is drawn for each token from a generator of its own, so that a seed gives the
    same text whoever else is in the batch.
    """

    def __init__(self, sampling: Sampling, beginning: Beginning | None = None) -> None:
        self.sampling = sampling
        self.pending = Pending(beginning) if beginning is not None else None
        self._random = random.Random(sampling.seed)

    @property
    def greedy(self) -> bool:
        return self.sampling.temperature < 1e-5

    @property
    def bound(self) -> bool:
        """Whether the next token has to agree with the answer's beginning."""
        return self.pending is not None and bool(self.pending.rest)

    def agreeing(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` [vocabulary] without the tokens that would not."""
        assert self.pending is not None
        allowed = torch.from_numpy(self.pending.allowed).to(logits.device)
        return torch.full_like(logits, -torch.inf).index_copy_(0, allowed, logits[allowed])

    def draw(self, logits: torch.Tensor) -> int:
        """A token from the nucleus of `logits` [vocabulary] by inverse transform sampling.

        Candidates are cut by top_k, then min_p, then top_p, on the tempered distribution.
        """
        if self.greedy:
            return int(logits.argmax())
        logits = logits / self.sampling.temperature
        if 0 < self.sampling.top_k < len(logits):
            least = logits.topk(self.sampling.top_k).values[-1]
            logits = logits.masked_fill(logits < least, -torch.inf)
        probabilities = torch.softmax(logits, -1)
        if self.sampling.min_p > 0.0:
            least = probabilities.max() * self.sampling.min_p
            probabilities = probabilities.masked_fill(probabilities < least, 0.0)
            probabilities = probabilities / probabilities.sum()
        point = self._random.random()
        if self.sampling.top_p >= 1.0:
            return _at(probabilities.cumsum(-1), point)
        values, tokens = _nucleus(probabilities, self.sampling.top_p)
        return int(tokens[_at(values.cumsum(-1), point)])


def choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Chosen]:
    """`logits` is [sequences, vocabulary], float32."""
    bound = [row for row, sampler in enumerate(samplers) if sampler.bound]
    if bound:
        logits = logits.clone()
        for row in bound:
            logits[row] = samplers[row].agreeing(logits[row])
    best = logits.argmax(-1).tolist()
    chosen = [
        Chosen(token if sampler.greedy else sampler.draw(logits[row]))
        for row, (token, sampler) in enumerate(zip(best, samplers, strict=True))
    ]
    for row, sampler in enumerate(samplers):
        if sampler.sampling.logprobs is not None:
            chosen[row] = _scored(logits[row], chosen[row].token, sampler.sampling.logprobs)
    return chosen


def _at(cumulated: torch.Tensor, point: float) -> int:
    """The first index whose cumulated weight exceeds the share `point` of the whole."""
    target = cumulated[-1] * point
    return min(int(torch.searchsorted(cumulated, target, right=True)), len(cumulated) - 1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The fewest tokens that hold `top_p` of the probability, the likeliest first."""
    values, tokens = probabilities.topk(min(_NUCLEUS, len(probabilities)))
    cumulated = values.cumsum(-1)
    if cumulated[-1] < top_p and len(values) < len(probabilities):
        values, tokens = probabilities.sort(descending=True)
        cumulated = values.cumsum(-1)
    size = int(torch.searchsorted(cumulated, torch.tensor(top_p))) + 1
    return values[:size], tokens[:size]


def _scored(logits: torch.Tensor, token: int, alternatives: int) -> Chosen:
    scores = torch.log_softmax(logits, -1)
    values, tokens = scores.topk(min(alternatives, len(scores)))
    pairs = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return Chosen(token, float(scores[token]), pairs)
