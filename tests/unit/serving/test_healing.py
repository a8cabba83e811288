"""Answers that begin with the word at the cursor: nobody sees it, and nothing else changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from codetune.evaluation.generation import Prompt, greedy_answers
from codetune.models.load import load_model, resolve_base
from codetune.models.prompts import Pending
from codetune.registry.cards import Registry
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions
from codetune.serving.engine import Piece
from codetune.serving.engines.local import LocalEngine
from codetune.serving.query import Fim, Query

GAP = Fim("def area(width, height):\n    return wid", "\n\n\nprint(area(2, 3))\n", path="a.py")
ODD = Fim("def area(width, height):\n    return zqx", "\n\nprint(area(2, 3))\n", path="a.py")
DEEP = Fim("def area(width):\n    if width:\n        ", "\n    return 0\n", path="a.py")
OTHER = Fim("import os\n\npath = os.pa", "\nprint(path)\n", path="b.py")


@pytest.fixture
def completer(engines: Callable[..., LocalEngine], tmp_path: Path) -> Completer:
    options = ServingOptions()
    return Completer(engines(), Catalog(Registry(tmp_path), options.base), options)


def ask(completer: Completer, *gaps: Fim, **rules: Any) -> list[list[Piece]]:
    async def one(generation: Any) -> list[Piece]:
        return [piece async for piece in generation]

    async def all_of_them() -> list[list[Piece]]:
        query = Query(list(gaps), **({"temperature": 0.0, "max_tokens": 12} | rules))
        answers = await completer.start(query)
        return await asyncio.gather(*(one(g) for g in answers.generations))

    return asyncio.run(all_of_them())


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_the_server_and_the_scorecard_answer_alike(completer: Completer) -> None:
    """Two implementations of batching and healing, the same tokens."""
    renderer = completer.voice(completer.catalog.resolve(None)).renderer
    base = resolve_base("nano")
    model = load_model(base.path, dtype=torch.float32)
    gaps = (GAP, OTHER, ODD, DEEP)
    served = [text(pieces) for pieces in ask(completer, *gaps)]
    for gap, answer in zip(gaps, served, strict=True):
        opening = renderer.fim_opening(gap.prefix, gap.suffix, path=gap.path)
        assert opening.beginning is not None
        prompt = Prompt(opening.ids, 12, opening.beginning)
        (ids,) = greedy_answers(model, [prompt], renderer.fim_stops)
        pending = Pending(opening.beginning)
        alone = sum(pending.push(token) for token in ids[:10] if pending.rest)
        assert alone or gap in (GAP, OTHER), "tokens of the word alone, and one over the cursor"
        whole = renderer.decode(ids)
        assert whole.startswith(opening.beginning.text)
        assert answer == whole.removeprefix(opening.beginning.text)
    assert served[0] != served[1]


def test_streamed_or_not_alone_or_not_it_is_the_same_text(completer: Completer) -> None:
    together = ask(completer, GAP, OTHER, stream=True)
    alone = [ask(completer, gap, stream=False)[0] for gap in (GAP, OTHER)]
    assert [text(pieces) for pieces in together] == [text(pieces) for pieces in alone]
    assert [p[-1].finish for p in together] == [p[-1].finish for p in alone]


def test_the_word_takes_no_token_from_the_answer(completer: Completer) -> None:
    for most, gap in ((1, GAP), (2, DEEP), (5, ODD), (1, DEEP)):
        (pieces,) = ask(completer, gap, max_tokens=most)
        finish = pieces[-1].finish
        assert finish is not None
        assert finish.tokens <= most
        if finish.reason == "length":
            assert finish.tokens == most
            assert text(pieces).strip()


def test_the_word_is_not_among_the_scores(completer: Completer) -> None:
    (pieces,) = ask(completer, DEEP, logprobs=3)
    scores = [score for piece in pieces for score in piece.scores]
    finish = pieces[-1].finish
    assert finish is not None
    ended = finish.reason == "stop"
    assert len(scores) == finish.tokens - ended
    assert "".join(score.text for score in scores).endswith(text(pieces))
    assert all(score.logprob <= 0 for score in scores)


def test_a_stop_text_is_looked_for_behind_the_cursor(completer: Completer) -> None:
    whole = text(ask(completer, GAP)[0])
    assert text(ask(completer, GAP, stops=["wid"])[0]) == whole.split("wid")[0]
    first = whole[:2]
    assert text(ask(completer, GAP, stops=[first])[0]) == ""


def test_seeds_hold(completer: Completer) -> None:
    rules = {"temperature": 1.0, "seed": 3, "top_p": 0.9}
    assert ask(completer, GAP, **rules) == ask(completer, GAP, **rules)
