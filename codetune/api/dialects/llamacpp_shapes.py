"""How llama.cpp's server words answers: contents with the times of reading and of writing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codetune.api.dialects.answering import Run, Whole
from codetune.api.dialects.bodies import event
from codetune.api.dialects.openai_shapes import scored
from codetune.api.errors import Failure
from codetune.api.stream import EVENTS
from codetune.serving.engine import Piece


class Contents:
    """/completion and /infill. A stream ends with the chunk that has `stop`; there is no [DONE]."""

    media_type = EVENTS

    def __init__(
        self,
        *,
        lora: list[dict[str, Any]],
        fields: Sequence[str] | None,
        asked: int | None,
        as_list: bool,
    ) -> None:
        """`fields` are those that the client wants, `a/b` for b of a; None for all."""
        self._lora, self._fields, self._asked, self._as_list = lora, fields, asked, as_list

    def whole(self, run: Run) -> Any:
        made = [self._chosen(self._last(run, n, whole.text)) for n, whole in enumerate(run.wholes)]
        return made if self._as_list else made[0]

    def opening(self, run: Run) -> list[bytes]:
        return []

    def piece(self, run: Run, index: int, piece: Piece) -> list[bytes]:
        if piece.finish:
            return [event(self._chosen(self._last(run, index, piece.text)))]
        chunk = {"index": index, "content": piece.text, "tokens": [], "stop": False}
        counts = {"id_slot": -1, "tokens_evaluated": len(run.prompt(index))}
        return [event(self._chosen({**chunk, **counts}))]

    def closing(self, run: Run) -> list[bytes]:
        return []

    def broken(self, failure: Failure) -> list[bytes]:
        return [event(failure.body("llamacpp"))]

    def _last(self, run: Run, index: int, text: str) -> dict[str, Any]:
        whole, query = run.wholes[index], run.query
        written = whole.finish.tokens
        full = self._asked is not None and written < self._asked and not run.cuts
        stopped, word = whole.finish.reason == "stop", whole.finish.word
        made: dict[str, Any] = {
            "index": index,
            "content": text,
            "tokens": [],
            "id_slot": -1,
            "stop": True,
            "model": run.model,
            "tokens_predicted": written,
            "tokens_evaluated": len(run.prompt(index)),
            "tokens_cached": len(run.prompt(index)) + written,
            "generation_settings": {
                "temperature": query.temperature,
                "top_k": query.top_k,
                "top_p": query.top_p,
                "min_p": query.min_p,
                "n_predict": -1 if self._asked is None else self._asked,
                "stop": list(query.stops),
                "lora": self._lora,
            },
            "stop_type": ("word" if word else "eos") if stopped else "limit",
            "stopping_word": word if stopped else "",
            "truncated": full and not stopped,
            "timings": timings(run, index),
        }
        if whole.scores:
            made["completion_probabilities"] = [
                scored(s.text, s.logprob) | {"top_logprobs": [scored(*t) for t in s.top]}
                for s in whole.scores
            ]
        return made

    def _chosen(self, made: dict[str, Any]) -> dict[str, Any]:
        if self._fields is None:
            return made
        chosen = {}
        for field in self._fields:
            value: Any = made
            for key in field.split("/"):
                value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
            if value is not _MISSING:
                chosen[field] = value
        return chosen


def timings(run: Run, index: int) -> dict[str, Any]:
    """Milliseconds until the first text, and from there to the end."""
    whole: Whole = run.wholes[index]
    read = len(run.prompt(index)) - whole.finish.reused
    written = whole.finish.tokens
    prompt, answer = whole.first * 1000, (whole.last - whole.first) * 1000
    return {
        "cache_n": whole.finish.reused,
        "prompt_n": read,
        "prompt_ms": prompt,
        "prompt_per_token_ms": prompt / read if read else 0.0,
        "prompt_per_second": read / prompt * 1000 if prompt else 0.0,
        "predicted_n": written,
        "predicted_ms": answer,
        "predicted_per_token_ms": answer / written if written else 0.0,
        "predicted_per_second": written / answer * 1000 if answer else 0.0,
    }


_MISSING = object()
