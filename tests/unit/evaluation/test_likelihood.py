"""Bits per byte against a calculation by hand: one forward pass a token, nothing shared."""

from __future__ import annotations

import math

import pytest
import torch

from codetune.evaluation.likelihood import Passage, cut_windows, score_passages
from codetune.models.load import BaseModel, load_model
from codetune.models.prompts import Renderer
from codetune.progress import Progress

TEXT = "def add(first, second):\n    return first + second  # größer ✓\n"


@pytest.fixture(scope="module")
def model(base: BaseModel) -> torch.nn.Module:
    return load_model(base.path, dtype=torch.float32)


def passage(text: str, context: str = "", path: str = "a.py", repo: str = "r") -> Passage:
    return Passage(path, path, repo, path, context, text)


def score(
    model: torch.nn.Module, renderer: Renderer, *passages: Passage, window: int = 256
) -> list[float]:
    return score_passages(
        model, renderer, passages, window=window, progress=Progress(), label="score"
    )


def by_hand(model: torch.nn.Module, given: list[int], scored: list[int]) -> float:
    """-sum(log2 p) of the tokens in `scored`, each from its own forward pass."""
    bits = 0.0
    for number, token in enumerate(scored):
        ids = torch.tensor([given + scored[:number]])
        with torch.inference_mode():
            chances = model(ids, use_cache=False).logits[0, -1].double().softmax(-1)
        bits -= math.log2(chances[token])
    return bits


def test_bits_are_those_of_a_calculation_by_hand(
    model: torch.nn.Module, renderer: Renderer
) -> None:
    context = "import os\n"
    given = [*renderer.header("r", "a.py"), *renderer.plain(context)]
    expected = by_hand(model, given, renderer.plain(TEXT))
    [found] = score(model, renderer, passage(TEXT, context))
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected > 50  # the figure means something


def test_context_is_read_but_not_scored(model: torch.nn.Module, renderer: Renderer) -> None:
    with_context, without = (score(model, renderer, passage(TEXT, c))[0] for c in ("x = 1\n", ""))
    assert with_context != pytest.approx(without, rel=1e-4)
    tokens = len(renderer.plain(TEXT))
    for given in ("", "x = 1\n"):
        rows = cut_windows(renderer, [passage(TEXT, given)], 256)
        assert sum(len(row.tokens) - row.scored for row in rows) == tokens


def test_without_a_header_the_first_token_follows_end_of_text(
    model: torch.nn.Module, renderer: Renderer
) -> None:
    bare = passage(TEXT, path="", repo="")
    expected = by_hand(model, [renderer.eos_id], renderer.plain(TEXT))
    assert score(model, renderer, bare)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("window", [64, 65, 96, 250])
@pytest.mark.parametrize("lines", [0, 1, 5, 40])
def test_long_regions_are_scored_once_a_token(renderer: Renderer, window: int, lines: int) -> None:
    region, context = "value = function(1)\n" * 40, "x = 2\n" * lines
    rows = cut_windows(renderer, [passage(region, context)], window)
    scored = [token for row in rows for token in row.tokens[row.scored :]]
    assert scored == renderer.plain(region)
    assert all(len(row.tokens) <= window for row in rows)
    header = renderer.header("r", "a.py")
    for row in rows[1:]:  # every stride reads half of its room
        assert row.tokens[: len(header)] == header
        assert row.scored - len(header) == (window - len(header)) // 2


def test_strides_are_those_of_a_calculation_by_hand(
    model: torch.nn.Module, renderer: Renderer
) -> None:
    region = "value = function(1)\nother = [value]\n" * 3
    rows = cut_windows(renderer, [passage(region)], 64)
    assert len(rows) > 2
    expected = sum(by_hand(model, r.tokens[: r.scored], r.tokens[r.scored :]) for r in rows)
    assert score(model, renderer, passage(region), window=64)[0] == pytest.approx(
        expected, rel=1e-5
    )


def test_company_in_a_batch_changes_nothing(model: torch.nn.Module, renderer: Renderer) -> None:
    passages = [passage(TEXT * n, "x\n" * n, path=f"{n}.py") for n in (1, 3, 2, 7)]
    alone = [score(model, renderer, one)[0] for one in passages]
    assert score(model, renderer, *passages) == pytest.approx(alone, rel=1e-5)
