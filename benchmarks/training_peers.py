"""The other side of the training benchmark: the plain transformers Trainer, TRL, LLaMA-Factory.

All load the base in bf16, as fast as each of them goes on a CPU: the Trainer and TRL the whole
model, LLaMA-Factory with its `bf16: true`. A step is eight examples or eight full rows, in
passes of `batch` of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Trainer

ROW = 1024  # TRL's default length of a row, in tokens
EXAMPLES = 8  # a step: TRL's default
WARM_STEPS = 3
PACKED = ("trl-packed", "llamafactory")


def with_peer(
    side: str, method: str, dataset: Path, tokens: int, batch: int, folder: Path, python: str
) -> dict[str, Any]:
    """Train with `side` in passes of `batch` examples; `python` is LLaMA-Factory's own."""
    import torch

    from codetune.models.load import resolve_base
    from codetune.models.tokens import TokenStore

    store = TokenStore.open(dataset / "tokens")
    base = resolve_base("nano").path
    rows = [store[i][0].tolist()[:ROW] for i in range(len(store))]
    per_step = EXAMPLES * (ROW if side in PACKED else sum(map(len, rows)) / len(rows))
    steps = steps_for(tokens, per_step)
    shared = {
        "output_dir": str(folder),
        "max_steps": steps,
        "learning_rate": peak_rate(method, base),
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(0.05 * steps),
        "use_cpu": not torch.cuda.is_available(),  # without a GPU the default is an error
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": EXAMPLES // batch,
    }
    if side == "llamafactory":
        job = {"folder": str(folder), "documents": rows, "row": ROW, "method": method}
        job |= {"base": str(base), "rank": default_rank(base), "warm": WARM_STEPS, "shared": shared}
        return llamafactory(job, python)
    from datasets import Dataset

    data = Dataset.from_dict({"input_ids": rows})
    make = plain_trainer if side == "trainer" else trl_trainer
    shared["report_to"] = []
    return watched(make(base, method, data, shared, packed=side == "trl-packed"))


def llamafactory(job: dict[str, Any], python: str) -> dict[str, Any]:
    """Run `llamafactory_side` with its own interpreter."""
    file = Path(__file__).with_name("llamafactory_side.py")
    done = subprocess.run(
        [python, str(file)], input=json.dumps(job), check=True, stdout=subprocess.PIPE, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def steps_for(tokens: int, per_step: float) -> int:
    return max(WARM_STEPS + 2, round(tokens / per_step))


def peak_rate(method: str, base: Path) -> float:
    """codetune's default for a model of this size."""
    from codetune.models.load import load_model
    from codetune.training.methods import METHODS

    model: Any = load_model(base)
    return METHODS[method].learning_rate_for(sum(w.numel() for w in model.parameters()))


def default_rank(base: Path) -> int:
    """codetune's default for a model of this size."""
    from codetune.models.architecture import count_parameters
    from codetune.models.load import load_model
    from codetune.training.config import TrainingOptions
    from codetune.training.methods import rank_of

    return rank_of(TrainingOptions(), count_parameters(load_model(base)))


def adapter(base: Path) -> Any:
    """codetune's default LoRA."""
    from peft import LoraConfig

    rank = default_rank(base)
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        use_rslora=True,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def trl_trainer(
    base: Path, method: str, rows: Any, shared: dict[str, Any], *, packed: bool
) -> Trainer:
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=str(base),
        args=SFTConfig(
            packing=packed, bf16=False, model_init_kwargs={"dtype": "bfloat16"}, **shared
        ),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=adapter(base) if method == "lora" else None,
    )


def plain_trainer(
    base: Path, method: str, rows: Any, shared: dict[str, Any], *, packed: bool
) -> Trainer:
    """What transformers' own guide for causal language models does."""
    from peft import get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    assert not packed
    model = AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16")
    return Trainer(
        model=get_peft_model(model, adapter(base)) if method == "lora" else model,
        args=TrainingArguments(**shared),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(
            AutoTokenizer.from_pretrained(base), mlm=False
        ),
    )


def watched(trainer: Trainer) -> dict[str, Any]:
    """Train, and count: real tokens, places with padding, time and loss of each step."""
    from transformers import TrainerCallback

    from codetune.training.metrics import peak_memory, reset_peak_memory

    counted = {"real": 0, "places": 0}
    marks: list[tuple[float, int]] = []
    curve: list[tuple[int, float]] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            reset_peak_memory()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append((time.perf_counter(), counted["real"]))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                curve.append((counted["real"], float(logs["loss"])))

    collate = trainer.data_collator

    def counting(examples: list[dict[str, Any]]) -> Any:
        batch = collate(examples)
        places = batch["input_ids"].numel()
        mask = batch.get("attention_mask")
        counted["places"] += places
        counted["real"] += places if mask is None else int(mask.sum())
        return batch

    trainer.data_collator = counting
    trainer.add_callback(Watch())
    sys.stdout, stdout = sys.stderr, sys.stdout  # its printed logs are not our result
    trainer.train()
    sys.stdout = stdout
    (start, before), (end, after) = marks[WARM_STEPS - 1], marks[-1]
    return {
        "tokens_per_second": (after - before) / (end - start),
        "padding_share": 1 - counted["real"] / counted["places"],
        "peak_memory_bytes": peak_memory(),
        "steps": len(marks),
        "tokens": counted["real"],
        "curve": curve,
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
    }
