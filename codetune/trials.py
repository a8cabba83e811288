"""Trials of a journey: which options a search varies, and on what all trials are compared.

**One validation set for all.** A trial's own validation text is rendered with its own share of
fill-in-the-middle examples, so its loss says nothing about another trial's. Every trial is
therefore scored, stopped and rewound to its best step on the validation store of one more
dataset, the yardstick: the same files that are held out in each trial's own dataset, with
fill-in-the-middle examples in the share that the options as given have. Base and tokenizer are
the same in all trials, so nats per token compare as bits per byte would.

**Forgetting counts.** On the repository's code alone, the trial with the least replayed general
code would win, and then fail the gate. So a trial's result is the loss of the model that it
saves, after its weights went back as far as `training.forgetting_limit` asks for: who forgets
more goes back further. Losses in mid-run are those before that; they only decide which trials
are stopped. Without that limit the share of replayed code is not varied.

**No trial trains on it.** Which files are held out does not depend on what is varied, with one
exception: a held-out file that resembles replayed code goes back to training. The yardstick is
made with the largest replay share of all, so that what is left in it resembles none of it. Of a
set mixed in, the first rows of its lot are held out, whatever else is in the data, and more of them
for a larger share: there the yardstick has the smallest one. What the scorecard is made of is
touched by none of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

from codetune.errors import ConfigError, WillNotFitError
from codetune.project import ProjectConfig
from codetune.search.space import EPOCHS, FIM_RATE, LEARNING_RATE, MIX, RANK, REPLAY, Parameter
from codetune.search.space import make_space as _make_space

if TYPE_CHECKING:
    from codetune.artifacts import Artifact
    from codetune.models.load import BaseModel
    from codetune.search.search import Outcome, Report

WHERE = "the search"


def make_space(config: ProjectConfig, base: BaseModel) -> tuple[Parameter, ...]:
    """What is varied, around the options as they are given."""
    return _make_space(config.search, given(config, base))


def given(config: ProjectConfig, base: BaseModel) -> dict[str, float]:
    """The options that can be varied with their values, dotted keys; not those without effect."""
    from codetune.training.methods import METHODS, rank_of

    dataset, training = config.dataset, config.training
    method, parameters = METHODS[training.method], parameters_of(base)
    rate = method.learning_rate_for(parameters) * training.learning_rate_scale
    values: dict[str, float] = {LEARNING_RATE: training.learning_rate or rate}
    if method.adapter:
        values[RANK] = rank_of(training, parameters, on_adapter=base.parent is not None)
    if training.max_steps is None:  # which would end the run whatever the epochs are
        values[EPOCHS] = training.epochs
    if dataset.use_ntp and dataset.use_fim and _knows_fim(base):
        values[FIM_RATE] = dataset.fim_rate
    if dataset.replay_share and _weighs_forgetting(config, base):
        values[REPLAY] = dataset.replay_share
    for number, one in enumerate(dataset.mix):
        name = "share" if one.share is not None else "weight"
        values[f"{MIX}{number}.{name}"] = one.share or one.weight or 0.0
    return values


def trial_config(config: ProjectConfig, params: Mapping[str, Any]) -> ProjectConfig:
    """The options of one trial.

    Raises:
        ConfigError: a value cannot be used.
    """
    return config.with_values({"search.trials": 0, **params}, WHERE)


def yardstick_config(config: ProjectConfig, space: tuple[Parameter, ...]) -> ProjectConfig:
    """The options of the dataset whose validation store judges every trial; see the module."""
    values: dict[str, Any] = {}
    for one in space:
        if one.key == REPLAY:
            values[one.key] = max(one.values)
        elif one.key.startswith(MIX):
            values[one.key] = min(one.values)
    return trial_config(config, values)


def best_config(config: ProjectConfig, found: Artifact) -> ProjectConfig:
    """The options of the best trial; those of the first one are as they were given."""
    best = found.summary["best"]
    return trial_config(config, best["params"] if best["trial"] else {})


def identity(
    config: ProjectConfig, cleaned: Artifact, base: BaseModel, yardstick: Artifact
) -> tuple[dict[str, Any], dict[str, str]]:
    """The options and inputs that, when they change, make another search."""
    options = config.model_dump(mode="json", include={"dataset", "training"})
    inputs = {"corpus": cleaned.digest, "base": base.digest, "yardstick": yardstick.digest}
    if base.parent is not None:
        inputs["parent"] = base.parent.digest
    return options, inputs


def check_yardstick(config: ProjectConfig, yardstick: Artifact) -> None:
    """Raises ConfigError when there is nothing to judge trials on."""
    if not yardstick.summary["validation_tokens"] or not config.training.validation_tokens:
        raise ConfigError(
            "A search needs validation text, and there is none.",
            advice="Raise training.validation_tokens and dataset.validation_bytes, or name a "
            "larger repository.",
        )


@contextmanager
def failures(*, as_given: bool) -> Iterator[None]:
    """A trial's failure in the search's words; with the options as given it is the user's."""
    from codetune.search.search import FailedError, HopelessError
    from codetune.training.recovery import Diverged, OutOfMemory
    from codetune.training.train import GivenUpError

    try:
        yield
    except GivenUpError as error:
        raise HopelessError from error
    except (Diverged, OutOfMemory, WillNotFitError) as error:
        if as_given:
            raise
        raise FailedError(error.message) from error


def outcome(run: Artifact, report: Report) -> Outcome:
    """A finished run's result, its validations reported if that has not been done.

    A run that was there already is so judged as if it had been trained now.

    Raises:
        HopelessError: and given up in the same way.
    """
    from codetune.search.search import HopelessError, Outcome
    from codetune.training.metrics import METRICS, read_metrics

    steps = int(run.summary["planned_steps"])
    for line in read_metrics(run / METRICS):
        if line["kind"] == "validation" and not report(line["step"], steps, line["loss"]):
            raise HopelessError
    loss = float(run.summary["validation"]["saved"])
    return Outcome(loss, {"run": run.digest, "dataset": run.inputs["dataset"]})


def parameters_of(base: BaseModel) -> int:
    """The number of the base's weights, from the headers of its files alone."""
    from safetensors import safe_open

    from codetune.models.load import weight_files

    total = 0
    for file in weight_files(base.path):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def _weighs_forgetting(config: ProjectConfig, base: BaseModel) -> bool:
    """Whether runs go back to their forgetting limit; see `training.retention`."""
    from codetune.models.load import read_json
    from codetune.training.methods import METHODS

    training = config.training
    pairs = read_json(base.path / "config.json").get("is_encoder_decoder")
    return training.forgetting_limit is not None and not (METHODS[training.method].dora or pairs)


def _knows_fim(base: BaseModel) -> bool:
    from codetune.dataset.encoded import forget_renderer, renderer_of

    try:
        return renderer_of(base.path).fim is not None
    finally:
        forget_renderer()
