"""Train: token stores and a base become tuned weights, with the run's log and curves."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import Artifact, run_stage
from codetune.errors import TrainingError
from codetune.models.load import BaseModel, device_and_dtype, load_model
from codetune.models.tokens import TokenStore
from codetune.progress import Progress
from codetune.training.config import TrainingOptions

if TYPE_CHECKING:
    import torch

    from codetune.training.batches import Batch, MicroBatches
    from codetune.training.objective import Objective
    from codetune.training.optimizer import MasterAdamW
    from codetune.training.plan import Plan
    from codetune.training.preflight import Preflight
    from codetune.training.trainer import CodetuneTrainer


def train(
    dataset: Artifact,
    base: BaseModel,
    options: TrainingOptions,
    folder: Path,
    progress: Progress,
) -> Artifact:
    """Tune `base` on the dataset's token store; an interrupted run goes on where it was.

    Artifact: `model/` (an adapter, or a whole model with its tokenizer), `metrics.jsonl`,
    `training.log`, `loss.png`, `preflight.json`.

    Raises:
        WillNotFitError: memory or disk will not do.
        TrainingError: the data is empty, documents cannot be isolated, the loss is not finite.
    """
    inputs = {"dataset": dataset.digest, "base": base.digest}
    return run_stage(
        "train",
        folder,
        options.model_dump(mode="json"),
        inputs,
        lambda run: _Run(dataset, base, options, run, progress).go(),
        resumable=True,
    )


@dataclass(frozen=True)
class _Parts:
    """What a run is made of."""

    objective: Objective
    optimizer: MasterAdamW
    data: MicroBatches
    validation: list[Batch]
    plan: Plan
    device: torch.device


@dataclass
class _Run:
    """One training run in its folder."""

    dataset: Artifact
    base: BaseModel
    options: TrainingOptions
    folder: Path
    progress: Progress

    def go(self) -> Mapping[str, Any]:
        from codetune.interrupt import ends_soon
        from codetune.training.metrics import draw_curve, run_log

        with ends_soon(), run_log(self.folder) as log, _quiet_libraries():
            summary = self._train(log)
            draw_curve(self.folder)
            log.info("finished: %s", summary)
            return summary

    def _train(self, log: logging.Logger) -> Mapping[str, Any]:
        from codetune.training.checkpoints import Checkpoints
        from codetune.training.methods import load_weights, save_model
        from codetune.training.metrics import Metrics
        from codetune.training.trainer import CodetuneTrainer, Outputs, arguments

        options = self.options
        parts = self._assemble(log)
        checkpoints = Checkpoints(self.folder)
        checkpoint = checkpoints.newest()
        facts = self._preflight(parts, again=checkpoint is not None)
        self.progress.say(facts.sentence())
        log.info("%s", facts.sentence())
        resumed = int(checkpoint.name.split("-")[1]) if checkpoint else None
        label = f"Training ({options.method})"
        with (
            closing(Metrics(self.folder, resumed_step=resumed)) as metrics,
            self.progress.task(label, total=parts.plan.steps, unit="steps") as task,
        ):
            trainer = CodetuneTrainer(
                parts.objective,
                parts.data,
                parts.validation,
                arguments(options, parts.plan, self.folder, parts.device.type),
                optimizer=parts.optimizer,
                checkpoints=checkpoints,
                options=options,
                outputs=Outputs(metrics, log, task),
            )
            self._run(trainer, checkpoint)
        model = parts.objective.model
        if trainer.tally.best_step is not None:
            load_weights(model, checkpoints.load_best(trainer.tally.best_step))
        save_model(model, self.base, options, self.folder / "model")
        checkpoints.remove()
        return _summary(trainer, options, facts.parameters, facts.trainable)

    def _assemble(self, log: logging.Logger) -> _Parts:
        """Model, data and optimizer, checked against each other, before the first step."""
        import torch

        from codetune.training.batches import MicroBatches, make_batch
        from codetune.training.methods import prepare, trained
        from codetune.training.objective import Objective
        from codetune.training.optimizer import MasterAdamW
        from codetune.training.plan import make_plan
        from codetune.training.selfcheck import check_objective

        options = self.options
        store, held_out = self._stores()
        device, dtype = self._device_and_dtype()
        torch.manual_seed(options.seed)
        model = prepare(load_model(self.base.path, dtype=dtype, device=device), options)
        parameters = sum(weight.numel() for weight in model.parameters())
        plan = make_plan(store, held_out, options, parameters=parameters)
        objective = Objective(model)
        chosen = check_objective(objective, min(store.vocab_size, objective.vocabulary))
        log.info("%s, %s; %s; %s", device, dtype, chosen, plan)
        return _Parts(
            objective=objective,
            optimizer=MasterAdamW(
                trained(model), lr=plan.learning_rate, weight_decay=options.weight_decay
            ),
            data=MicroBatches(store, plan.window, plan.rows_per_batch, options.seed),
            validation=[make_batch(held_out, part) for part in plan.validation_batches],
            plan=plan,
            device=device,
        )

    def _preflight(self, parts: _Parts, *, again: bool) -> Preflight:
        """The pre-flight, or that of the interrupted run: what fitted then fits now."""
        from codetune.training.preflight import earlier, preflight

        return (earlier(self.folder) if again else None) or preflight(
            parts.objective,
            parts.optimizer,
            parts.data,
            parts.validation,
            parts.plan,
            self.options,
            self.folder,
        )

    def _run(self, trainer: CodetuneTrainer, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            trainer.resume(checkpoint)
            step = trainer.state.global_step
            trainer.outputs.task.advance(step)
            self.progress.say(f"Resuming at step {step}.")
            trainer.outputs.log.info("resuming at step %d", step)
        elif trainer.validation:
            trainer.evaluate()  # the base's own loss: what every later one is compared with
        if trainer.state.global_step < trainer.args.max_steps and not trainer.tally.stopped_early:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.validation and trainer.tally.validated_step != trainer.state.global_step:
            trainer.evaluate()

    def _stores(self) -> tuple[TokenStore, TokenStore]:
        return TokenStore.open(self.dataset / "tokens"), TokenStore.open(
            self.dataset / "validation"
        )

    def _device_and_dtype(self) -> tuple[torch.device, torch.dtype]:
        import torch

        device, dtype = device_and_dtype()
        chosen = {"bf16": torch.bfloat16, "fp32": torch.float32}
        return device, chosen.get(self.options.precision, dtype)


def _summary(
    trainer: CodetuneTrainer, options: TrainingOptions, parameters: int, trainable: int
) -> dict[str, Any]:
    from codetune.training.metrics import peak_memory

    tally = trainer.tally
    if tally.last_loss is None:
        raise TrainingError("The run ended before its first step.")
    return {
        "method": options.method,
        "tokens": tally.tokens,
        "seconds": round(tally.seconds, 2),
        "tokens_per_second": round(tally.tokens / max(tally.seconds, 1e-9), 1),
        "padding_share": tally.padding / max(1, tally.tokens + tally.padding),
        "peak_memory_bytes": max(tally.peak_memory, peak_memory()),
        "loss": {"first": tally.first_loss, "last": tally.last_loss},
        "validation": {"first": tally.first_validation, "best": tally.best_validation},
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "best_step": tally.best_step,
        "stopped_early": tally.stopped_early,
        "parameters": parameters,
        "trainable": trainable,
        "resumed_from": tally.resumed_from,
    }


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """transformers says nothing of its own while it trains; errors still show."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
