"""What a run does when memory runs out or the loss leaves the road, and the record of it.

Out of memory: the passes become smaller (the same documents a step, in the same order), then
activations are computed twice, then, where it is allowed, the base is kept in 8 and in 4 bits.
Diverged: back to the last good checkpoint with half the learning rate, twice at most.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codetune.artifacts import write_json
from codetune.errors import TrainingError
from codetune.models.quantised import Bits
from codetune.progress import Progress
from codetune.training.metrics import Metrics

FILE = "recovery.json"
MOST_ROLLBACKS = 2
_SLOWER = 0.5  # of the learning rate, at each rollback
_SPIKE_STEPS = 3  # in a row
_MEMORY_WORDS = ("allocate memory", "out of memory", "not enough memory", "bad_alloc")


class OutOfMemory(TrainingError):
    """Memory ran out, and smaller passes do not help."""


class Diverged(TrainingError):
    """The loss is not finite, or far above what it was: at `step`, and from step `since` on."""

    def __init__(self, message: str, *, step: int, since: int, advice: str) -> None:
        super().__init__(message, advice=advice)
        self.step, self.since = step, since


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python could not get memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _MEMORY_WORDS)


@dataclass
class Remedies:
    """What has been changed so far; kept in the run's folder, so that a resumed run has it."""

    pieces: int = 1  # that each micro-batch is cut into
    checkpointing: bool = False
    bits: Bits | None = None
    rate: float = 1.0  # times the planned learning rate
    rollbacks: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)


class Recovery:
    """The remedies of one run, applied one after the other and written down."""

    def __init__(self, run: Path, log: logging.Logger, progress: Progress) -> None:
        self._file, self._log, self._progress = run / FILE, log, progress
        self.now = Remedies()
        if self._file.exists():
            self.now = Remedies(**json.loads(self._file.read_text()))
        self._metrics: Metrics | None = None
        self._written = 0

    def attach(self, metrics: Metrics) -> None:
        """Write the events into these metrics, now and from now on."""
        self._metrics, self._written = metrics, metrics.count("recovery")
        self._write()

    def detach(self) -> None:
        """The metrics are about to be closed."""
        self._metrics = None

    def cut_smaller(self, step: int, why: str, accumulation: int) -> None:
        """Twice as many passes a step, each of half the documents."""
        self.now.pieces *= 2
        self._record(
            step,
            why,
            f"passes of half the size, {accumulation * self.now.pieces} a step",
            pieces=self.now.pieces,
            accumulation=accumulation * self.now.pieces,
        )

    def compute_twice(self, step: int, why: str) -> None:
        """Gradient checkpointing."""
        self.now.checkpointing = True
        self._record(step, why, "gradient checkpointing", gradient_checkpointing=True)

    def quantise(self, step: int, error: TrainingError) -> None:
        """Keep the base in 8 bits, then in 4; after that, the error is raised."""
        if self.now.bits == "nf4":
            raise error
        self.now.bits = "nf4" if self.now.bits else "int8"
        self._record(step, error.message, f"the base in {self.now.bits}", bits=self.now.bits)

    def roll_back(self, error: Diverged, to_step: int) -> None:
        """Half the rate from the checkpoint of `to_step` on; the third time the error is raised."""
        if self.now.rollbacks >= MOST_ROLLBACKS:
            raise TrainingError(
                f"{error.message} It was the third time, after {MOST_ROLLBACKS} returns to an "
                "earlier checkpoint with half the rate each.",
                advice=error.advice,
            ) from error
        self.now.rollbacks += 1
        self.now.rate *= _SLOWER
        self._record(
            error.step,
            error.message,
            f"back to step {to_step} with {self.now.rate:g} of the learning rate",
            to_step=to_step,
            rate=self.now.rate,
        )

    def _record(self, step: int, why: str, what: str, **facts: Any) -> None:
        event = {"step": step, "why": why, "what": what, **facts}
        self.now.events.append(event)
        write_json(self._file, asdict(self.now))
        self._log.warning("step %d: %s: %s", step, why, what)
        self._progress.say(f"{why.rstrip('.')}: {what}.")
        self._write()

    def _write(self) -> None:
        if self._metrics is None:
            return
        for event in self.now.events[self._written :]:
            self._metrics.write(kind="recovery", **event)
        self._written = len(self.now.events)


@dataclass
class Watch:
    """Sees a loss that is not finite, or three in a row far above the usual; saved with the run."""

    usual: float | None = None
    high: int = 0  # steps in a row

    def check(self, step: int, loss: float, norm: float) -> None:
        """Look at a step's loss in nats and its gradient's norm.

        Raises:
            Diverged: with what to do if it happens every time.
        """
        advice = (
            "Lower training.learning_rate, or set training.precision=fp32. The last good "
            "checkpoint is kept."
        )
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise Diverged(
                f"Training left the finite numbers at step {step}: loss {loss}, "
                f"gradient norm {norm}.",
                step=step,
                since=step - self.high,
                advice=advice,
            )
        if self.usual is None:
            self.usual = loss
        # Twice the usual, and half a nat: single batches are often hard, three in a row are not.
        self.high = self.high + 1 if loss > 2 * self.usual + 0.5 else 0
        if self.high >= _SPIKE_STEPS:
            raise Diverged(
                f"The loss rose to {loss:.2f} at step {step}, from about {self.usual:.2f}.",
                step=step,
                since=step - self.high + 1,
                advice=advice,
            )
        self.usual = 0.95 * self.usual + 0.05 * loss
