"""What a run's manifest says of it."""

from __future__ import annotations

from typing import Any

from codetune.errors import TrainingError
from codetune.training.config import TrainingOptions
from codetune.training.metrics import ends_of_loss, peak_memory
from codetune.training.trainer import CodetuneTrainer


def summary_of(
    trainer: CodetuneTrainer, options: TrainingOptions, parameters: int, trainable: int
) -> dict[str, Any]:
    """The facts of a finished run, for its manifest, card and report.

    Raises:
        TrainingError: no step was taken.
    """
    tally = trainer.tally
    if not trainer.state.global_step:
        raise TrainingError("The run ended before its first step.")
    return {
        "method": options.method,
        # DoRA scales each row of the base: adapters cannot be added up in one batch then.
        "shares_batches": options.method not in ("dora", "full"),
        "tokens": tally.tokens,
        "seconds": round(tally.seconds, 2),
        "tokens_per_second": round(tally.tokens / max(tally.seconds, 1e-9), 1),
        "padding_share": tally.padding / max(1, tally.tokens + tally.padding),
        "peak_memory_bytes": max(tally.peak_memory, peak_memory()),
        "loss": ends_of_loss(trainer.outputs.metrics.path),
        "validation": {"first": tally.first_validation, "best": tally.best_validation},
        "validation_by_stream": {
            name: {"first": tally.first_by_stream.get(name), "best": best}
            for name, best in tally.best_by_stream.items()
        },
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "planned_steps": trainer.args.max_steps,
        "best_step": tally.best_step,
        "stopped_early": tally.stopped_early,
        "parameters": parameters,
        "trainable": trainable,
        "resumed_from": tally.resumed_from,
    }
