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
from codetune.models.hardware import machine, memory_available
from codetune.training.batches import Batch, MicroBatches, make_batch
from codetune.training.config import TrainingOptions
from codetune.training.metrics import peak_memory, reset_peak_memory
from codetune.training.objective import Objective
from codetune.training.optimizer import MasterAdamW
from codetune.training.plan import Plan

FILE = "preflight.json"
_MOMENTS = 8  # bytes of AdamW's two moments a weight
_RESERVE = 1.1  # allocators do not give back everything between steps
_CHECKPOINTS = 3  # two kept and one being written
_BEST = 3


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
    objective: Objective,
    optimizer: MasterAdamW,
    data: MicroBatches,
    validation: list[Batch],
    plan: Plan,
    options: TrainingOptions,
    run: Path,
) -> Preflight:
    """Measure, write preflight.json, and refuse what will not fit.

    Two forward and backward passes on the longest batch (the first also sets up the
    libraries), then the longest validation batch, all before any weight changes.

    Raises:
        WillNotFitError: memory or disk will not do, with what to change.
    """
    parameters = sum(weight.numel() for weight in objective.model.parameters())
    trainable = sum(weight.numel() for weight in optimizer.weights.values())
    limit = options.memory_limit or _limit()
    disk_needed = trainable * (12 * _CHECKPOINTS + 4 * _BEST) + 4 * parameters
    disk_free = shutil.disk_usage(run).free
    if disk_needed > disk_free:
        raise WillNotFitError(
            f"Checkpoints need {_size(disk_needed)} of disk, and {run} has {_size(disk_free)}.",
            advice="Free some space, set CODETUNE_HOME to another disk, or use "
            "training.method=lora.",
        )
    longest = make_batch(data.store, data.longest())
    moments = trainable * _MOMENTS
    reset_peak_memory()
    start = peak_memory()
    # A row first: what it takes says whether the whole batch may be tried at all.
    row = make_batch(data.store, data.rows[0])
    _pass(objective, optimizer, row)
    guess = start + (peak_memory() - start) * max(1.0, longest.tokens / row.tokens) + moments
    _check_memory(int(guess), limit, plan, options)
    seconds = min(_pass(objective, optimizer, longest) for _ in range(2))
    if validation:
        with torch.no_grad():
            objective.summed(max(validation, key=lambda batch: batch.tokens).to(_device(objective)))
    needed = int((peak_memory() - start) * _RESERVE) + start + moments
    _check_memory(needed, limit, plan, options)
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


def earlier(run: Path) -> Preflight | None:
    """The pre-flight of an interrupted run, which need not be repeated."""
    file = run / FILE
    return Preflight(**json.loads(file.read_text())) if file.exists() else None


def _pass(objective: Objective, optimizer: MasterAdamW, batch: Batch) -> float:
    """Seconds of one forward and backward pass that leaves nothing behind."""
    device = _device(objective)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        objective.model.train()
        objective.loss(batch.to(device)).backward()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    optimizer.zero_grad(set_to_none=True)
    objective.model.zero_grad(set_to_none=True)
    return seconds


def _check_memory(needed: int, limit: int, plan: Plan, options: TrainingOptions) -> None:
    if needed <= limit:
        return
    advice = []
    if plan.rows_per_batch > 1:
        advice.append(f"training.micro_batch_tokens={plan.window}")
    if not options.gradient_checkpointing:
        advice.append("training.gradient_checkpointing=true")
    if options.method == "full":
        advice.append("training.method=lora")
    if plan.window > 512:
        advice.append("a dataset with a smaller window (dataset.window)")
    raise WillNotFitError(
        f"Training needs about {_size(needed)} of memory; {_size(limit)} can be used.",
        advice=f"Try, in this order: {'; '.join([*advice, 'a smaller base'])}.",
    )


def _limit() -> int:
    gpus = machine().gpus
    if gpus:
        return int(torch.cuda.mem_get_info()[0]) + int(torch.cuda.memory_allocated())
    return memory_available() + _resident()


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _device(objective: Objective) -> torch.device:
    return next(objective.model.parameters()).device


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
