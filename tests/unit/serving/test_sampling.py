"""The next token is drawn from the distribution that was asked for."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from codetune.serving.engine import Sampling
from codetune.serving.engines.sampling import Sampler

CHANCES = (0.5, 0.3, 0.15, 0.05)
LOGITS = torch.tensor([math.log(chance) for chance in CHANCES])
DRAWS = 3000


def drawn(seed: int | None = 1, **rules: float) -> Counter[int]:
    sampler = Sampler(Sampling(max_tokens=1, seed=seed, **{"temperature": 1.0, **rules}))  # type: ignore[arg-type]
    return Counter(sampler.draw(LOGITS) for _ in range(DRAWS))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_temperature_says(temperature: float) -> None:
    weights = [chance ** (1 / temperature) for chance in CHANCES]
    counts = drawn(temperature=temperature)
    for token, weight in enumerate(weights):
        expected = weight / sum(weights)
        deviation = math.sqrt(expected * (1 - expected) / DRAWS)
        assert counts[token] / DRAWS == pytest.approx(expected, abs=4 * deviation)


@pytest.mark.parametrize(
    ("top_p", "left"), [(0.0, 1), (0.4, 1), (0.6, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)]
)
def test_top_p_keeps_the_fewest_tokens_that_hold_it(top_p: float, left: int) -> None:
    assert set(drawn(top_p=top_p)) == set(range(left))


def test_what_top_p_keeps_keeps_its_proportions() -> None:
    counts = drawn(top_p=0.75)
    assert counts[0] / counts[1] == pytest.approx(0.5 / 0.3, rel=0.15)


def test_a_seed_is_a_text() -> None:
    def texts(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(max_tokens=1, temperature=1.0, seed=seed))
        return [sampler.draw(LOGITS) for _ in range(60)]

    assert texts(7) == texts(7)
    assert texts(7) != texts(8)
    assert texts(None) != texts(None)


def test_no_temperature_is_the_likeliest() -> None:
    assert set(drawn(temperature=0.0, seed=None)) == {0}


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({"top_k": 1}, 1),
        ({"top_k": 3}, 3),
        ({"top_k": 9}, 4),
        ({"min_p": 0.2}, 3),  # 0.15 is more than a fifth of 0.5
        ({"min_p": 0.5}, 2),
        ({"min_p": 1.0}, 1),
        ({"top_k": 3, "top_p": 0.8}, 2),  # 0.8 of what top_k left
    ],
)
def test_top_k_and_min_p_cut_the_candidates(rules: dict[str, float], left: int) -> None:
    assert set(drawn(**rules)) == set(range(left))
