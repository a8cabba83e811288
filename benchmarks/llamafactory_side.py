"""LLaMA-Factory's side of the training benchmark, in its own environment.

Its releases pin older transformers, TRL, PEFT and datasets than codetune's, so that the two
cannot share an environment: `python -m benchmarks training --llamafactory PYTHON` runs this file
with the interpreter of one that has llamafactory. It reads one JSON object from stdin and prints
one as its last line. Rows are LLaMA-Factory's own packing for this stage (`pt`): documents end to
end, cut into rows of `cutoff_len`. Arithmetic is its `bf16: true`; `pure_bf16` it refuses without
a GPU.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import os
import sys
import time
import types
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.load(sys.stdin)
    stdout, sys.stdout = sys.stdout, sys.stderr
    result = run(job)
    print("\n" + json.dumps(result), file=stdout)


def run(job: dict[str, Any]) -> dict[str, Any]:
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    without_audio()
    from datasets import Dataset, DatasetDict
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    # Its environment has no codetune: this file's neighbour lends its two functions.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from codetune.training.metrics import peak_memory, reset_peak_memory

    data = Path(job["folder"]) / "tokens"
    rows = packed(job["documents"], job["row"])
    columns = {"input_ids": rows, "attention_mask": [[1] * job["row"]] * len(rows)}
    DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(str(data))
    shared = job["shared"]
    examples = shared["per_device_train_batch_size"] * shared["gradient_accumulation_steps"]
    per_step = job["row"] * examples
    marks: list[float] = []
    curve: list[tuple[int, float]] = []
    parameters: list[int] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            parameters.append(sum(weight.numel() for weight in model.parameters()))
            reset_peak_memory()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                curve.append((state.global_step * per_step, float(logs["loss"])))

    run_exp(settings(job, data), callbacks=[Watch()])
    warm = job["warm"]
    return {
        "tokens_per_second": per_step * (len(marks) - warm) / (marks[-1] - marks[warm - 1]),
        "padding_share": 0.0,
        "peak_memory_bytes": peak_memory(),
        "steps": len(marks),
        "tokens": len(marks) * per_step,
        "curve": curve,
        "parameters": parameters[0],
    }


def settings(job: dict[str, Any], data: Path) -> dict[str, Any]:
    """Its own names of the settings that all sides share."""
    lora = {
        "finetuning_type": "lora",
        "lora_rank": job["rank"],
        "lora_alpha": job["rank"],
        "use_rslora": True,
        "lora_target": "all",
    }
    return {
        "stage": "pt",
        "do_train": True,
        "model_name_or_path": job["base"],
        "template": "empty",
        "dataset": "unused",
        "tokenized_path": str(data),
        "cutoff_len": job["row"],
        "bf16": True,
        **job["shared"],
        "report_to": "none",
        **(lora if job["method"] == "lora" else {"finetuning_type": "full"}),
    }


def packed(documents: list[list[int]], row: int) -> list[list[int]]:
    """Documents end to end, cut into rows; the last, shorter one is dropped."""
    flat = [token for document in documents for token in document]
    return [flat[start : start + row] for start in range(0, len(flat) - row + 1, row)]


def without_audio() -> None:
    """An empty torchaudio where it cannot be loaded: LLaMA-Factory imports it for sound.

    PyPI's wheels of it need CUDA's libraries, and no text passes through it.
    """
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError):
        empty = types.ModuleType("torchaudio")
        empty.__spec__ = importlib.machinery.ModuleSpec("torchaudio", loader=None)
        sys.modules["torchaudio"] = empty


if __name__ == "__main__":
    main()
