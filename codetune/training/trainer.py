"""The one train loop: the transformers Trainer with our data, loss, optimizer and checkpoints.

What is ours: micro-batches without padding, the chunked loss over isolated documents, float32
masters, checkpoints that are whole or absent, early stopping and the metrics. What is the
Trainer's: epochs, accumulation, schedule, and the places where callbacks and other hardware
hook in.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from codetune.progress import Task
from codetune.training.batches import Batch, MicroBatches
from codetune.training.checkpoints import Checkpoints
from codetune.training.config import TrainingOptions
from codetune.training.metrics import Metrics, peak_memory
from codetune.training.objective import Objective
from codetune.training.optimizer import Masters
from codetune.training.passes import Passes
from codetune.training.plan import Plan
from codetune.training.recovery import Watch
from codetune.training.streams import losses_by_stream


@dataclass
class Tally:
    """What the run has seen so far; saved with each checkpoint."""

    tokens: int = 0  # real ones, trained on
    padding: int = 0  # positions computed without being a token
    seconds: float = 0.0  # in training steps: validation and checkpoints are not in it
    first_validation: float | None = None
    best_validation: float | None = None
    first_by_stream: dict[str, float] = field(default_factory=dict)
    best_by_stream: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    worse: int = 0  # validations in a row without a new best
    validated_step: int | None = None
    stopped_early: bool = False
    peak_memory: int = 0
    resumed_from: list[int] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        if isinstance(self.watch, dict):  # from a checkpoint's JSON
            self.watch = Watch(**self.watch)


@dataclass
class Outputs:
    """Where a run's words go."""

    metrics: Metrics
    log: logging.Logger
    task: Task
    validated: Callable[[int, int, float], None] | None = None  # step, of how many, loss


def arguments(options: TrainingOptions, plan: Plan, run: Path, device: str) -> TrainingArguments:
    """The Trainer's arguments for our options."""
    return TrainingArguments(
        output_dir=str(run / "checkpoints"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=plan.accumulation,
        num_train_epochs=options.epochs,
        max_steps=plan.steps,
        learning_rate=plan.learning_rate,
        warmup_steps=plan.warmup_steps,
        lr_scheduler_type=options.schedule
        if options.schedule != "constant"
        else "constant_with_warmup",
        max_grad_norm=options.clip,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if plan.validation_batches else "no",
        eval_steps=plan.validate_every,
        save_strategy="no",
        seed=options.seed,
        use_cpu=device == "cpu",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=[],
        dataloader_pin_memory=False,
    )


class CodetuneTrainer(Trainer):  # type: ignore[misc]
    """Trains `objective` on packed micro-batches; see the module."""

    def __init__(
        self,
        objective: Objective,
        data: MicroBatches,
        validation: list[Batch],
        args: TrainingArguments,
        *,
        optimizer: Masters,
        passes: Passes,
        checkpoints: Checkpoints,
        options: TrainingOptions,
        outputs: Outputs,
        streams: Sequence[str],
    ) -> None:
        """`streams` names the stream of each validation batch."""
        self.objective, self.data, self.validation = objective, data, validation
        self.streams = streams
        self.masters, self.passes, self.checkpoints = optimizer, passes, checkpoints
        self.options, self.outputs = options, outputs
        self.tally, self.steps = Tally(), _Steps(self)
        self.control: TrainerControl
        super().__init__(
            model=objective.model,
            args=args,
            train_dataset=data,
            eval_dataset=validation or None,
            optimizers=(optimizer, None),
            callbacks=[self.steps],
        )
        self.remove_callback(PrinterCallback)
        # `training_step` divides by the weights of the whole step's labels itself.
        self.loss_is_scaled_for_ga = True

    # -- data and loss -------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            self.data,
            batch_size=1,
            collate_fn=_only,
            # A generator of its own: the loader must not draw from the run's random numbers.
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> float:
        return max(1.0, sum(self.objective.mass(sample["batch"]) for sample in batch_samples))

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | float | None = None,
    ) -> Tensor:
        """The passes of one micro-batch; its share of the step's loss."""
        batch: Batch = inputs["batch"].to(self.args.device)
        assert num_items_in_batch is not None
        model.train()
        loss = self.passes.learn(batch, float(num_items_in_batch))
        self.tally.tokens += batch.tokens
        self.tally.padding += self.objective.padding(batch)
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # the Trainer's estimate knows nothing of our batches

    def _clip_grad_norm(self, model: nn.Module) -> float:
        # The gradients are at the masters, not at the model's weights.
        return self.masters.clip(self.args.max_grad_norm)

    # -- validation ----------------------------------------------------------------------

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean validation loss in nats per token; keeps the best weights."""
        loss, streams = self.validation_loss()
        step, tally = self.state.global_step, self.tally
        best = tally.best_validation is None or loss < tally.best_validation
        if tally.first_validation is None:
            tally.first_validation, tally.first_by_stream = loss, streams
        if best:
            tally.best_validation, tally.best_step, tally.worse = loss, step, 0
            tally.best_by_stream = streams
            self.checkpoints.save_best(step, self.masters.tensors_of_weights())
        else:
            tally.worse += 1
            tally.stopped_early = tally.worse >= self.options.patience
        self.outputs.metrics.write(
            kind="validation", step=step, loss=loss, best=best, streams=streams
        )
        self.outputs.log.info("step %d: validation loss %.4f%s", step, loss, " *" if best else "")
        tally.validated_step = step
        if self.outputs.validated is not None:
            self.outputs.validated(step, self.args.max_steps, loss)
        self.control.should_training_stop |= tally.stopped_early
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, {"eval_loss": loss}
        )
        self.steps.start_clock()
        return {"eval_loss": loss}

    def validation_loss(self) -> tuple[float, dict[str, float]]:
        """The model's mean loss as it is now, and that of each stream, in nats per token."""
        self.model.eval()
        pairs = [self.passes.summed(batch.to(self.args.device)) for batch in self.validation]
        self.model.train()
        loss = sum(total for total, _ in pairs) / max(1, sum(count for _, count in pairs))
        return loss, losses_by_stream(self.streams, pairs)

    # -- checkpoints ---------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.tally.peak_memory = max(self.tally.peak_memory, peak_memory())
        state = {
            "step": self.state.global_step,
            "best_step": self.tally.best_step,
            "tally": asdict(self.tally),
            "schedule": self.lr_scheduler.state_dict(),
            "trainer": asdict(self.state),
        }
        path = self.checkpoints.save(self.state.global_step, self.masters.tensors(), state)
        self.outputs.log.info("step %d: checkpoint %s", self.state.global_step, path.name)

    def resume(self, checkpoint: Path) -> None:
        """Take over a checkpoint: its tally and weights now, the rest when `train` starts."""
        tensors, state = self.checkpoints.load(checkpoint)
        self.masters.restore(tensors)
        self.tally = Tally(**state["tally"])
        self.tally.resumed_from.append(state["step"])
        self.state = TrainerState(**state["trainer"])
        # The Trainer wants to read its own state from a file of its own.
        self.state.save_to_json(str(checkpoint / TRAINER_STATE_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        pass  # the weights come with the optimizer's masters

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        tensors, state = self.checkpoints.load(Path(checkpoint))
        self.masters.restore(tensors)
        self.lr_scheduler.load_state_dict(state["schedule"])
        self._take_planned_rate()
        # The schedule sets the optimizer's rate when it steps: until then it is up to us.
        for group, rate in zip(
            self.masters.param_groups, self.lr_scheduler.get_last_lr(), strict=True
        ):
            group["lr"] = rate

    def _take_planned_rate(self) -> None:
        """After a return to this checkpoint the planned rate is lower than its schedule's."""
        planned = self.args.learning_rate
        before = self.lr_scheduler.base_lrs
        if any(rate != planned for rate in before):
            shares = [
                last / rate
                for last, rate in zip(self.lr_scheduler.get_last_lr(), before, strict=True)
            ]
            self.lr_scheduler.base_lrs = [planned] * len(before)
            self.lr_scheduler._last_lr = [planned * share for share in shares]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.checkpoints.load(Path(checkpoint))


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Counts, writes and watches each step."""

    def __init__(self, trainer: CodetuneTrainer) -> None:
        self.trainer = trainer
        self._started = self._saved = time.monotonic()
        self._tokens_before = 0
        self._save_seconds = 0.0

    def on_epoch_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.data.set_epoch(int(state.epoch or 0))
        self.start_clock()

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.passes.begin(state.global_step + 1)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        now = time.monotonic()
        self.trainer.tally.seconds += now - self._started
        wait = self.trainer.options.checkpoint_seconds
        # Writing may cost a twentieth of the time; nothing to wait for means: every step.
        control.should_save = now - self._saved >= (max(wait, 20 * self._save_seconds) * (wait > 0))

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        trainer, tally = self.trainer, self.trainer.tally
        loss = float(logs["loss"])
        norm = float(logs["grad_norm"])
        if trainer.options.recover or not math.isfinite(loss + norm):
            tally.watch.check(state.global_step, loss, norm)
        # What follows a loss that is high may have left the road: no place to go back to.
        control.should_save &= not tally.watch.high
        tokens = tally.tokens - self._tokens_before
        seconds = time.monotonic() - self._started
        trainer.outputs.metrics.write(
            kind="train",
            step=state.global_step,
            epoch=round(state.epoch or 0.0, 4),
            loss=loss,
            learning_rate=float(logs["learning_rate"]),
            grad_norm=norm,
            tokens=tally.tokens,
            tokens_per_second=round(tokens / max(seconds, 1e-9), 1),
            padding_share=tally.padding / max(1, tally.tokens + tally.padding),
            memory_bytes=peak_memory(),
            seconds=round(tally.seconds, 3),
        )
        rate = tally.tokens / max(tally.seconds, 1e-9)
        trainer.outputs.task.advance(1, note=f"loss {loss:.3f}, {rate:,.0f} tokens/s")
        state.log_history.clear()  # metrics.jsonl has it; this would grow for ever
        self.start_clock()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.monotonic()
        self._save_seconds, self._saved = now - self._started, now
        self.start_clock()

    def start_clock(self) -> None:
        """The next step begins now; what lies between steps is not training time."""
        self._started = time.monotonic()
        self._tokens_before = self.trainer.tally.tokens


def _only(samples: list[Batch]) -> dict[str, Batch]:
    return {"batch": samples[0]}
