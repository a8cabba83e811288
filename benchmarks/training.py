"""Training speed and memory: codetune beside TRL, LLaMA-Factory and the plain transformers Trainer.

TRL stands at its defaults and with packing=True; the plain Trainer pads to the longest example
of a batch; LLaMA-Factory packs. Same base (nano), same examples in the same number of tokens, same
optimizer, peak learning rate (the product's default) and schedule, bf16 on every side, one process
a side, one after the other. Each peer is first tried for a few steps with passes of 8, 2 and 1
examples (`--batches`), and measured with the one that is fastest. LLaMA-Factory's releases pin
older libraries (0.9.5: transformers <= 5.6, trl <= 0.24, peft <= 0.18.1, datasets <= 4.0):
`--llamafactory PYTHON` names the interpreter of an environment of its own.

Rates count real tokens (no padding) over the time in training steps without the first three;
memory is the process's highest resident size from the first step on, with libraries and model in
it. The loss curves are laid over each other in `training-<method>.png`. With the default number
of tokens all of it takes about half an hour on two quiet cores, nearly all of it the peers'.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.training_peers import EXAMPLES, ROW, WARM_STEPS, steps_for, with_peer

SIDES = {  # name, colour of its curve
    "trainer": ("transformers Trainer, plain", "#16a34a"),
    "trl": ("TRL, defaults", "#94a3b8"),
    "trl-packed": ("TRL, packing=True", "#ea580c"),
    "llamafactory": ("LLaMA-Factory, packed", "#9333ea"),
    "codetune": ("codetune", "#2563eb"),
}
TARGET = 3.0  # times the fastest of the others
SHARE = 0.2  # of the machine's own bf16 rate
TRIAL_STEPS = 3  # after the warm ones, to find a peer's best batch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--tokens", type=int, default=100_000, help="trained on by each side")
    parser.add_argument("--methods", nargs="*", default=["lora", "full"])
    parser.add_argument("--rounds", type=int, default=1, help="the best of them counts")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--llamafactory", metavar="PYTHON", default="", help="its interpreter")
    parser.add_argument("--batches", type=int, nargs="*", default=[8, 2, 1], help="peers' passes")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=EXAMPLES, help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, help="a dataset artifact; default: codetune's own")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tokens, arguments.rounds, arguments.batches = 0, 1, [EXAMPLES]
    if arguments.side:
        print("\n" + json.dumps(run_side(arguments)))
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    dataset = arguments.dataset or own_dataset(arguments.out)
    names = [side for side in SIDES if side != "llamafactory" or arguments.llamafactory]
    results = {
        method: {side: best_round(method, side, dataset, arguments) for side in names}
        for method in arguments.methods
    }
    machine = machine_rates()
    (arguments.out / "training.json").write_text(
        json.dumps({"machine": machine, "results": results}, indent=2)
    )
    print(table(results, machine))
    for method, sides in results.items():
        draw(method, sides, arguments.out / f"training-{method}.png")
    reached = all(
        ratio(sides) >= TARGET and memory_holds(sides) and share(method, sides, machine) >= SHARE
        for method, sides in results.items()
    )
    return 0 if reached else 1


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
    """The fastest of the rounds, each in a process of its own; peers with their best batch."""

    def once(batch: int, tokens: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.training", "--side", f"{method}:{side}"]
        command += ["--dataset", str(dataset), "--tokens", str(tokens), "--batch", str(batch)]
        command += ["--llamafactory", arguments.llamafactory]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return {**json.loads(done.stdout.strip().splitlines()[-1]), "batch": batch}

    def rate(result: dict[str, Any]) -> float:
        return float(result["tokens_per_second"])

    batch = arguments.batches[0]
    if side != "codetune" and len(arguments.batches) > 1:
        trial = EXAMPLES * ROW * (WARM_STEPS + TRIAL_STEPS)
        batch = max((once(batch, trial) for batch in arguments.batches), key=rate)["batch"]
    return max((once(batch, arguments.tokens) for _ in range(arguments.rounds)), key=rate)


# -- one side, in its own process --------------------------------------------------------


def run_side(arguments: argparse.Namespace) -> dict[str, Any]:
    method, side = arguments.side.split(":")
    folder = Path(tempfile.mkdtemp())
    dataset, tokens = arguments.dataset, arguments.tokens
    if side == "codetune":
        return with_codetune(method, dataset, tokens, folder)
    return with_peer(side, method, dataset, tokens, arguments.batch, folder, arguments.llamafactory)


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
        gap_weight=1,  # as the others: the curves are of the same loss
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


# -- the report --------------------------------------------------------------------------


def machine_rates() -> dict[str, float]:
    """Measured matrix products, FLOP/s: the best of two seconds each."""
    from codetune.models.hardware import matmul_flops

    return {name: matmul_flops(name, seconds=2) for name in ("bfloat16", "float32")}


def fastest(sides: dict[str, dict[str, Any]]) -> str:
    """The fastest of the others."""
    others = [side for side in sides if side != "codetune"]
    return max(others, key=lambda side: float(sides[side]["tokens_per_second"]))


def ratio(sides: dict[str, dict[str, Any]]) -> float:
    """codetune's rate over that of the fastest of the others."""
    other = sides[fastest(sides)]["tokens_per_second"]
    return float(sides["codetune"]["tokens_per_second"] / other)


def memory_holds(sides: dict[str, dict[str, Any]]) -> bool:
    """Whether codetune takes no more memory than the fastest of the others."""
    other = sides[fastest(sides)]["peak_memory_bytes"]
    return bool(sides["codetune"]["peak_memory_bytes"] <= other)


def share(
    method: str, sides: dict[str, dict[str, Any]], machine: dict[str, float], side: str = "codetune"
) -> float:
    """The side's matrix products over what the machine could do in bf16.

    Products with weights only: 2 FLOP a weight forwards, 2 for the inputs' gradient, 2 for the
    weights' own where they are trained.
    """
    products = 2 * sides[side]["parameters"] * (3 if method == "full" else 2)
    return float(products * sides[side]["tokens_per_second"] / machine["bfloat16"])


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
            tail = [loss for _, loss in result["curve"][-5:]]
            batch = "" if side == "codetune" else f", passes of {result['batch']}"
            lines.append(
                f"| {method} | {SIDES[side][0]}{batch} | {result['tokens_per_second']:,.0f} "
                f"| {result['padding_share']:.1%} | {result['peak_memory_bytes'] / 1e6:,.0f} MB "
                f"| {share(method, sides, machine, side):.0%} "
                f"| {result['curve'][0][1]:.2f} → {sum(tail) / len(tail):.2f} |"
            )
        lines.append(
            f"| {method} | **ratio** to {SIDES[fastest(sides)][0]} | **{ratio(sides):.2f}×** | | "
            f"{'not above' if memory_holds(sides) else 'ABOVE'} its | | |"
        )
    return "\n".join(lines)


def draw(method: str, sides: dict[str, dict[str, Any]], file: Path) -> None:
    """The loss curves over real tokens, laid over each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=144, layout="constrained")
    axes = figure.add_subplot()
    for side in sides:
        label, colour = SIDES[side]
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
