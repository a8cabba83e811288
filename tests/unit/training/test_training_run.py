"""A whole run: it learns, and leaves behind what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from codetune.artifacts import Artifact
from codetune.models.load import BaseModel, load_adapter, load_model
from codetune.progress import Progress, Quiet
from codetune.training.config import TrainingOptions
from codetune.training.metrics import read_metrics
from codetune.training.train import train

FAST: dict[str, Any] = {"batch_tokens": 512, "epochs": 4, "checkpoint_seconds": 1000}


class Lines(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def run(dataset: Artifact, base: BaseModel, folder: Path, **options: Any) -> Artifact:
    return train(dataset, base, TrainingOptions(**{**FAST, **options}), folder, Progress())


@pytest.mark.parametrize(("method", "rate"), [("lora", 2e-2), ("full", 5e-3)])
def test_run_learns_and_leaves_everything(
    method: str, rate: float, dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    lines = Lines()
    options = TrainingOptions(**FAST, method=method, learning_rate=rate)
    artifact = train(dataset, base, options, tmp_path, Progress(lines))
    summary = artifact.summary
    assert summary["loss"]["last"] < summary["loss"]["first"] - 0.3
    assert summary["validation"]["best"] < summary["validation"]["first"] - 0.3
    streams = summary["validation_by_stream"]
    assert set(streams) == {"ntp", "fim"}
    assert all(one["best"] < one["first"] for one in streams.values())
    assert min(one["best"] for one in streams.values()) <= summary["validation"]["best"]
    assert max(one["best"] for one in streams.values()) >= summary["validation"]["best"]
    assert summary["padding_share"] == 0
    assert summary["tokens"] > 0 and summary["peak_memory_bytes"] > 10_000_000
    steps = [line for line in read_metrics(artifact / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in steps] == list(range(1, summary["steps"] + 1))
    assert steps[-1]["tokens"] == summary["tokens"]
    assert (artifact / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "checkpoint" not in " ".join(path.name for path in artifact.path.iterdir())
    facts = json.loads((artifact / "preflight.json").read_text())
    assert facts["steps"] == summary["steps"]
    assert facts["memory_needed"] > 0 and facts["trainable"] == summary["trainable"]
    assert any("parameters" in line and "memory" in line for line in lines.said)
    assert "finished" in (artifact / "training.log").read_text()


def test_tuned_adapter_loads_on_its_base(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    artifact = run(dataset, base, tmp_path, learning_rate=2e-2, forgetting_limit=None)
    config = json.loads((artifact / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base.name
    tuned = load_adapter(load_model(base.path), artifact / "model", base=base)
    ids = torch.arange(10, 50, 2)[None]
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(tuned(ids).logits[0, :-1].float(), ids[0, 1:])
        plain = load_model(base.path)(ids).logits[0, :-1].float()
    assert loss < torch.nn.functional.cross_entropy(plain, ids[0, 1:]) - 0.3


def test_tuned_whole_model_loads_alone(dataset: Artifact, base: BaseModel, tmp_path: Path) -> None:
    artifact = run(dataset, base, tmp_path, method="full", max_steps=2)
    assert (artifact / "model" / "tokenizer.json").exists()
    config = json.loads((artifact / "model" / "config.json").read_text())
    assert "codetune" not in json.dumps(config)
    assert load_model(artifact / "model").config.model_type == "qwen2"


def test_bf16_learns_like_float32(dataset: Artifact, base: BaseModel, tmp_path: Path) -> None:
    """Masters keep the small updates: with a small rate pure bf16 weights would stand still."""
    small = {"method": "full", "learning_rate": 3e-4, "weight_decay": 0.0, "epochs": 6}
    losses = {
        precision: run(dataset, base, tmp_path, precision=precision, **small).summary["validation"]
        for precision in ("bf16", "fp32")
    }
    gain = {name: loss["first"] - loss["best"] for name, loss in losses.items()}
    assert gain["fp32"] > 0.1
    assert gain["bf16"] == pytest.approx(gain["fp32"], rel=0.05)


def test_early_stop_keeps_the_best(dataset: Artifact, base: BaseModel, tmp_path: Path) -> None:
    artifact = run(
        dataset,
        base,
        tmp_path,
        method="full",
        learning_rate=0.3,
        warmup=0.0,
        epochs=20,
        validate_every=1,
        patience=2,
    )
    summary = artifact.summary
    assert summary["stopped_early"]
    assert summary["steps"] == summary["best_step"] + 2
    assert summary["validation"]["best"] <= summary["validation"]["first"]


def test_it_says_that_no_step_was_better_and_that_a_limit_is_not_held(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    lines = Lines()
    slow = {"learning_rate": 1e-12, "max_steps": 2, "validate_every": 1}
    options = TrainingOptions(**FAST | slow, method="dora")
    summary = train(dataset, base, options, tmp_path, Progress(lines)).summary
    assert summary["best_step"] == 0
    assert any("No step was better than the base" in line for line in lines.said)
    assert any("forgetting limit is not held" in line for line in lines.said)


def test_micro_batches_do_not_change_what_is_learned(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    """Accumulating two halves is one whole: the loss is a mean over all labels of the step."""
    one, two = (
        run(
            dataset,
            base,
            tmp_path,
            precision="fp32",
            method="full",
            window=128,
            micro_batch_tokens=size,
            max_steps=4,
            gap_weight=3,
        ).summary["loss"]["last"]
        for size in (512, 128)
    )
    assert one == pytest.approx(two, rel=1e-4)
