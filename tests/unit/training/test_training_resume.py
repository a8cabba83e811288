"""Killed with SIGKILL at any moment and started again, a run ends with the same bits."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from codetune.artifacts import Artifact, open_artifact
from codetune.models.load import BaseModel
from codetune.progress import Progress
from codetune.training.checkpoints import Checkpoints
from codetune.training.config import TrainingOptions
from codetune.training.metrics import read_metrics
from codetune.training.train import train
from tests.clock import AT_ONCE

# A server that has imported torch forks each run: real processes, without ten imports.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["codetune.training.trainer", "peft"])


def options(method: str) -> TrainingOptions:
    return TrainingOptions(
        method=method,  # type: ignore[arg-type]
        learning_rate=5e-3,
        gap_weight=3.0,
        dropout=0.1,  # so that the random states matter
        batch_tokens=256,
        micro_batch_tokens=128,  # two passes a step: kills fall between them, too
        window=128,
        epochs=2,
        validate_every=3,
        checkpoint_seconds=0,
    )


def run_once(dataset: Path, base: BaseModel, method: str, folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    train(open_artifact(dataset), base, options(method), folder, Progress())


def start(*arguments: Any) -> Any:
    process = SERVER.Process(target=run_once, args=arguments)
    process.start()
    return process


def finish(*arguments: Any) -> None:
    process = start(*arguments)
    process.join(120)
    assert process.exitcode == 0


def kill_when(process: Any, condition: Callable[[], bool], delay: float = 0.0) -> None:
    """SIGKILL `delay` seconds after the first moment `condition` holds (or let it end before)."""
    deadline = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < deadline:
        with suppress(FileNotFoundError):  # folders come and go while we look
            if condition():
                time.sleep(delay)
                os.kill(process.pid, signal.SIGKILL)
                break
        time.sleep(0.001)
    process.join(30)


def steps(folder: Path) -> list[dict[str, Any]]:
    found = list(folder.glob("*/metrics.jsonl"))
    return read_metrics(found[0]) if found else []


@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_and_resumed_run_ends_with_the_same_bits(
    method: str, dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    finish(dataset.path, base, method, whole)
    (reference,) = (open_artifact(path.parent) for path in whole.glob("*/manifest.json"))
    total = reference.summary["steps"]
    arguments = (dataset.path, base, method, broken)

    seeded = random.Random(method)
    for low, high in ((1, total // 3), (total // 3, total - 2)):
        at, delay = seeded.randint(low, high), seeded.random() * 0.05
        process = start(*arguments)
        kill_when(process, lambda at=at: len(steps(broken)) >= at, delay)  # type: ignore[misc]
        assert process.exitcode == -signal.SIGKILL
    process = start(*arguments)  # and once in the middle of writing a checkpoint
    kill_when(process, lambda: any(broken.glob(".*/checkpoints/.*.tmp/tensors.safetensors")))
    assert process.exitcode == -signal.SIGKILL
    finish(*arguments)

    (result,) = (open_artifact(path.parent) for path in broken.glob("*/manifest.json"))
    assert len(result.summary["resumed_from"]) >= 1
    assert result.digest == reference.digest
    for file in (reference / "model").iterdir():
        assert (result / "model" / file.name).read_bytes() == file.read_bytes(), file.name
    wanted, got = (
        [(line["kind"], line["step"], line["loss"]) for line in steps(folder)]
        for folder in (whole, broken)
    )
    assert got == wanted
    assert result.summary["tokens"] == reference.summary["tokens"]


def test_a_kill_after_the_last_step_only_finishes(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    """The last checkpoint is enough to write the model: nothing is trained again."""
    process = start(dataset.path, base, "lora", tmp_path)
    kill_when(process, lambda: any(tmp_path.glob(".*/model/adapter_model.safetensors")))
    before = steps(tmp_path)
    finish(dataset.path, base, "lora", tmp_path)
    assert steps(tmp_path) == before


def test_an_error_after_the_last_step_trains_nothing_again(
    dataset: Artifact, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Path) -> None:
        raise OSError("no fonts")

    chosen = TrainingOptions(batch_tokens=512, max_steps=2, checkpoint_seconds=0)
    monkeypatch.setattr("codetune.training.metrics.draw_curve", broken)
    with pytest.raises(OSError, match="no fonts"):
        train(dataset, base, chosen, tmp_path, Progress())
    monkeypatch.undo()
    result = train(dataset, base, chosen, tmp_path, Progress())
    assert result.summary["resumed_from"] == [2] == [result.summary["steps"]]
    assert {path.name for path in result.path.iterdir()}.isdisjoint({"checkpoints", "best"})


def test_a_kill_while_checkpoints_are_removed_trains_nothing_again(
    dataset: Artifact, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Checkpoints) -> None:
        (self.newest() or self.folder).joinpath("tensors.safetensors").unlink()
        raise KeyboardInterrupt

    chosen = TrainingOptions(batch_tokens=512, max_steps=2, checkpoint_seconds=0)
    monkeypatch.setattr(Checkpoints, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, base, chosen, tmp_path, Progress())
    monkeypatch.undo()
    result = train(dataset, base, chosen, tmp_path, Progress())
    assert (result.summary["resumed_from"], result.summary["steps"]) == ([], 2)
    assert {path.name for path in result.path.iterdir()}.isdisjoint({"checkpoints", "best"})


def blocked() -> None:
    """A torch call that Python cannot interrupt, as one backward pass of a large model."""
    import torch

    from codetune.interrupt import ends_soon

    torch.set_num_threads(1)
    x = torch.randn(5000, 5000, dtype=torch.float64)  # half a minute of one call
    with ends_soon(patience=0.5):
        torch.linalg.svdvals(x)


def test_interrupt_during_a_long_call_ends_soon() -> None:
    process = SERVER.Process(target=blocked)
    process.start()
    time.sleep(3)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)  # type: ignore[arg-type]
    began = time.monotonic()
    process.join(30)
    assert time.monotonic() - began < AT_ONCE
    assert process.exitcode == 130


def test_interrupt_ends_soon_and_goes_on(
    dataset: Artifact, base: BaseModel, tmp_path: Path
) -> None:
    process = start(dataset.path, base, "full", tmp_path)
    deadline = time.monotonic() + 60
    while len(steps(tmp_path)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    process.join(30)
    assert time.monotonic() - began < AT_ONCE
    assert process.exitcode not in (0, None)
    finish(dataset.path, base, "full", tmp_path)
    (result,) = (open_artifact(path.parent) for path in tmp_path.glob("*/manifest.json"))
    assert result.summary["resumed_from"]
