"""A run that is one of several: scored on a set that is not its own, and given up when told so."""

from __future__ import annotations

from pathlib import Path

import pytest

from codetune.artifacts import Artifact
from codetune.models.load import BaseModel
from codetune.progress import Progress
from codetune.training.config import TrainingOptions
from codetune.training.metrics import METRICS, read_metrics
from codetune.training.train import GivenUpError, Trial, train
from tests.unit.training.tiny_training import make_dataset

OPTIONS = TrainingOptions(
    learning_rate=5e-3,
    batch_tokens=256,
    micro_batch_tokens=256,
    window=128,
    max_steps=6,
    validate_every=2,
    checkpoint_seconds=0,
    forgetting_limit=None,
)


def validations(run: Path) -> list[tuple[int, float]]:
    lines = read_metrics(run / METRICS)
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "validation"]


def test_trials_on_other_data_are_scored_on_the_same_validation_set(
    base: BaseModel, dataset: Artifact, tmp_path: Path
) -> None:
    other = make_dataset(tmp_path / "other", seed=3)
    own = train(other, base, OPTIONS, tmp_path / "runs", Progress())
    yardstick = train(dataset, base, OPTIONS, tmp_path / "runs", Progress())
    told: list[tuple[int, int, float]] = []

    def report(step: int, steps: int, loss: float) -> bool:
        told.append((step, steps, loss))
        return True

    trial = Trial(dataset, report)
    run = train(other, base, OPTIONS, tmp_path / "runs", Progress(), trial=trial)
    # The untuned base's loss tells which set was scored.
    assert validations(run.path)[0] == validations(yardstick.path)[0] != validations(own.path)[0]
    assert run.inputs["validation"] == dataset.digest
    assert [(step, loss) for step, _, loss in told] == validations(run.path)
    assert {steps for _, steps, _ in told} == {run.summary["planned_steps"]}
    assert run.summary["validation"]["saved"] == min(loss for _, _, loss in told)
    # On its own validation set a trial is the ordinary run, which is there already.
    same = train(dataset, base, OPTIONS, tmp_path / "runs", Progress(), trial=Trial(dataset))
    assert same == yardstick


def test_a_run_that_is_given_up_leaves_its_curve_and_no_checkpoints(
    base: BaseModel, dataset: Artifact, tmp_path: Path
) -> None:
    trial = Trial(dataset, lambda step, steps, loss: step < 4)
    with pytest.raises(GivenUpError, match="after step 4 of"):
        train(dataset, base, OPTIONS, tmp_path / "runs", Progress(), trial=trial)
    (partial,) = (tmp_path / "runs").glob(".*.partial")
    assert [step for step, _ in validations(partial)] == [0, 2, 4]
    assert not (partial / "checkpoints").exists()
    assert not (partial / "best").exists()
    after = train(dataset, base, OPTIONS, tmp_path / "runs", Progress())
    fresh = train(dataset, base, OPTIONS, tmp_path / "fresh", Progress())
    assert validations(after.path) == validations(fresh.path)
    weights = "model/adapter_model.safetensors"
    assert (after / weights).read_bytes() == (fresh / weights).read_bytes()
