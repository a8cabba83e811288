"""Finished stages as the registry gets them; the weights are real safetensors of one number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codetune.artifacts import Artifact, run_stage
from codetune.models.load import BaseModel
from codetune.records import Repository

SCORECARD = {
    "base": {"bits_per_byte": {"value": 2.0, "low": 1.9, "high": 2.1}},
    "tuned": {"bits_per_byte": {"value": 1.5, "low": 1.4, "high": 1.6}},
    "change": {"bits_per_byte": {"value": -0.5, "low": -0.6, "high": -0.4}},
    "reasons": ["Better."],
}


def write_adapter(folder: Path, number: int) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({"x": np.array([number])}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))


def stages(folder: Path, number: int = 0, promoted: bool = True, judged: int = 0) -> dict[str, Any]:
    """Arguments for `Registry.register`; each `number` is another run."""

    def model(place: Path) -> dict[str, str]:
        write_adapter(place / "model", number)
        return {"method": "lora"}

    def card(place: Path) -> dict[str, str]:
        (place / "scorecard.json").write_text(json.dumps({**SCORECARD, "promoted": promoted}))
        return {}

    def nothing(place: Path) -> dict[str, Any]:
        return {"licences": {"MIT": 3, "Apache-2.0": 7}, "split": {"time": 4, "file": 2}}

    def stage(name: str, config: dict[str, Any], make: Callable[[Path], Any]) -> Artifact:
        return run_stage(name, folder / name, config, {}, make)

    return {
        "run": stage("run", {"number": number}, model),
        "evaluation": stage("evaluation", {"number": number, "judged": judged}, card),
        "dataset": stage("dataset", {}, nothing),
        "cleaned": stage("corpus", {}, nothing),
        "repository": Repository("github.com/x/y", "https://x", "git", "c" * 40, "a" * 40),
        "base": BaseModel("someone/base", folder, "d" * 64, "qwen2"),
    }
