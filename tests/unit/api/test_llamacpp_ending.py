"""Where llama.cpp's infill ends, piece by piece."""

from __future__ import annotations

import pytest

from codetune.api.dialects.llamacpp_requests import CompletionRequest, Ending, InfillRequest


def said(ending: Ending, *pieces: str) -> tuple[str, bool]:
    texts = []
    for piece in pieces:
        text, ended = ending.push(piece)
        texts.append(text)
        if ended:
            return "".join(texts), True
    return "".join(texts), False


@pytest.mark.parametrize(
    ("indent", "text", "left"),
    [
        (4, "x = 1\n    y = 2\nz = 3", "x = 1\n    y = 2\n"),
        (4, "x\n\n    y\n", "x\n\n    y\n"),  # a blank line says nothing about indentation
        (4, "x\n   y", "x\n"),
        (0, "x\ny", "x\ny"),
        (1, "x\n\ty\nz", "x\n\ty\n"),
        (4, "no indent in the first line", "no indent in the first line"),
    ],
)
def test_a_line_that_is_indented_less_ends_it(indent: int, text: str, left: str) -> None:
    whole = said(Ending(indent, 0), text)
    letters = said(Ending(indent, 0), *text)
    assert whole == letters, "however the text is cut into pieces"
    assert whole[0] == left
    assert whole[1] == (left != text)


def test_after_its_time_the_next_line_break_ends_it() -> None:
    now = 0.0
    ending = Ending(0, 250, lambda: now)
    assert ending.push("a\nb") == ("a\nb", False)
    now = 0.2
    assert ending.push("c\nd") == ("c\nd", False)
    now = 0.3
    assert ending.push("e") == ("e", False)
    assert ending.push("f\ng") == ("f", True)


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({}, (0.8, 40, 0.95, 0.05)),
        ({"temperature": 0.1, "top_p": 0.5}, (0.1, 40, 0.5, 0.05)),
        ({"samplers": ["top_k", "top_p", "infill"], "top_p": 0.9}, (0.0, 40, 0.9, 0.0)),
        ({"samplers": ["top_k"], "top_k": -1}, (1.0, 0, 1.0, 0.0)),
        ({"samplers": ["min_p", "temperature"], "min_p": 0.1}, (0.8, 0, 1.0, 0.1)),
        ({"samplers": []}, (1.0, 0, 1.0, 0.0)),
        ({"samplers": ["infill"], "n_cmpl": 2}, (1.0, 0, 1.0, 0.0)),
    ],
)
def test_only_the_named_samplers_count(
    fields: dict[str, object], sampling: tuple[float, int, float, float]
) -> None:
    query = InfillRequest.model_validate(fields).query([], None)
    assert (query.temperature, query.top_k, query.top_p, query.min_p) == sampling


def test_numbers_that_mean_something_else() -> None:
    query = CompletionRequest(n_predict=-1, seed=-1, stop=["", "x"]).query([], None)
    assert (query.max_tokens, query.seed, list(query.stops)) == (None, None, ["x"])
    assert CompletionRequest(n_predict=0).warms
