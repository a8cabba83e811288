"""Before training: what it will take, measured on the longest batch, and whether it fits."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from codetune.artifacts import write_json
from codetune.errors import WillNotFitError
from codetune.models.architecture import count_parameters
from codetune.models.hardware import machine, memory_available
from codetune.training.batches import Batch, MicroBatches, split
from codetune.training.config import TrainingOptions
from codetune.training.metrics import peak_memory, reset_peak_memory
from codetune.training.optimizer import OPTIMIZERS
from codetune.training.passes import Passes
from codetune.training.plan import Plan
from codetune.training.recovery import OutOfMemory

FILE = "preflight.json"
_RESERVE = 1.1  # allocators do not give back everything between steps
_CHECKPOINTS = 3  # two kept and one being written
_BEST = 3


class TooLittleMemoryError(WillNotFitError):
    """The memory will not do; with a base in fewer bits it may."""


@dataclass(frozen=True)
class Preflight:
    """What a run takes; bytes and seconds."""

    parameters: int
    trainable: int
    trainable_share: float
    tokens: int  # of one epoch
    steps: int
    batch_tokens: int  # of one optimizer step, about
    memory_needed: int  # the process's peak
    memory_limit: int
    disk_needed: int
    disk_free: int
    seconds: float  # of training, about
    tokens_per_second: float

    def sentence(self) -> str:
        """The pre-flight in one line."""
        return (
            f"{self.parameters / 1e6:,.1f} M parameters, {self.trainable_share:.1%} trained; "
            f"{self.steps} steps of {self.batch_tokens:,} tokens; "
            f"memory {_size(self.memory_needed)} of {_size(self.memory_limit)}; "
            f"about {_duration(self.seconds)} at {self.tokens_per_second:,.0f} tokens/s"
        )


def preflight(
    passes: Passes,
    data: MicroBatches,
    validation: list[Batch],
    plan: Plan,
    options: TrainingOptions,
    run: Path,
) -> Preflight:
    """Measure, write preflight.json, make passes smaller if they must be, refuse what cannot fit.

    Two forward and backward passes on the longest batch (the first also sets up the
    libraries), then the longest validation batch, all before any weight changes.

    Raises:
        WillNotFitError: the disk will not do, with what to change.
        TooLittleMemoryError: the memory will not do.
    """
    parameters = count_parameters(passes.objective.model)
    trainable = sum(weight.numel() for weight in passes.optimizer.weights.values())
    limit = options.memory_limit or _limit()
    disk_needed = trainable * (12 * _CHECKPOINTS + 4 * _BEST) + 4 * parameters
    disk_free = shutil.disk_usage(run).free
    if disk_needed > disk_free:
        smaller = "use training.method=lora" if options.method == "full" else "take a smaller base"
        raise WillNotFitError(
            f"Checkpoints need {_size(disk_needed)} of disk, and {run} has {_size(disk_free)}.",
            advice=f"Free some space, set CODETUNE_HOME to another disk, or {smaller}.",
        )
    moments = int(trainable * OPTIMIZERS[options.optimizer].state_bytes)
    longest, row = data.longest(), data.batch_of(data.rows[0])
    while True:
        needed, seconds = _measure(passes, row, longest, validation, limit - moments)
        needed += moments
        if needed <= limit:
            break
        message = f"Training needs about {_size(needed)} of memory; {_size(limit)} can be used"
        if _held() + moments > limit or not _shrunk(passes, longest, message):
            raise TooLittleMemoryError(f"{message}.", advice=_advice(plan, options))
    rate = longest.tokens / seconds
    # Fewer steps than the epochs would take (max_steps) do not make each of them longer.
    whole_step = plan.window * plan.rows_per_batch * plan.accumulation
    batch_tokens = min(plan.tokens * options.epochs / plan.steps, whole_step)
    result = Preflight(
        parameters=parameters,
        trainable=trainable,
        trainable_share=trainable / parameters,
        tokens=plan.tokens,
        steps=plan.steps,
        batch_tokens=round(batch_tokens),
        memory_needed=needed,
        memory_limit=limit,
        disk_needed=disk_needed,
        disk_free=disk_free,
        seconds=plan.steps * batch_tokens / rate,
        tokens_per_second=rate,
    )
    write_json(run / FILE, asdict(result))
    return result


def _measure(
    passes: Passes, row: Batch, longest: Batch, validation: list[Batch], room: int
) -> tuple[int, float]:
    """Bytes that the process needs for the longest batch, and seconds of its passes.

    A row is tried first: when that says that the whole batch would not fit into `room`, the
    whole batch is not tried, and the bytes are an estimate.
    """
    reset_peak_memory()
    start = peak_memory()
    _pass(passes, row)
    pieces = passes.recovery.now.pieces
    share = max(1.0, _largest(longest, pieces) / _largest(row, pieces))
    guess = start + (peak_memory() - start) * share
    if guess > room:
        return int(guess), float("inf")
    seconds = min(_pass(passes, longest) for _ in range(2))
    if validation:
        device = passes.optimizer_device
        passes.summed(max(validation, key=lambda batch: batch.tokens).to(device))
    return int((peak_memory() - start) * _RESERVE) + start, seconds


def _shrunk(passes: Passes, longest: Batch, why: str) -> bool:
    """Make the passes smaller; False if they cannot be."""
    try:
        passes.shrink(longest, why)
    except OutOfMemory:  # its traceback holds the model: it goes no further
        return False
    return True


def _largest(batch: Batch, pieces: int) -> int:
    """Tokens of the largest pass when the batch is cut into so many."""
    return max(part.tokens for part in split(batch, pieces))


def earlier(run: Path) -> Preflight | None:
    """The pre-flight of an interrupted run, which need not be repeated."""
    file = run / FILE
    return Preflight(**json.loads(file.read_text())) if file.exists() else None


def _pass(passes: Passes, batch: Batch) -> float:
    """Seconds of one forward and backward pass that leaves nothing behind."""
    start = time.perf_counter()
    passes.probe(batch)
    if passes.optimizer_device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _advice(plan: Plan, options: TrainingOptions) -> str:
    advice = []
    if plan.rows_per_batch > 1 and not options.recover:
        advice.append(f"training.micro_batch_tokens={plan.window}")
    if not options.gradient_checkpointing and not options.recover:
        advice.append("training.gradient_checkpointing=true")
    if options.method == "full":
        advice.append("training.method=lora")
    if options.method == "lora":
        advice.append("training.method=qlora")
    if options.optimizer == "adamw":
        advice.append("training.optimizer=adafactor")
    if plan.window > 512:
        advice.append("a dataset with a smaller window (dataset.window)")
    return f"Try, in this order: {'; '.join([*advice, 'a smaller base'])}."


def _limit() -> int:
    gpus = machine().gpus
    if gpus:
        return int(torch.cuda.mem_get_info()[0]) + _held()
    return memory_available() + _held()


def _held() -> int:
    """Bytes that the process has now, of the memory that `peak_memory` speaks of."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    import psutil

    return int(psutil.Process().memory_info().rss)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
