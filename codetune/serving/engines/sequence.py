"""One answer under way: its tokens, its text, and the listener in an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from codetune.serving.engine import Finish, FinishReason, Job, Piece, TokenScore
from codetune.serving.engines.listening import Events, heard
from codetune.serving.engines.sampling import Chosen, Sampler
from codetune.serving.text import AnswerEnd, TextStream

if TYPE_CHECKING:
    from codetune.serving.engines.runner import Runner


class Sequence:
    """What the scheduler knows of one answer; also the `Generation` that its listener holds."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.loop = asyncio.get_running_loop()
        self.ids = list(job.prompt)
        self.sampler = Sampler(job.sampling, job.beginning)
        self.cancelled = False
        self.submitted = time.monotonic()
        self.ends_at = self.submitted + job.deadline
        self.runner: Runner | None = None
        self.row = -1
        self.cached = 0  # tokens whose keys and values are stored
        self.reused = 0  # … of them, not computed for this answer
        self.first: float | None = None  # seconds from submission to the first token
        self._letters: list[Piece | BaseException] = []
        self._queue: Events = asyncio.Queue()
        self._text = TextStream(job.decode)
        self._healed = 0  # tokens that wrote nothing but the answer's beginning
        self._hidden = len(job.beginning.text) if job.beginning else 0  # characters of it to come
        rules = job.sampling
        self._end = AnswerEnd(rules.stops, rules.gap)
        # Nobody sees the text before its end and nothing in it ends it: decode it once, then.
        self._late = not job.stream and not rules.stops and not rules.gap
        self._parts: list[str] = []
        self._scores: list[TokenScore] = []

    @property
    def generated(self) -> int:
        return len(self.ids) - len(self.job.prompt) - self._healed

    @property
    def prompt_tokens(self) -> None:
        """As everybody here counts them."""
        return

    @property
    def adapter(self) -> str | None:
        """The key of the adapter that its rows use; None for plain weights."""
        return self.job.model.key if self.job.model.kind == "adapter" else None

    @property
    def prefilled(self) -> bool:
        """Whether the whole prompt has been read."""
        return self.cached >= len(self.job.prompt)

    @property
    def most(self) -> int:
        """The most tokens that prompt and answer can have."""
        healed = len(self.job.beginning.bytes) if self.job.beginning else 0
        return len(self.job.prompt) + healed + self.job.sampling.max_tokens

    # In the scheduler's thread.

    def accept(self, chosen: Chosen) -> bool:
        """Take the next token; True when the answer is complete."""
        self.ids.append(chosen.token)
        if self.first is None:
            self.first = time.monotonic() - self.submitted
        if chosen.token in self.job.sampling.stop_ids:
            return self._finish("stop")
        healing = self.sampler.bound and self._heal(chosen.token)
        if chosen.logprob is not None and not healing:
            self._scores.append(self._score(chosen))
        if not self._late:
            self._show(self._end.push(self._seen(self._text.push(chosen.token))))
            if self._end.stopped:
                return self._finish("stop")
        if self.generated >= self.job.sampling.max_tokens:
            return self._finish("length")
        return False

    def _heal(self, token: int) -> bool:
        """Whether a token wrote nothing but the answer's beginning; then it does not count."""
        pending = self.sampler.pending
        assert pending is not None
        healing = pending.push(token)
        self._healed += healing
        return healing

    def _seen(self, text: str) -> str:
        """`text` without what of it belongs to the answer's beginning."""
        hidden, self._hidden = self._hidden, max(0, self._hidden - len(text))
        return text[hidden:]

    def fail(self, error: BaseException) -> None:
        """Break off: the listener gets `error`."""
        self._letters.append(error)

    def letters(self) -> list[Piece | BaseException]:
        """What the listener has not been given yet; text that nobody streams waits for its end."""
        if self.job.stream:
            self._flush()
        letters, self._letters = self._letters, []
        return letters

    def _finish(self, reason: FinishReason) -> bool:
        if self._late:
            answer = self.ids[len(self.job.prompt) :]
            self._show(self._seen(self.job.decode(answer[:-1] if reason == "stop" else answer)))
        elif not self._end.stopped:
            self._show(self._end.push(self._seen(self._text.end())))
            # The last half character may have completed a stop string.
            if not self._end.stopped:
                self._show(self._end.end(unfinished=reason == "length"))
        finish = Finish(
            reason, self.generated, reused=self.reused, first=self.first, word=self._end.word
        )
        self._flush(finish)
        return True

    def _show(self, text: str) -> None:
        if text:
            self._parts.append(text)

    def _flush(self, finish: Finish | None = None) -> None:
        if self._parts or self._scores or finish:
            piece = Piece("".join(self._parts), finish, tuple(self._scores))
            self._parts, self._scores = [], []
            self._letters.append(piece)

    def _score(self, chosen: Chosen) -> TokenScore:
        top = tuple((self._written(token), value) for token, value in chosen.top)
        return TokenScore(self._written(chosen.token), chosen.logprob or 0.0, top)

    def _written(self, token: int) -> str:
        if self.job.decode_bytes is None:
            return self.job.decode([token])
        return self.job.decode_bytes([token]).decode(errors="surrogateescape")

    # In the event loop.

    def receive(self, events: list[Piece | BaseException]) -> None:
        for event in events:
            self._queue.put_nowait(event)

    def __aiter__(self) -> AsyncIterator[Piece]:
        return heard(self._queue, self.cancel)

    def cancel(self) -> None:
        self.cancelled = True
