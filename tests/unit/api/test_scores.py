"""Tokens that are parts of characters, and where they stand."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from codetune.api.dialects.openai_shapes import Completions, scored
from codetune.serving.engine import Finish, Piece, TokenScore

GRIN = [bytes([byte]).decode(errors="surrogateescape") for byte in "😀".encode()]


def test_the_bytes_of_tokens_join_to_the_text() -> None:
    made = [scored(text, -1.0) for text in ["a", *GRIN, "ä"]]
    assert bytes(byte for one in made for byte in one["bytes"]).decode() == "a😀ä"
    assert [one["token"] for one in made] == ["a", *"\ufffd" * 4, "ä"]


def test_offsets_go_on_through_a_stream() -> None:
    """In characters of the answer, and for each answer of its own."""
    run: Any = SimpleNamespace(created=1, model="m")
    shape = Completions(echo=False, with_usage=False)

    def offsets(index: int, *texts: str) -> list[int]:
        scores = tuple(TokenScore(text, -1.0, ((text, -1.0),)) for text in texts)
        (chunk,) = shape.piece(run, index, Piece("", Finish("stop", 1), scores))
        found = json.loads(chunk.removeprefix(b"data: "))["choices"][0]["logprobs"]
        return list(found["text_offset"])

    assert offsets(0, "ab", *GRIN[:2]) == [0, 2, 2]
    assert offsets(1, "x") == [0]
    assert offsets(0, *GRIN[2:], "c", "d") == [2, 2, 3, 4]
