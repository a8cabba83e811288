"""The pre-flight refuses what will not fit, and says what would."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from codetune.artifacts import Artifact
from codetune.errors import ArtifactError, TrainingError, WillNotFitError
from codetune.models.load import BaseModel, resolve_base
from codetune.progress import Progress
from codetune.training import preflight
from codetune.training.checkpoints import Checkpoints
from codetune.training.config import TrainingOptions
from codetune.training.train import train
from tests.unit.training.tiny_training import make_dataset

FAST: dict[str, Any] = {"batch_tokens": 512, "max_steps": 3}


def go(dataset: Artifact, base: BaseModel, folder: Path, **options: Any) -> Artifact:
    return train(dataset, base, TrainingOptions(**{**FAST, **options}), folder, Progress())


def test_too_little_memory_is_refused_with_advice(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(WillNotFitError, match="memory") as raised:
        go(dataset, base, tmp_path, memory_limit=50_000_000, method="full")
    assert "training.method=lora" in str(raised.value)
    assert not list(tmp_path.glob("*/manifest.json"))


def test_what_a_gpu_holds_is_compared_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda: 7)
    assert preflight._held() == 7


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize(
    ("method", "advice"), [("full", "training.method=lora"), ("lora", "a smaller base")]
)
def test_too_little_disk_is_refused(
    method: str, advice: str, dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(WillNotFitError, match="of disk") as raised:
        go(dataset, base, tmp_path, method=method)
    assert raised.value.advice.endswith(f"{advice}.")


def test_prediction_covers_what_is_used(dataset: Artifact, base: BaseModel, tmp_path: Path) -> None:
    artifact = go(dataset, base, tmp_path, method="full")
    facts = json.loads((artifact / "preflight.json").read_text())
    used = artifact.summary["peak_memory_bytes"]
    libraries = 48e6  # what only the run itself loads, where no test before has: the curve's …
    assert used <= facts["memory_needed"] * 1.05 + libraries


def test_gradient_checkpointing_is_measured_too(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    """Each pass, the pre-flight's among them, computes every layer twice, and none more often."""
    import torch

    seen: list[str] = []

    def hook(module: torch.nn.Module, inputs: Any) -> None:
        if type(module).__name__ == "Qwen2MLP" and torch.is_grad_enabled():
            seen.append("layer")

    handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        go(dataset, base, tmp_path / "plain", max_steps=1)
        plain = len(seen)
        go(dataset, base, tmp_path / "twice", max_steps=1, gradient_checkpointing=True)
    finally:
        handle.remove()
    assert len(seen) == 3 * plain


def test_the_time_is_that_of_the_steps_that_will_run(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    """With max_steps far below the epochs, the estimate is of those steps alone."""
    artifact = go(dataset, base, tmp_path, max_steps=2, epochs=50)
    facts = json.loads((artifact / "preflight.json").read_text())
    assert facts["seconds"] * facts["tokens_per_second"] < 2 * facts["batch_tokens"] * 1.01


def test_full_disk_keeps_earlier_checkpoints(
    dataset: Artifact, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third checkpoint meets a full disk; the run then goes on from the second."""
    import safetensors.torch

    from codetune.training import checkpoints

    def save(tensors: Any, path: Path) -> None:
        if "step-00000003" in str(path):
            raise OSError(28, "No space left on device", str(path))
        safetensors.torch.save_file(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", save)
    with pytest.raises(TrainingError, match="disk is full") as raised:
        go(dataset, base, tmp_path, max_steps=5, checkpoint_seconds=0)
    assert "step" in str(raised.value) and "intact" in str(raised.value)
    (run,) = tmp_path.glob(".*.partial")
    newest = Checkpoints(run).newest()
    assert newest is not None and newest.name == "step-00000002"
    monkeypatch.undo()
    assert go(dataset, base, tmp_path, max_steps=5, checkpoint_seconds=0).summary[
        "resumed_from"
    ] == [2]


def test_empty_dataset_is_refused(base: BaseModel, tmp_path: Path) -> None:
    empty = make_dataset(tmp_path / "data", examples=0)
    with pytest.raises(TrainingError, match="no training examples"):
        go(empty, base, tmp_path / "runs")


def test_dataset_without_store_is_refused(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    copy = tmp_path / "dataset"
    shutil.copytree(dataset.path, copy)
    shutil.rmtree(copy / "validation")
    from codetune.artifacts import open_artifact

    with pytest.raises(ArtifactError):
        go(open_artifact(copy), base, tmp_path / "runs")


def test_infinite_loss_is_one_clear_error(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    """The adapter's product is zero at first, and beyond all numbers after one step."""
    with pytest.raises(TrainingError, match="left the finite numbers at step") as raised:
        go(dataset, base, tmp_path, alpha=1e38, warmup=0.0, max_steps=10)
    assert "learning_rate" in str(raised.value)


def test_base_with_damaged_numbers_is_refused(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "base"
    shutil.copytree(base.path, copy)
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="no finite numbers"):
        go(dataset, resolve_base(str(copy)), tmp_path / "runs")
