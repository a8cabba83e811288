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
from collections import deque
from collections.abc import Iterable

import torch

from codetune.errors import (
    BadRequestError,
    CodetuneError,
    DeadlineError,
    OverloadedError,
    ServingError,
)
from codetune.serving.config import ServingOptions
from codetune.serving.engine import Job, Piece, Servable
from codetune.serving.engines.pool import ModelPool
from codetune.serving.engines.runner import STRETCH
from codetune.serving.engines.sampling import Chosen, choose
from codetune.serving.engines.sequence import Sequence

_log = logging.getLogger(__name__)
_PROMPT_TOKENS = 2 * STRETCH  # read per round while answers are running
# Seconds between deliveries of text: a small model writes a token in less than one millisecond,
# and every delivery costs the event loop as much as several tokens cost the model.
_PACE = 0.01
_LOADING_POLL = 0.01  # seconds between looks at a model that is being loaded


class LocalEngine:
    """PyTorch in this process: one copy of each base, its adapters, and tuned models."""

    def __init__(self, options: ServingOptions | None = None) -> None:
        self._options = options or ServingOptions()
        self._pool = ModelPool(self._options)
        self._inbox: deque[Sequence] = deque()
        self._waiting: list[Sequence] = []  # with the scheduler, without a place
        self._reading: list[Sequence] = []  # with a place, prompt not read
        self._running: list[Sequence] = []
        self._wake = threading.Condition()
        self._closed = False
        self._delivered = 0.0  # when, on the monotonic clock
        self._thread = threading.Thread(target=self._loop, name="codetune-engine", daemon=True)
        self._thread.start()

    def submit(self, jobs: Iterable[Job]) -> list[Sequence]:
        sequences = [Sequence(job) for job in jobs]
        with self._wake:
            if self._closed:
                raise ServingError("The server is shutting down.")
            waiting = len(self._inbox) + len(self._waiting)
            if waiting >= self._options.max_waiting:
                raise OverloadedError(
                    f"{waiting} requests are waiting already.",
                    retry_after=2,
                    advice="Ask again a little later.",
                )
            # What is checked is the queue before: a request for many answers fits an idle server.
            self._inbox.extend(sequences)
            self._wake.notify()
        return sequences

    def load(self, model: Servable) -> None:
        self._pool.wait(model)

    def busy(self) -> dict[str, int]:
        """How many answers are running and waiting."""
        return {
            "running": len(self._running) + len(self._reading),
            "waiting": len(self._inbox) + len(self._waiting),
        }

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
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
            while not (self._inbox or self._reading or self._running or self._closed):
                if self._waiting:
                    self._wake.wait(_LOADING_POLL)
                    break
                self._wake.wait()
            while self._inbox:
                self._waiting.append(self._inbox.popleft())

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
        for sequence in [*self._waiting, *self._reading, *self._running]:
            if sequence.cancelled:
                self._leave(sequence)
            elif now > sequence.ends_at:
                seconds = sequence.job.deadline
                self._leave(
                    sequence, DeadlineError(f"The answer was not ready within {seconds:g} s.")
                )

    def _schedule(self) -> None:
        """Give places to those who wait, in their order, and read their prompts."""
        left = _PROMPT_TOKENS
        blocked: set[int] = set()
        for sequence in [*self._reading, *self._waiting]:
            if left <= 0:
                return
            try:
                if sequence.runner is None and not self._place(sequence, blocked):
                    continue
                left -= self._read(sequence, left)
            except CodetuneError as error:
                self._leave(sequence, error)

    def _place(self, sequence: Sequence, blocked: set[int]) -> bool:
        model = sequence.job.model
        runner = self._pool.acquire(model)
        if runner is None:
            return False
        try:
            placed = id(runner) not in blocked and runner.admit(sequence)
        except BadRequestError:
            self._pool.release(model)
            raise
        if not placed:
            blocked.add(id(runner))
            self._pool.release(model)
            return False
        sequence.runner = runner
        self._waiting.remove(sequence)
        self._reading.append(sequence)
        return True

    def _read(self, sequence: Sequence, left: int) -> int:
        """Read stretches of a prompt; returns how many tokens were read."""
        runner, start = sequence.runner, sequence.cached
        assert runner is not None
        while sequence.cached - start < left:
            logits = runner.prefill(sequence)
            if logits is not None:
                if not bool(torch.isfinite(logits).all()):
                    raise ServingError(f"'{sequence.job.model.id}' gives numbers that are none.")
                self._reading.remove(sequence)
                self._running.append(sequence)
                self._take(sequence, choose(logits, [sequence.sampler])[0])
                break
        return sequence.cached - start

    def _step(self, sequences: list[Sequence]) -> None:
        """One more token for all sequences of one runner."""
        runner = sequences[0].runner
        assert runner is not None
        logits = runner.decode(sequences)
        for sequence, chosen in zip(
            sequences, choose(logits, [s.sampler for s in sequences]), strict=True
        ):
            self._take(sequence, chosen)

    def _take(self, sequence: Sequence, chosen: Chosen) -> None:
        if sequence.accept(chosen):
            self._leave(sequence)

    def _leave(self, sequence: Sequence, error: BaseException | None = None) -> None:
        """Free a sequence's place, and tell its listener why if it broke off."""
        for group in (self._waiting, self._reading, self._running):
            if sequence in group:
                group.remove(sequence)
        if sequence.runner is not None:
            sequence.runner.remove(sequence)
            sequence.runner = None
            self._pool.release(sequence.job.model)
        if error is not None:
            sequence.fail(error)
        self._deliver([sequence])

    def _break_off(self, error: ServingError) -> None:
        with self._wake:
            self._waiting += self._inbox
            self._inbox.clear()
        for sequence in [*self._waiting, *self._reading, *self._running]:
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
