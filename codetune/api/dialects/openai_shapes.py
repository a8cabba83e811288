"""How OpenAI words completions and chats, whole and in a stream."""

from __future__ import annotations

import codecs
import secrets
from abc import ABC, abstractmethod
from collections import defaultdict
from typing import Any, ClassVar

from codetune.api.dialects.answering import Run, Whole
from codetune.api.dialects.bodies import event
from codetune.api.errors import Failure
from codetune.api.stream import EVENTS
from codetune.serving.engine import Piece, TokenScore

DONE = b"data: [DONE]\n\n"


class _Shape(ABC):
    """What completions and chats have in common: one id and time, usage, errors, the end."""

    media_type = EVENTS
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, *, with_usage: bool = False) -> None:
        self._with_usage = with_usage
        self.id = self.prefix + secrets.token_hex(12)

    def whole(self, run: Run) -> dict[str, Any]:
        choices = [self._choice(run, index, whole) for index, whole in enumerate(run.wholes)]
        return {**self._head(run, self.kind), "choices": choices, "usage": usage(run)}

    def opening(self, run: Run) -> list[bytes]:
        choices = [self._first(run, index) for index in range(len(run.wholes))]
        return [self._chunk(run, choice) for choice in choices if choice]

    def piece(self, run: Run, index: int, piece: Piece) -> list[bytes]:
        return [self._chunk(run, choice) for choice in self._choices(index, piece)]

    def closing(self, run: Run) -> list[bytes]:
        if not self._with_usage:
            return [DONE]
        head = self._head(run, self.chunk_kind)
        return [event({**head, "choices": [], "usage": usage(run)}), DONE]

    def broken(self, failure: Failure) -> list[bytes]:
        return [event(failure.body()), DONE]

    def _head(self, run: Run, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": run.created, "model": run.model}

    def _chunk(self, run: Run, choice: dict[str, Any]) -> bytes:
        chunk = {**self._head(run, self.chunk_kind), "choices": [choice]}
        return event(chunk | ({"usage": None} if self._with_usage else {}))

    @abstractmethod
    def _choice(self, run: Run, index: int, whole: Whole) -> dict[str, Any]:
        """A whole answer."""

    @abstractmethod
    def _first(self, run: Run, index: int) -> dict[str, Any] | None:
        """What opens a stream, if anything does."""

    @abstractmethod
    def _choices(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """What a piece of the stream becomes."""


class Completions(_Shape):
    """/v1/completions."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl-"

    def __init__(self, *, echo: bool, with_usage: bool) -> None:
        super().__init__(with_usage=with_usage)
        self._echo = echo
        self._offsets: defaultdict[int, _Offsets] = defaultdict(_Offsets)  # by answer

    def _choice(self, run: Run, index: int, whole: Whole) -> dict[str, Any]:
        text = self._prompt(run, index) + whole.text
        return self._item(index, text, whole.finish.reason, whole.scores)

    def _first(self, run: Run, index: int) -> dict[str, Any] | None:
        prompt = self._prompt(run, index)
        return self._item(index, prompt, None, []) if prompt else None

    def _choices(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        reason = piece.finish.reason if piece.finish else None
        return [self._item(index, piece.text, reason, list(piece.scores))]

    def _prompt(self, run: Run, index: int) -> str:
        return run.prompt_text(index) if self._echo else ""

    def _item(
        self, index: int, text: str, reason: str | None, scores: list[TokenScore]
    ) -> dict[str, Any]:
        logprobs = self._logprobs(index, scores) if scores else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, index: int, scores: list[TokenScore]) -> dict[str, Any]:
        return {
            "tokens": [_shown(score.text) for score in scores],
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [{_shown(t): value for t, value in score.top} for score in scores],
            "text_offset": [self._offsets[index].next(_bytes_of(score.text)) for score in scores],
        }


class _Offsets:
    """Where the tokens of one answer begin, in characters, from chunk to chunk of a stream."""

    def __init__(self) -> None:
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, token: bytes) -> int:
        """Where this token begins; one that goes on with a character begins at it."""
        at = self._at
        self._at += len(self._decoder.decode(token))
        return at


class Chats(_Shape):
    """/v1/chat/completions."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def _choice(self, run: Run, index: int, whole: Whole) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": whole.text, "refusal": None},
            "logprobs": self._logprobs(whole.scores) if whole.scores else None,
            "finish_reason": whole.finish.reason,
        }

    def _first(self, run: Run, index: int) -> dict[str, Any] | None:
        return self._item(index, {"role": "assistant", "content": ""})

    def _choices(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        scores = self._logprobs(list(piece.scores)) if piece.scores else None
        made = []
        if piece.text or scores:
            made.append(self._item(index, {"content": piece.text}, logprobs=scores))
        if piece.finish:
            made.append(self._item(index, {}, piece.finish.reason))
        return made

    def _item(
        self,
        index: int,
        delta: dict[str, str],
        reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, scores: list[TokenScore]) -> dict[str, Any]:
        content = [
            scored(score.text, score.logprob) | {"top_logprobs": [scored(*t) for t in score.top]}
            for score in scores
        ]
        return {"content": content, "refusal": None}


def scored(text: str, value: float) -> dict[str, Any]:
    """A token, its natural log-probability and its bytes."""
    return {"token": _shown(text), "logprob": value, "bytes": list(_bytes_of(text))}


def _bytes_of(text: str) -> bytes:
    """The bytes of a `TokenScore`'s text, which may be parts of characters."""
    return text.encode(errors="surrogateescape")


def _shown(text: str) -> str:
    return _bytes_of(text).decode(errors="replace")


def usage(run: Run) -> dict[str, int]:
    """Tokens of the prompts and of the answers that are complete."""
    prompt, answers = run.prompt_tokens, run.tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answers,
        "total_tokens": prompt + answers,
    }
