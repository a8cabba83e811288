"""The embedded engine: continuous batching in one thread.

    schedule (prompts that wait) → run (a stretch of prompt, one step of all) → deliver

Each round takes in waiting requests, reads at most a few stretches of their prompts, and then
gives every running answer its next token, whichever model or adapter it uses.
"""

from __future__ import annotations

import logging
import threading
import time
from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import torch

from codetune.errors import (
    CodetuneError,
    DeadlineError,
    OverloadedError,
    ServingError,
)
from codetune.serving.config import EMBEDDED_ENGINE, ServingOptions
from codetune.serving.engine import Job, Passage, Piece, Servable
from codetune.serving.engines.embedder import Embedder
from codetune.serving.engines.pool import ModelPool
from codetune.serving.engines.runner import STRETCH
from codetune.serving.engines.sampling import Chosen, choose
from codetune.serving.engines.sequence import Sequence
from codetune.serving.engines.waiting import WaitingQueue
from codetune.serving.stats import EngineStats

_log = logging.getLogger(__name__)
_PROMPT_TOKENS = 2 * STRETCH  # read per round while answers are running
# Seconds between deliveries of text: a small model writes a token in less than one millisecond,
# every delivery costs the event loop as much as several tokens cost the model, and nobody sees
# more than fifty in a second.
_PACE = 0.02
_LOADING_POLL = 0.01  # seconds between looks at a model that is being loaded
_IDLE_POLL = 5.0  # seconds between looks at adapters that nobody uses
_DRAIN_POLL = 0.02  # seconds


class LocalEngine:
    """PyTorch in this process: one copy of each base, its adapters, and tuned models."""

    def __init__(self, options: ServingOptions | None = None) -> None:
        self._options = options or ServingOptions()
        self._pool = ModelPool(self._options)
        self._embedder = Embedder(self._pool, self._options)
        self._stats = EngineStats()
        self._queue = WaitingQueue(self._options.max_waiting)
        self._reading: list[Sequence] = []  # with a place, prompt not read
        self._running: list[Sequence] = []
        self._wake = threading.Condition()  # its lock is the queue's, too
        self._has_news = False  # somebody came since the last round
        self._closing = self._closed = False
        self._delivered = 0.0  # when, on the monotonic clock
        self._thread = threading.Thread(target=self._loop, name="codetune-engine", daemon=True)
        self._thread.start()

    def submit(self, jobs: Iterable[Job]) -> list[Sequence]:
        sequences = [Sequence(job) for job in jobs]
        with self._wake:
            if self._closing:
                raise ServingError("The server is shutting down.")
            self._stats.submitted += len(sequences)
            try:
                displaced = self._queue.add(sequences)
            except OverloadedError:
                self._stats.refused += len(sequences)
                raise
            self._has_news = True
            self._wake.notify()
        for sequence, error in displaced:
            self._stats.refused += 1
            sequence.fail(error)
        self._deliver([sequence for sequence, _ in displaced])
        return sequences

    async def embed(self, model: Servable, passages: Collection[Passage]) -> np.ndarray:
        vectors = await self._embedder.embed(model, list(passages))
        self._stats.embedded += len(passages)
        self._stats.embedded_tokens += sum(len(passage.ids) for passage in passages)
        return vectors

    def load(self, model: Servable) -> None:
        self._pool.wait(model)

    def loaded(self) -> set[str]:
        return self._pool.loaded()

    def busy(self) -> dict[str, int]:
        """How many answers are running and waiting."""
        return {
            "running": len(self._running) + len(self._reading),
            "waiting": len(self._queue),
        }

    def stats(self) -> EngineStats:
        models, adapters, usages = self._pool.usage()
        busy = self.busy()
        return replace(
            self._stats,
            running=busy["running"],
            waiting=busy["waiting"],
            models=models,
            adapters=adapters,
            adapter_loads=self._pool.loads,
            adapter_evictions=self._pool.evictions,
            weights_bytes=sum(usage.weights for usage in usages),
            adapters_bytes=sum(usage.adapters for usage in usages),
            cache_bytes=sum(usage.cache for usage in usages),
            prefix_bytes=sum(usage.prefixes for usage in usages),
        )

    def engines(self) -> dict[str, LocalEngine]:
        return {EMBEDDED_ENGINE: self}

    def name_of(self, model: Servable) -> str:
        return EMBEDDED_ENGINE

    def close(self, drain: float = 0.0) -> None:
        with self._wake:
            self._closing = True
            until = time.monotonic() + drain
            while any(self.busy().values()) and (left := until - time.monotonic()) > 0:
                self._wake.wait(min(left, _DRAIN_POLL))
            self._closed = True
            self._wake.notify_all()
        self._embedder.close()
        self._thread.join(timeout=2)
        self._pool.close()

    # The scheduler's thread.

    def _loop(self) -> None:
        with torch.inference_mode():
            while not self._closed:
                self._sleep_until_needed()
                try:
                    self._round()
                except Exception as error:
                    # A defect in one round must not leave every later request unanswered.
                    _log.exception("The engine failed; its running answers are broken off.")
                    self._break_off(ServingError(f"The engine failed: {type(error).__name__}."))
            self._break_off(ServingError("The server is shutting down."))

    def _sleep_until_needed(self) -> None:
        with self._wake:
            if not (self._reading or self._running or self._has_news or self._closed):
                # Who waits while nothing runs waits for a model that is being loaded.
                self._wake.wait(_LOADING_POLL if self._queue else _IDLE_POLL)
            self._has_news = False

    def _round(self) -> None:
        self._sweep()
        self._schedule()
        batches: dict[int, list[Sequence]] = {}
        for sequence in self._running:
            batches.setdefault(id(sequence.runner), []).append(sequence)
        for sequences in batches.values():
            self._step(sequences)
        now = time.monotonic()
        if now - self._delivered >= _PACE:
            self._delivered = now
            self._deliver(self._running)

    def _sweep(self) -> None:
        """Let go of answers that nobody waits for, and of those that took too long."""
        now = time.monotonic()
        with self._wake:
            waiting = list(self._queue)
        for sequence in [*waiting, *self._reading, *self._running]:
            if sequence.cancelled:
                self._stats.cancelled += 1
                self._leave(sequence)
            elif now > sequence.ends_at:
                seconds = sequence.job.deadline
                self._stats.late += 1
                self._leave(
                    sequence, DeadlineError(f"The answer was not ready within {seconds:g} s.")
                )
        self._pool.tidy()

    def _schedule(self) -> None:
        """Give places to those who wait, tenants in turn, and read their prompts."""
        left = _PROMPT_TOKENS
        blocked: set[int] = set()
        places = Counter(sequence.job.tenant for sequence in [*self._reading, *self._running])
        with self._wake:
            waiting = self._queue.order(places)
        for sequence in [*self._reading, *waiting]:
            if left <= 0:
                return
            try:
                if sequence.runner is None and not self._place(sequence, blocked):
                    continue
                left -= self._read(sequence, left)
            except CodetuneError as error:
                self._stats.failed += 1
                self._leave(sequence, error)

    def _place(self, sequence: Sequence, blocked: set[int]) -> bool:
        model = sequence.job.model
        runner = self._pool.acquire(model)
        if runner is None:
            return False
        try:
            placed = id(runner) not in blocked and runner.admit(sequence)
        except BaseException:
            self._pool.release(model)
            raise
        if not placed:
            blocked.add(id(runner))
            self._pool.release(model)
            return False
        sequence.runner = runner
        with self._wake:
            if sequence not in self._queue:  # it has just made room for another tenant's
                runner.remove(sequence, keep=False)
                sequence.runner = None
                self._pool.release(model)
                return False
            self._queue.discard(sequence)
        self._reading.append(sequence)
        self._stats.queue_wait.add(time.monotonic() - sequence.submitted)
        self._stats.prompt_tokens += len(sequence.job.prompt)
        self._stats.reused_tokens += sequence.reused
        self._stats.prefix_hits += sequence.reused > 0
        return True

    def _read(self, sequence: Sequence, left: int) -> int:
        """Read stretches of a prompt; returns how many tokens were read."""
        runner, start = sequence.runner, sequence.cached
        assert runner is not None
        while sequence.cached - start < left:
            logits = runner.prefill(sequence)
            if logits is not None:
                if not bool(torch.isfinite(logits).all()):
                    raise ServingError(
                        f"'{sequence.job.model.id}' cannot answer: it has weights that are not "
                        "numbers, or too large."
                    )
                self._reading.remove(sequence)
                self._running.append(sequence)
                self._stats.first_token.add(time.monotonic() - sequence.submitted)
                self._take(sequence, choose(logits, [sequence.sampler])[0])
                self._deliver([sequence])  # not after all others' prompts, nor at the next pace
                break
        return sequence.cached - start

    def _step(self, sequences: list[Sequence]) -> None:
        """One more token for all sequences of one runner."""
        runner = sequences[0].runner
        assert runner is not None
        self._stats.steps += 1
        self._stats.batch.add(len(sequences))
        logits = runner.decode(sequences)
        for sequence, chosen in zip(
            sequences, choose(logits, [s.sampler for s in sequences]), strict=True
        ):
            self._take(sequence, chosen)

    def _take(self, sequence: Sequence, chosen: Chosen) -> None:
        self._stats.answer_tokens += 1
        if sequence.accept(chosen):
            self._stats.finished += 1
            self._stats.answer_time.add(time.monotonic() - sequence.submitted)
            self._leave(sequence)

    def _leave(self, sequence: Sequence, error: BaseException | None = None) -> None:
        """Free a sequence's place, and tell its listener why if it broke off."""
        with self._wake:
            self._queue.discard(sequence)
            self._queue.ended()
        for group in (self._reading, self._running):
            if sequence in group:
                group.remove(sequence)
        if sequence.runner is not None:
            # What was read before an error may be what the error comes from.
            sequence.runner.remove(sequence, keep=error is None or isinstance(error, DeadlineError))
            sequence.runner = None
            self._pool.release(sequence.job.model)
        if error is not None:
            sequence.fail(error)
        self._deliver([sequence])

    def _break_off(self, error: ServingError) -> None:
        with self._wake:
            waiting = list(self._queue)
        for sequence in [*waiting, *self._reading, *self._running]:
            self._stats.failed += 1
            self._leave(sequence, error)

    def _deliver(self, sequences: list[Sequence]) -> None:
        """One wake-up per event loop and round, however many answers went on."""
        mail: dict[AbstractEventLoop, list[tuple[Sequence, list[Piece | BaseException]]]] = {}
        for sequence in sequences:
            if letters := sequence.letters():
                mail.setdefault(sequence.loop, []).append((sequence, letters))
        for loop, post in mail.items():
            try:
                loop.call_soon_threadsafe(_hand_out, post)
            except RuntimeError:  # the loop was closed: its listeners are gone
                for sequence, _ in post:
                    sequence.cancelled = True


def _hand_out(post: list[tuple[Sequence, list[Piece | BaseException]]]) -> None:
    for sequence, letters in post:
        sequence.receive(letters)
