"""Checkpoints are whole or absent; metrics never hold half a line or a step twice."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

import codetune.training.checkpoints as module
from codetune.errors import TrainingError
from codetune.training.checkpoints import KEEP, Checkpoints
from codetune.training.metrics import Metrics, ends_of_loss, read_metrics

TENSORS = {"weight/a": torch.arange(5.0)}


def test_random_states_come_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(1, TENSORS, {})
    drawn = (random.random(), np.random.rand(), torch.rand(3).tolist())
    checkpoints.load(path)
    assert drawn == (random.random(), np.random.rand(), torch.rand(3).tolist())


def test_only_the_newest_stay_with_their_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 6):
        if step in (1, 3):
            checkpoints.save_best(step, TENSORS)
        checkpoints.save(step, TENSORS, {"best_step": 1 if step < 3 else 3})
    kept = sorted(path.name for path in checkpoints.folder.iterdir())
    assert kept == ["step-00000004", "step-00000005"][-KEEP:]
    assert [path.name for path in checkpoints.best_folder.iterdir()] == ["step-00000003"]
    assert torch.equal(checkpoints.load_best(3)["weight/a"], TENSORS["weight/a"])


def test_remains_of_a_kill_are_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    whole = checkpoints.save(1, TENSORS, {})
    half = checkpoints.folder / ".step-00000002.tmp"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    assert checkpoints.newest() == whole
    assert not half.exists()


def test_a_kill_while_one_is_removed_leaves_none_that_is_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, TENSORS, {})

    def killed(folder: Path, **_: object) -> None:
        (folder / "state.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("codetune.training.checkpoints.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.roll_back(before=2)
    monkeypatch.undo()
    newest = checkpoints.newest()
    assert newest is not None and newest.name == "step-00000001"
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(1, TENSORS, {})
    file = path / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(TrainingError, match="step-00000001 is damaged"):
        checkpoints.load(path)


def test_resumed_metrics_continue_at_the_checkpoint(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, resumed_step=None)
    for step in (1, 2, 3):
        metrics.write(kind="train", step=step, loss=1.0)
    metrics.close()
    with metrics.path.open("a") as file:
        file.write('{"kind": "train", "st')  # the kill came here
    again = Metrics(tmp_path, resumed_step=2)
    again.write(kind="train", step=3, loss=0.5)
    again.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(metrics.path)] == [
        (1, 1.0),
        (2, 1.0),
        (3, 0.5),
    ]


def test_first_and_last_loss_are_means_of_several_steps(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, resumed_step=None)
    for step in range(1, 41):
        metrics.write(kind="train", step=step, loss=10.0 - step / 10 + (step == 40))
        metrics.write(kind="validation", step=step, loss=100.0)
        if step == 4:
            assert ends_of_loss(metrics.path) == {
                "first": pytest.approx(9.8),
                "last": pytest.approx(9.7),
            }
    metrics.write(kind="train", step=39, loss=7.1)  # again, after a recovery
    metrics.close()
    ends = ends_of_loss(metrics.path)
    assert ends["first"] == pytest.approx((9.9 + 9.8 + 9.7 + 9.6) / 4)
    assert ends["last"] == pytest.approx((6.3 + 6.2 + 7.1 + 7.0) / 4)


def test_a_new_run_begins_with_empty_metrics(tmp_path: Path) -> None:
    for _ in range(2):
        metrics = Metrics(tmp_path, resumed_step=None)
        metrics.write(kind="train", step=1, loss=1.0)
        metrics.close()
    assert len(read_metrics(metrics.path)) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (OSError(errno.EFBIG, "File too large"), "limit on the size of files"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "The disk is full"),
        (SafetensorError("I/O error: File too large (os error 27)"), "limit on the size of files"),
        (SafetensorError("I/O error: Disk quota exceeded (os error 122)"), "quota"),
    ],
)
def test_what_leaves_no_room_is_named(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(tensors: object, path: Path) -> None:
        raise error

    monkeypatch.setattr(module, "save_file", save)
    with pytest.raises(TrainingError, match=f"{said}.*step-00000001 could not be written"):
        Checkpoints(tmp_path).save(1, {}, {})
    assert not list((tmp_path / "checkpoints").iterdir())


def test_another_error_of_the_disk_is_not_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(tensors: object, path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "save_file", save)
    with pytest.raises(OSError, match="Input/output"):
        Checkpoints(tmp_path).save(1, {}, {})
