"""Checkpoints: whole or not there, safetensors and JSON only.

A checkpoint is written beside its place and renamed, so that a kill at any moment leaves the
one before it. Each holds everything the next step depends on: weights and moments in float32,
the schedule, the random states, the position in the data and the best weights so far.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from codetune.artifacts import write_json
from codetune.errors import TrainingError

KEEP = 2  # checkpoints; the older one is there in case the disk lied about the newer
_STATE, _TENSORS, _RANDOM = "state.json", "tensors.safetensors", "random.safetensors"
_NO_ROOM = {
    errno.ENOSPC: "The disk is full",
    errno.EDQUOT: "Your quota of the disk is used up",
    errno.EFBIG: "A limit on the size of files was reached",
}


class Checkpoints:
    """The checkpoints of one run, in its folder `checkpoints`."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"
        self.best_folder = run / "best"

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
        """Write the checkpoint of `step` and drop all but the newest.

        `state["best_step"]` says which of the best weights it goes with.

        Raises:
            TrainingError: there is no room for it; earlier checkpoints are intact.
        """
        final = self.folder / f"step-{step:08d}"
        self._write(final, {_TENSORS: tensors, _RANDOM: _random_states()}, state)
        for old in _finished(self.folder)[:-KEEP]:
            _discard(old)
        needed = {_read_state(kept).get("best_step") for kept in _finished(self.folder)}
        for best in _finished(self.best_folder):
            if _step(best) not in needed:
                _discard(best)
        return final

    def newest(self) -> Path | None:
        """The newest whole checkpoint; remains of an interrupted write are removed."""
        for folder in (self.folder, self.best_folder):
            for remains in folder.glob(".*.tmp"):
                shutil.rmtree(remains)
        finished = _finished(self.folder)
        return finished[-1] if finished else None

    def load(self, checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and state of a checkpoint; the random states are set at once.

        Raises:
            TrainingError: the checkpoint is damaged.
        """
        try:
            state = _read_state(checkpoint)
            tensors = load_file(checkpoint / _TENSORS)
            _set_random_states(load_file(checkpoint / _RANDOM))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise TrainingError(
                f"The checkpoint {checkpoint} is damaged: {error}.",
                advice="Delete this folder: the run goes on from the one before it.",
            ) from error
        return tensors, state

    def roll_back(self, before: int) -> int:
        """Drop what was written at step `before` or later; returns the newest step that is left.

        0: there is no earlier checkpoint, and the run begins anew.
        """
        for checkpoint in _finished(self.folder):
            if _step(checkpoint) >= before:
                _discard(checkpoint)
        left = max((_step(checkpoint) for checkpoint in _finished(self.folder)), default=0)
        for best in _finished(self.best_folder):
            if _step(best) > left:
                _discard(best)
        return left

    def save_best(self, step: int, weights: dict[str, Tensor]) -> None:
        """Keep the weights of `step` as the best so far.

        Those that older checkpoints go with stay until these are gone: a run that resumes
        from one of them comes by this step again and finds, or writes, the same weights.
        """
        self._write(self.best_folder / f"step-{step:08d}", {_TENSORS: weights}, {"step": step})

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The best weights by name."""
        weights: dict[str, Tensor] = load_file(self.best_folder / f"step-{step:08d}" / _TENSORS)
        return weights

    def remove(self) -> None:
        """Remove everything, the checkpoints last; another process may be doing the same."""
        for folder in (self.best_folder, self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    def _write(
        self, final: Path, files: dict[str, dict[str, Tensor]], state: dict[str, Any]
    ) -> None:
        temporary = final.with_name(f".{final.name}.tmp")
        try:
            if temporary.exists():
                shutil.rmtree(temporary)
            temporary.mkdir(parents=True)
            for name, tensors in files.items():
                whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
                save_file(whole, temporary / name)
                _sync(temporary / name)
            write_json(temporary / _STATE, state)
            _sync(temporary)
            if final.exists():
                # From before a kill, and the same: a resumed run repeats its steps exactly.
                shutil.rmtree(temporary)
            else:
                temporary.rename(final)
                _sync(final.parent)
        except (OSError, SafetensorError) as error:
            reason = _reason(error)
            if reason is None:
                raise
            shutil.rmtree(temporary, ignore_errors=True)
            raise TrainingError(
                f"{reason}: the checkpoint {final.name} could not be written.",
                advice="Earlier checkpoints are intact: make room (look at `df`, `quota` and "
                "`ulimit -f`) and run again, and the run goes on from the newest.",
            ) from error


def _reason(error: OSError | SafetensorError) -> str | None:
    """What stands in the way of more bytes, None if something else does.

    safetensors has errors of its own, in which the system's is a part of the text.
    """
    for code, said in _NO_ROOM.items():
        if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
            return said
    return None


def _discard(checkpoint: Path) -> None:
    """Remove a checkpoint so that a kill leaves all of it or none that counts as whole."""
    remains = checkpoint.with_name(f".{checkpoint.name}.tmp")
    if remains.exists():
        shutil.rmtree(remains)
    checkpoint.rename(remains)
    shutil.rmtree(remains)


def _finished(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _read_state(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / _STATE).read_text())
    return state


def _sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _random_states() -> dict[str, Tensor]:
    version, numbers, gauss = random.getstate()
    if gauss is not None:
        raise TrainingError("Python's random generator holds half a pair of normal numbers.")
    numpy_state: Any = np.random.get_state(legacy=False)
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *numbers], dtype=torch.int64),
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "numpy_position": torch.tensor([numpy_state["state"]["pos"]], dtype=torch.int64),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    version, *numbers = states["python"].tolist()
    random.setstate((version, tuple(numbers), None))
    key = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, int(states["numpy_position"][0]), 0, 0.0))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
