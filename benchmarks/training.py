"""Training speed and memory: codetune beside TRL's SFTTrainer and the plain transformers Trainer.

TRL stands at its defaults and with packing=True; the plain Trainer pads to the longest example
of a batch. Same base (nano), same examples in the same number of tokens, same peak learning
rate (the product's default) and schedule, one process a side, one after the other. Rates count
real tokens (no padding) over the time in training steps without the first three; memory is the
process's highest resident size from the first step on, with libraries and model in it. The loss
curves are laid over each other in `training-<method>.png`. With the default number of tokens
all of it takes about ten minutes on two quiet cores, most of them the peers'.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Trainer

SIDES = {  # name, colour of its curve
    "trainer": ("transformers Trainer, plain", "#16a34a"),
    "trl": ("TRL, defaults", "#94a3b8"),
    "trl-packed": ("TRL, packing=True", "#ea580c"),
    "codetune": ("codetune", "#2563eb"),
}
TARGET = 2.0  # times the better of TRL's two
ROW = 1024  # TRL's default length of a row, in tokens
WARM_STEPS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--tokens", type=int, default=100_000, help="trained on by each side")
    parser.add_argument("--methods", nargs="*", default=["lora", "full"])
    parser.add_argument("--rounds", type=int, default=1, help="the best of them counts")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, help="a dataset artifact; default: codetune's own")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tokens, arguments.rounds = 0, 1
    if arguments.side:
        method, side = arguments.side.split(":")
        print("\n" + json.dumps(run_side(side, method, arguments.dataset, arguments.tokens)))
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    dataset = arguments.dataset or own_dataset(arguments.out)
    results = {
        method: {side: best_round(method, side, dataset, arguments) for side in SIDES}
        for method in arguments.methods
    }
    machine = machine_rates()
    (arguments.out / "training.json").write_text(
        json.dumps({"machine": machine, "results": results}, indent=2)
    )
    print(table(results, machine))
    for method, sides in results.items():
        draw(method, sides, arguments.out / f"training-{method}.png")
    return 0 if all(reached(sides) for sides in results.values()) else 1


def own_dataset(out: Path) -> Path:
    """This repository's own training data, by the product's own stages."""
    from codetune.pipeline import Journey
    from codetune.progress import Progress
    from codetune.project import ProjectConfig

    os.environ["CODETUNE_HOME"] = str((out / "home").resolve())
    source = str(Path(__file__).resolve().parent.parent)
    return Journey(source, ProjectConfig(), Progress()).build().path


def best_round(
    method: str, side: str, dataset: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """The fastest of the rounds, each in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", "--side", f"{method}:{side}"]
    command += ["--dataset", str(dataset), "--tokens", str(arguments.tokens)]
    rounds = []
    for _ in range(arguments.rounds):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rounds.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return max(rounds, key=lambda result: result["tokens_per_second"])


# -- one side, in its own process --------------------------------------------------------


def run_side(side: str, method: str, dataset: Path, tokens: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp())
    if side == "codetune":
        return with_codetune(method, dataset, tokens, folder)
    return with_peer(side, method, dataset, tokens, folder)


def with_codetune(method: str, dataset: Path, tokens: int, folder: Path) -> dict[str, Any]:
    from codetune.artifacts import open_artifact
    from codetune.models.load import resolve_base
    from codetune.progress import Progress
    from codetune.training.config import TrainingOptions
    from codetune.training.metrics import read_metrics
    from codetune.training.train import train

    batch = 8 * ROW  # what TRL's default eight examples hold when they are full rows
    options = TrainingOptions(
        method=method,
        batch_tokens=batch,
        max_steps=steps_for(tokens, batch),
        epochs=100,
        validation_tokens=0,
        checkpoint_seconds=1e9,
    )
    artifact = train(open_artifact(dataset), resolve_base("nano"), options, folder, Progress())
    lines = read_metrics(artifact / "metrics.jsonl")
    warm, last = lines[WARM_STEPS - 1], lines[-1]
    return {
        "tokens_per_second": (last["tokens"] - warm["tokens"])
        / (last["seconds"] - warm["seconds"]),
        "padding_share": last["padding_share"],
        "peak_memory_bytes": artifact.summary["peak_memory_bytes"],
        "steps": len(lines),
        "tokens": last["tokens"],
        "curve": [(line["tokens"], line["loss"]) for line in lines],
        "parameters": artifact.summary["parameters"],
    }


def with_peer(side: str, method: str, dataset: Path, tokens: int, folder: Path) -> dict[str, Any]:
    import torch
    from datasets import Dataset

    from codetune.models.load import resolve_base
    from codetune.models.tokens import TokenStore

    store = TokenStore.open(dataset / "tokens")
    base = resolve_base("nano").path
    lengths = [min(length, ROW) for length in store.lengths.tolist()]
    # Their default of eight examples a step; packed, each of them is a full row.
    per_step = 8 * (ROW if side == "trl-packed" else sum(lengths) / len(lengths))
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
        "report_to": [],
        "disable_tqdm": True,
    }
    rows = Dataset.from_dict({"input_ids": [store[i][0].tolist()[:ROW] for i in range(len(store))]})
    make = plain_trainer if side == "trainer" else trl_trainer
    return watched(make(base, method, rows, shared, packed=side == "trl-packed"))


def steps_for(tokens: int, per_step: float) -> int:
    return max(WARM_STEPS + 2, round(tokens / per_step))


def peak_rate(method: str, base: Path) -> float:
    """codetune's default for a model of this size."""
    from codetune.models.load import load_model
    from codetune.training.methods import METHODS

    model: Any = load_model(base)
    return METHODS[method].learning_rate_for(sum(w.numel() for w in model.parameters()))


def adapter() -> Any:
    """codetune's default LoRA."""
    from peft import LoraConfig

    return LoraConfig(
        r=16, lora_alpha=16, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def trl_trainer(
    base: Path, method: str, rows: Any, shared: dict[str, Any], *, packed: bool
) -> Trainer:
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=str(base),
        args=SFTConfig(packing=packed, **shared),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=adapter() if method == "lora" else None,
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
    model = AutoModelForCausalLM.from_pretrained(base)
    return Trainer(
        model=get_peft_model(model, adapter()) if method == "lora" else model,
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


# -- the report --------------------------------------------------------------------------


def machine_rates() -> dict[str, float]:
    """Measured matrix products, FLOP/s: the best of two seconds each."""
    from codetune.models.hardware import matmul_flops

    return {name: matmul_flops(name, seconds=2) for name in ("bfloat16", "float32")}


def ratio(sides: dict[str, dict[str, Any]]) -> float:
    """codetune's rate over the better of TRL's two."""
    better = max(sides[side]["tokens_per_second"] for side in ("trl", "trl-packed"))
    return float(sides["codetune"]["tokens_per_second"] / better)


def reached(sides: dict[str, dict[str, Any]]) -> bool:
    """At least twice as fast as TRL's better one, in no more memory than its smaller one."""
    return ratio(sides) >= TARGET and reached_memory(sides)


def reached_memory(sides: dict[str, dict[str, Any]]) -> bool:
    memory = min(sides[side]["peak_memory_bytes"] for side in ("trl", "trl-packed"))
    return bool(sides["codetune"]["peak_memory_bytes"] <= memory)


def table(results: dict[str, dict[str, dict[str, Any]]], machine: dict[str, float]) -> str:
    lines = [
        f"Machine: {machine['bfloat16'] / 1e9:,.0f} GFLOP/s in bf16 matrix products, "
        f"{machine['float32'] / 1e9:,.0f} in float32; {os.cpu_count()} cores.",
        "",
        "| method | trainer | real tokens/s | padding | peak memory | share of bf16 rate | loss |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for method, sides in results.items():
        for side, result in sides.items():
            # Products only: 2 FLOP a weight forwards, 2 for the inputs' gradient, 2 for the
            # weights' own where they are trained.
            products = 2 * result["parameters"] * (3 if method == "full" else 2)
            share = products * result["tokens_per_second"] / machine["bfloat16"]
            tail = [loss for _, loss in result["curve"][-5:]]
            lines.append(
                f"| {method} | {SIDES[side][0]} | {result['tokens_per_second']:,.0f} "
                f"| {result['padding_share']:.1%} | {result['peak_memory_bytes'] / 1e6:,.0f} MB "
                f"| {share:.0%} | {result['curve'][0][1]:.2f} → {sum(tail) / len(tail):.2f} |"
            )
        lines.append(
            f"| {method} | **ratio** to the better TRL | **{ratio(sides):.2f}×** | | "
            f"{'not above' if reached_memory(sides) else 'ABOVE'} both of TRL's | | |"
        )
    return "\n".join(lines)


def draw(method: str, sides: dict[str, dict[str, Any]], file: Path) -> None:
    """The loss curves over real tokens, laid over each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=144, layout="constrained")
    axes = figure.add_subplot()
    for side, (label, colour) in SIDES.items():
        x, y = zip(*sides[side]["curve"], strict=True)
        axes.plot([n / 1e3 for n in x], y, color=colour, label=label, linewidth=1.6)
    axes.set_xlabel("real tokens trained on (thousands)")
    axes.set_ylabel("training loss (nats per token)")
    axes.set_title(f"nano, {method}: same data, same learning rate", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file)


if __name__ == "__main__":
    sys.exit(main())
