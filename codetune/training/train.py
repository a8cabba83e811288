"""Train: token stores and a base become tuned weights, with the run's log and curves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.artifacts import Artifact, run_stage
from codetune.errors import TrainingError
from codetune.models.load import BaseModel, device_and_dtype
from codetune.models.nano.general import replay_digest
from codetune.models.quantised import quiet_bitsandbytes
from codetune.models.tokens import TokenStore
from codetune.progress import Progress
from codetune.training.config import TrainingOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from codetune.training.batches import Batch, MicroBatches
    from codetune.training.checkpoints import Checkpoints
    from codetune.training.objective import Objective
    from codetune.training.optimizer import Masters
    from codetune.training.passes import Passes
    from codetune.training.plan import Plan
    from codetune.training.preflight import Preflight
    from codetune.training.recovery import Recovery
    from codetune.training.retention import Retention
    from codetune.training.trainer import CodetuneTrainer


VERSION = 1  # raised when the same inputs give another model


@dataclass(frozen=True)
class Trial:
    """What makes a run one of several that are compared."""

    validation: Artifact  # the dataset whose validation store is scored, instead of the run's own
    # Told of each validation: step, of how many, loss in nats per token. False gives the run up.
    report: Callable[[int, int, float], bool] | None = None


class GivenUpError(Exception):
    """The run was not worth going on with, says its trial's `report`; its checkpoints are gone."""


def train(
    dataset: Artifact,
    base: BaseModel,
    options: TrainingOptions,
    folder: Path,
    progress: Progress,
    *,
    trial: Trial | None = None,
) -> Artifact:
    """Tune `base` on the dataset's token store; an interrupted run goes on where it was.

    Artifact: `model/` (an adapter, or a whole model with its tokenizer), `metrics.jsonl`,
    `training.log`, `loss.png`, `preflight.json`.

    Raises:
        WillNotFitError: memory or disk will not do.
        TrainingError: the data is empty, documents cannot be isolated, the loss is not finite.
        GivenUpError: `trial` said so.
    """
    inputs = {"dataset": dataset.digest, "base": base.digest}
    if trial is not None and trial.validation.digest != dataset.digest:
        inputs["validation"] = trial.validation.digest
    if base.parent is not None:
        inputs["parent"] = base.parent.digest
    if options.forgetting_limit is not None:
        inputs["general"] = replay_digest()
    made = run_stage(
        "train",
        folder,
        options.model_dump(mode="json") | {"version": VERSION},
        inputs,
        lambda run: _Run(dataset, base, options, run, progress, trial).go(),
        resumable=True,
    )
    if (made / "checkpoints").exists():
        from codetune.training.checkpoints import Checkpoints

        # Whatever went wrong before would have cost no step: the next run only finishes.
        Checkpoints(made.path).remove()
    return made


@dataclass(frozen=True)
class _Parts:
    """What a run is made of."""

    objective: Objective
    optimizer: Masters
    passes: Passes
    data: MicroBatches
    validation: list[Batch]
    streams: list[str]  # of each validation batch
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
    trial: Trial | None = None

    def go(self) -> Mapping[str, Any]:
        from codetune.interrupt import ends_soon
        from codetune.training.metrics import draw_curve, run_log

        with ends_soon(), run_log(self.folder) as log, _quiet_libraries():
            summary = self._train(log)
            draw_curve(self.folder)
            log.info("finished: %s", summary)
            return summary

    def _train(self, log: logging.Logger) -> Mapping[str, Any]:
        """Attempts, each with the remedies that the ones before it asked for."""
        from codetune.training.checkpoints import Checkpoints
        from codetune.training.preflight import TooLittleMemoryError
        from codetune.training.recovery import Diverged, OutOfMemory, Recovery, is_out_of_memory

        recovery = Recovery(self.folder, log, self.progress)
        checkpoints = Checkpoints(self.folder)
        while True:
            trouble: TrainingError
            try:
                return self._attempt(log, checkpoints, recovery)
            except (Diverged, OutOfMemory, TooLittleMemoryError) as error:
                if not self.options.recover:
                    raise
                trouble = error.with_traceback(None)  # which holds the attempt's tensors
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                trouble = OutOfMemory(
                    "Out of memory outside the passes.",
                    advice="Use training.optimizer=adafactor, training.method=lora, or a "
                    "smaller base.",
                )
            self._mend(trouble, checkpoints, recovery)

    def _mend(self, trouble: TrainingError, checkpoints: Checkpoints, recovery: Recovery) -> None:
        """Prepare the next attempt, or raise what cannot be mended."""
        from codetune.training.recovery import Diverged

        if isinstance(trouble, Diverged):
            # The weights that gave the first bad loss came from the step before it: that one's
            # checkpoint is bad, too.
            recovery.roll_back(trouble, checkpoints.roll_back(before=trouble.since - 1))
            return
        if not self.options.allow_quantised_fallback or self.options.method != "lora":
            raise trouble
        recovery.quantise(0, trouble)

    def _attempt(
        self, log: logging.Logger, checkpoints: Checkpoints, recovery: Recovery
    ) -> Mapping[str, Any]:
        from codetune.training.methods import keep_template, load_weights, save_model
        from codetune.training.metrics import Metrics
        from codetune.training.summary import summary_of
        from codetune.training.trainer import CodetuneTrainer, Outputs, arguments

        options = self.options
        parts = self._assemble(log, recovery)
        checkpoint = checkpoints.newest()
        again = checkpoint is not None or recovery.now.rollbacks > 0
        facts = self._preflight(parts, again=again)
        self.progress.say(facts.sentence())
        log.info("%s", facts.sentence())
        resumed = int(checkpoint.name.split("-")[1]) if checkpoint else None
        label = f"Training ({options.method})"
        with (
            closing(Metrics(self.folder, resumed_step=resumed)) as metrics,
            self.progress.task(label, total=parts.plan.steps, unit="steps") as task,
        ):
            recovery.attach(metrics)
            trainer = CodetuneTrainer(
                parts.objective,
                parts.data,
                parts.validation,
                arguments(options, parts.plan, self.folder, parts.device.type),
                optimizer=parts.optimizer,
                passes=parts.passes,
                checkpoints=checkpoints,
                options=options,
                outputs=Outputs(metrics, log, task, self._validated),
                streams=parts.streams,
            )
            try:
                self._run(trainer, checkpoint)
            except GivenUpError:
                checkpoints.remove()
                raise
            finally:
                recovery.detach()
        model = parts.objective.model
        parts.optimizer.forget_moments()
        weights = None
        if trainer.tally.best_step == 0:
            self.progress.say(
                "No step was better than the base on the validation set: the base's weights are "
                "kept. Try a lower training.learning_rate, or more data."
            )
        if trainer.tally.best_step is not None:
            weights = checkpoints.load_best(trainer.tally.best_step)
            load_weights(model, weights)
        retention = self._retain(parts, weights, log)
        saved, by_stream = trainer.tally.best_validation, trainer.tally.best_by_stream
        if trainer.validation and retention is not None and not retention.whole:
            saved, by_stream = trainer.validation_loss()
        save_model(model, self.base, options, self.folder / "model")
        keep_template(self.dataset.path, self.base.parent, self.folder / "model")
        summary = summary_of(trainer, options, facts.parameters, facts.trainable)
        summary["validation"]["saved"] = saved
        for name, loss in by_stream.items():
            summary["validation_by_stream"][name]["saved"] = loss
        kept = asdict(retention) if retention else None
        return {**summary, "retention": kept, "recovery": recovery.now.events}

    def _assemble(self, log: logging.Logger, recovery: Recovery) -> _Parts:
        """Model, data and optimizer, checked against each other, before the first step."""
        import torch

        from codetune.models.architecture import count_parameters
        from codetune.training.batches import MicroBatches, make_batch
        from codetune.training.methods import load_base, prepare, trained
        from codetune.training.objective import make_objective
        from codetune.training.optimizer import make_optimizer
        from codetune.training.passes import Passes
        from codetune.training.plan import make_plan
        from codetune.training.selfcheck import check_objective
        from codetune.training.streams import names_of
        from codetune.training.threads import Threads

        options = self.options
        store, held_out = self._stores()
        device, dtype = self._device_and_dtype()
        torch.manual_seed(options.seed)
        loaded = load_base(self.base, options, dtype=dtype, device=device, bits=recovery.now.bits)
        parameters = count_parameters(loaded)
        model = prepare(loaded, options, parent=self.base.parent)
        threads = Threads.of(model)
        plan = make_plan(
            store, held_out, options, parameters=parameters, shared=threads is not None
        )
        plan = replace(plan, learning_rate=plan.learning_rate * recovery.now.rate)
        objective = make_objective(model, base_teaches=plan.distillation > 0)
        longest = max(int(s.lengths.max()) for s in (store, held_out) if len(s))
        chosen = check_objective(objective, min(store.vocab_size, objective.vocabulary), longest)
        log.info("%s, %s; %s; %s", device, dtype, chosen, plan)
        optimizer = make_optimizer(
            options.optimizer,
            trained(model),
            lr=plan.learning_rate,
            weight_decay=options.weight_decay,
        )
        return _Parts(
            objective=objective,
            optimizer=optimizer,
            passes=Passes(
                objective,
                optimizer,
                recovery,
                accumulation=plan.accumulation,
                recover=options.recover,
                checkpointing=options.gradient_checkpointing,
                threads=threads,
            ),
            data=MicroBatches(
                store,
                plan.window,
                plan.rows_per_batch,
                options.seed,
                options.gap_weight,
                plan.distillation if objective.base_teaches else None,
            ),
            validation=[make_batch(held_out, part) for part in plan.validation_batches],
            streams=names_of(held_out, plan.validation_batches),
            plan=plan,
            device=device,
        )

    def _retain(
        self, parts: _Parts, weights: dict[str, Tensor] | None, log: logging.Logger
    ) -> Retention | None:
        """Go back towards the base as far as the forgetting limit asks for."""
        from codetune.training.retention import retain

        plan = parts.plan
        kept = retain(
            parts.passes,
            parts.data.store,
            self.base,
            self.options,
            weights,
            self.progress,
            window=plan.window,
            tokens=plan.window * plan.rows_per_batch,
        )
        log.info("%s", kept)
        if kept is None and self.options.forgetting_limit is not None:
            self.progress.say(
                "The forgetting limit is not held: it is for neither DoRA nor encoder-decoders."
            )
        if kept is not None and not kept.whole:
            part = "all" if kept.share == 1 else f"{kept.share:.0%}"
            self.progress.say(
                f"General code cost {kept.trained / kept.base - 1:+.1%}: {part} of the change but "
                f"what acts on it is kept, which costs {kept.kept / kept.base - 1:+.1%}."
            )
        return kept

    def _preflight(self, parts: _Parts, *, again: bool) -> Preflight:
        """The pre-flight, or that of the interrupted run: what fitted then fits now."""
        from codetune.training.preflight import earlier, preflight

        return (earlier(self.folder) if again else None) or preflight(
            parts.passes,
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
            trainer.outputs.task.resume(step)
            self.progress.say(f"Resuming at step {step}.")
            trainer.outputs.log.info("resuming at step %d", step)
        elif trainer.validation:
            trainer.evaluate()  # the base's own loss: what every later one is compared with
        if trainer.state.global_step < trainer.args.max_steps and not trainer.tally.stopped_early:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.validation and trainer.tally.validated_step != trainer.state.global_step:
            trainer.evaluate()

    def _stores(self) -> tuple[TokenStore, TokenStore]:
        scored = self.dataset if self.trial is None else self.trial.validation
        return TokenStore.open(self.dataset / "tokens"), TokenStore.open(scored / "validation")

    def _validated(self, step: int, steps: int, loss: float) -> None:
        """Tell the trial that this run belongs to, if there is one."""
        report = self.trial.report if self.trial is not None else None
        if report is not None and not report(step, steps, loss):
            raise GivenUpError(f"Given up after step {step} of {steps}.")

    def _device_and_dtype(self) -> tuple[torch.device, torch.dtype]:
        import torch

        device, dtype = device_and_dtype()
        chosen = {"bf16": torch.bfloat16, "fp32": torch.float32}
        return device, chosen.get(self.options.precision, dtype)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Libraries say nothing of their own while a run trains; errors still show."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with quiet_bitsandbytes():
            yield
    finally:
        transformers_logging.set_verbosity(level)
