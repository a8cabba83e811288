"""Greedy answers in a batch are those of one prompt at a time, and those of transformers."""

from __future__ import annotations

import random

import pytest
import torch

from codetune.evaluation import generation
from codetune.evaluation.generation import Prompt, greedy_answers
from codetune.models.load import BaseModel, load_model


@pytest.fixture(scope="module")
def model(base: BaseModel) -> torch.nn.Module:
    return load_model(base.path, dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    dice = random.Random(5)
    return [
        Prompt([dice.randrange(10, 300) for _ in range(dice.randint(3, 60))], dice.randint(1, 16))
        for _ in range(16)
    ]


def often(model: torch.nn.Module, prompts: list[Prompt]) -> frozenset[int]:
    """Tokens that end some answers early, so that rows leave their batch at different steps."""
    free = greedy_answers(model, prompts, frozenset())
    return frozenset(answer[len(answer) // 2] for answer in free[::3])


def test_a_batch_answers_like_one_at_a_time(model: torch.nn.Module, prompts: list[Prompt]) -> None:
    stops = often(model, prompts)
    together = greedy_answers(model, prompts, stops)
    assert together == [greedy_answers(model, [prompt], stops)[0] for prompt in prompts]
    lengths = {len(answer) for answer in together}
    assert len(lengths) > 5  # rows did leave at different steps
    assert any(len(a) < p.limit for a, p in zip(together, prompts, strict=True))


def test_padding_moves_no_token_to_another_place(prompts: list[Prompt]) -> None:
    """A model with absolute positions notices; one with rotary positions would not."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2}
    absolute = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    with torch.no_grad():
        absolute.transformer.wpe.weight.mul_(20)
    together = greedy_answers(absolute, prompts, frozenset())
    assert together == [greedy_answers(absolute, [p], frozenset())[0] for p in prompts]


def test_answers_are_those_of_transformers(model: torch.nn.Module, prompts: list[Prompt]) -> None:
    stops = often(model, prompts)
    for prompt, answer in list(zip(prompts, greedy_answers(model, prompts, stops), strict=True))[
        :8
    ]:
        out = model.generate(  # type: ignore[operator]
            torch.tensor([prompt.tokens]),
            attention_mask=torch.ones(1, len(prompt.tokens), dtype=torch.long),
            max_new_tokens=prompt.limit,
            do_sample=False,
            eos_token_id=sorted(stops),
            pad_token_id=0,
        )
        expected = out[0, len(prompt.tokens) :].tolist()
        if expected[-1] in stops:
            expected.pop()
        assert answer == expected


def test_small_batches_answer_the_same(
    model: torch.nn.Module, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = greedy_answers(model, prompts, frozenset())
    monkeypatch.setattr(generation, "BATCH_ROWS", 3)
    assert greedy_answers(model, prompts, frozenset()) == expected
    assert greedy_answers(model, prompts, frozenset(), batch_tokens=1) == expected


def test_progress_counts_every_prompt_once(model: torch.nn.Module, prompts: list[Prompt]) -> None:
    told: list[int] = []
    greedy_answers(model, prompts, frozenset(), done=told.append)
    assert sum(told) == len(prompts)


def test_no_room_is_an_empty_answer(model: torch.nn.Module) -> None:
    assert greedy_answers(model, [Prompt([5, 6], 0)], frozenset()) == [[]]
    assert greedy_answers(model, [], frozenset()) == []
