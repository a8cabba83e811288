"""The run's numbers, worked out from options, data and model before anything is loaded twice."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codetune.errors import TrainingError
from codetune.models.tokens import TokenStore
from codetune.training.config import TrainingOptions
from codetune.training.methods import METHODS
from codetune.training.packing import pack
from codetune.training.streams import validation_batches

_LEAST_WINDOW = 1024  # shorter rows would only make the forward passes smaller


@dataclass(frozen=True)
class Plan:
    """What one run will do; everything that its result depends on besides data and seed."""

    window: int  # tokens of a packed row, at most
    rows: int  # an epoch
    rows_per_batch: int  # of one forward pass
    accumulation: int  # forward passes of one optimizer step
    steps: int
    warmup_steps: int
    learning_rate: float
    distillation: float  # the weight of replayed code that the base teaches; 0: it does not
    validate_every: int  # steps
    validation_batches: tuple[tuple[int, ...], ...]  # documents of the validation store
    tokens: int  # of the data, once
    fill: float  # share of the rows' room that is filled


def make_plan(
    train: TokenStore,
    validation: TokenStore,
    options: TrainingOptions,
    *,
    parameters: int,
    shared: bool = False,
) -> Plan:
    """Choose what the options leave open; `shared`: threads share each pass.

    Raises:
        TrainingError: there is nothing to train on, or an example is longer than the window.
    """
    if not len(train) or not train.tokens:
        raise TrainingError(
            "The dataset has no training examples.",
            advice="Add sources, or loosen corpus and dataset options; "
            "`codetune build SOURCE --json` shows what was dropped and why.",
        )
    micro = options.micro_batch_tokens or _micro_batch_tokens(parameters, shared)
    batch = options.batch_tokens or _batch_tokens(train.tokens)
    longest = int(train.lengths.max())
    window = options.window or max(min(_LEAST_WINDOW, batch), longest)
    rows = len(pack(train.lengths, window))
    rows_per_step = _rows_per_step(batch / window)
    fit = max(1, min(micro // window, rows_per_step))  # in a pass
    rows_per_batch = next(count for count in range(fit, 0, -1) if not rows_per_step % count)
    accumulation = rows_per_step // rows_per_batch
    per_epoch = math.ceil(math.ceil(rows / rows_per_batch) / accumulation)
    steps = max(1, math.ceil(options.epochs * per_epoch))
    steps = min(steps, options.max_steps or steps)
    fill = train.tokens / (rows * window)
    seen = min(steps * rows_per_step * window * fill, options.epochs * train.tokens)
    return Plan(
        window=window,
        rows=rows,
        rows_per_batch=rows_per_batch,
        accumulation=accumulation,
        steps=steps,
        warmup_steps=round(options.warmup * steps),
        learning_rate=options.learning_rate
        or METHODS[options.method].learning_rate_for(parameters) * options.learning_rate_scale,
        distillation=_distillation(seen) if options.distillation is None else options.distillation,
        validate_every=options.validate_every or max(1, min(200, math.ceil(steps / 12))),
        validation_batches=validation_batches(
            validation, options.validation_tokens, max(window, micro)
        ),
        tokens=train.tokens,
        fill=fill,
    )


def _rows_per_step(wanted: float) -> int:
    """About so many rows, so that passes of several sizes make up exactly one step.

    What a step learns is the same with each of them: the size of a pass is about memory alone.
    """
    unit = next(unit for unit in (8, 4, 2, 1) if 4 * unit <= wanted or unit == 1)
    return max(1, round(wanted / unit) * unit)


def _distillation(tokens: float) -> float:
    """The more a run learns, the more it forgets, and the more it takes to hold on.

    Measured on nano (docs/results.md): 5 gained more than 10 in a run of 0.65 million tokens, and
    a tenth less than 10 in one of 3 million.
    """
    return min(10.0, max(3.0, tokens / 250_000))


def _batch_tokens(tokens: int) -> int:
    """About a hundred steps an epoch, within 4 k (noise) and 32 k tokens (too few steps)."""
    return 1 << min(15, max(12, round(math.log2(max(1, tokens / 100)))))


def _micro_batch_tokens(parameters: int, shared: bool) -> int:
    """Small models want more tokens a pass to keep each thread busy, large ones less memory."""
    if shared:
        return 8192
    return 4096 if parameters < 100_000_000 else 2048
