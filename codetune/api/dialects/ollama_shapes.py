"""How Ollama words answers: one JSON object a line, the last with counts and times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from codetune.api.dialects.answering import Run
from codetune.api.dialects.bodies import line
from codetune.api.dialects.openai_shapes import scored
from codetune.api.errors import Failure
from codetune.api.stream import LINES
from codetune.serving.engine import Piece, TokenScore


class Lines:
    """/api/generate and /api/chat."""

    media_type = LINES

    def __init__(self, model: str, *, chat: bool) -> None:
        """`model` is the name as the client wrote it."""
        self._model, self._chat = model, chat

    def whole(self, run: Run) -> dict[str, Any]:
        (whole,) = run.wholes
        return {**self._said(whole.text, whole.scores), **self._end(run)}

    def opening(self, run: Run) -> list[bytes]:
        return []

    def piece(self, run: Run, index: int, piece: Piece) -> list[bytes]:
        scores = list(piece.scores)
        if piece.finish is None:
            return [line({**self._said(piece.text, scores), "done": False})]
        # The last line says nothing: clients read only the counts from it.
        said = [{**self._said(piece.text, scores), "done": False}] if piece.text else []
        return [line(made) for made in [*said, {**self._said("", []), **self._end(run)}]]

    def closing(self, run: Run) -> list[bytes]:
        return []

    def broken(self, failure: Failure) -> list[bytes]:
        return [line(failure.body("ollama"))]

    def _said(self, text: str, scores: list[TokenScore]) -> dict[str, Any]:
        head: dict[str, Any] = {"model": self._model, "created_at": instant()}
        if self._chat:
            head["message"] = {"role": "assistant", "content": text}
        else:
            head["response"] = text
        if scores:
            head["logprobs"] = [
                scored(s.text, s.logprob) | {"top_logprobs": [scored(*t) for t in s.top]}
                for s in scores
            ]
        return head

    def _end(self, run: Run) -> dict[str, Any]:
        (whole,) = run.wholes
        return {
            "done": True,
            "done_reason": whole.finish.reason,
            "total_duration": round(whole.last * 1e9),
            "load_duration": 0,
            "prompt_eval_count": run.prompt_tokens,
            "prompt_eval_duration": round(whole.first * 1e9),
            "eval_count": whole.finish.tokens,
            "eval_duration": round((whole.last - whole.first) * 1e9),
        }


def instant() -> str:
    """Now, as RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
