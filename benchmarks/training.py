"""Training speed and memory: codetune beside TRL, LLaMA-Factory and the plain transformers Trainer.

TRL stands at its defaults and with packing=True; the plain Trainer pads to the longest example
of a batch; LLaMA-Factory packs. Same base (nano), same examples in the same number of tokens, same
optimizer, peak learning rate (the product's default) and schedule, bf16 on every side, one process
a side, one after the other. Each peer is measured as it comes, in passes of 8 examples, and, where
a few steps with the other `--batches` say that another size is faster here, once more with that.
Two ratios are claimed: over TRL at its fastest, and over everybody as they come; the third, over
everybody at their fastest, is printed beside them. A shared machine is not as fast from minute to
minute: codetune and the peers that set a ratio run again, in turns, and the best of each counts.
LLaMA-Factory's releases pin older libraries (0.9.5: transformers <= 5.6, trl <= 0.24, peft <=
0.18.1, datasets <= 4.0): `--llamafactory PYTHON`, or CODETUNE_LLAMAFACTORY, names the interpreter
of its own environment.

Rates count real tokens (no padding) over the time in training steps without the first three;
memory is the process's highest resident size from the first step on, with libraries and model in
it. The loss curves are laid over each other in `training-<method>.png`. With the default number
of tokens all of it takes about a quarter of an hour on two quiet cores, nearly all of it the
peers'.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.training_peers import EXAMPLES, ROW, WARM_STEPS, steps_for, with_peer

SIDES = {  # name, colour of its curve
    "trainer": ("transformers Trainer, plain", "#16a34a"),
    "trl": ("TRL, defaults", "#94a3b8"),
    "trl-packed": ("TRL, packing=True", "#ea580c"),
    "llamafactory": ("LLaMA-Factory, packed", "#9333ea"),
    "codetune": ("codetune", "#2563eb"),
}
OVER_TRL, OVER_ALL = 2.0, 3.0  # times TRL at its fastest, everybody as they come
SHARE = 0.2  # of the machine's own bf16 rate
TRIAL_STEPS = 2  # after the warm ones, to find a peer's best batch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--tokens", type=int, default=65_536, help="trained on by each side")
    parser.add_argument("--methods", nargs="*", default=["lora", "full"])
    parser.add_argument("--turns", type=int, default=1, help="more runs of what sets a ratio")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    llamafactory = os.environ.get("CODETUNE_LLAMAFACTORY", "")
    parser.add_argument("--llamafactory", metavar="PYTHON", default=llamafactory)
    parser.add_argument("--batches", type=int, nargs="*", default=[1], help="also tried: passes")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=EXAMPLES, help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, help="a dataset artifact; default: codetune's own")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tokens, arguments.turns, arguments.batches = 0, 0, []
    if arguments.side:
        print("\n" + json.dumps(run_side(arguments)))
        return 0
    if importlib.util.find_spec("trl") is None:
        print("The peers are not installed: pip install -e '.[bench]'", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    dataset = arguments.dataset or own_dataset(arguments.out)
    names = [side for side in SIDES if side != "llamafactory" or arguments.llamafactory]
    results = {
        method: [row for side in names for row in rows_of(method, side, dataset, arguments)]
        for method in arguments.methods
    }
    for rows in results.values():
        measure_again(rows, dataset, arguments)
    machine = machine_rates()
    (arguments.out / "training.json").write_text(
        json.dumps({"machine": machine, "results": results}, indent=2)
    )
    print(table(results, machine))
    for method, rows in results.items():
        draw(method, rows, arguments.out / f"training-{method}.png")
    reached = all(
        claim.holds and share(method, rows[-1], machine) >= SHARE
        for method, rows in results.items()
        for claim in claims(rows)
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


def rows_of(
    method: str, side: str, dataset: Path, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """One side as it comes, and a peer with its fastest passes, if that is something else."""

    def once(batch: int, tokens: int) -> dict[str, Any]:
        return measure(method, side, batch, tokens, dataset, arguments)

    if side == "codetune" or not arguments.batches:
        return [once(EXAMPLES, arguments.tokens)]
    rows = [once(EXAMPLES, arguments.tokens)]
    trial = EXAMPLES * ROW * (WARM_STEPS + TRIAL_STEPS)
    sizes = [size for size in arguments.batches if size != EXAMPLES]
    quickest = max([*rows, *(once(size, trial) for size in sizes)], key=rate)["batch"]
    return rows if quickest == EXAMPLES else [*rows, once(quickest, arguments.tokens)]


def measure_again(rows: list[dict[str, Any]], dataset: Path, arguments: argparse.Namespace) -> None:
    """Run codetune and the peers that set a ratio in turns; each row keeps its best."""
    setting = [claim.other for claim in claims(rows)]
    turn = [row for row in rows if row is rows[-1] or any(row is other for other in setting)]
    for _ in range(arguments.turns):
        for row in turn:
            again = measure(
                row["method"], row["side"], row["batch"], arguments.tokens, dataset, arguments
            )
            rates = [*row["rates"], *again["rates"]]
            row.update((again if rate(again) > rate(row) else row) | {"rates": rates})


def measure(
    method: str,
    side: str,
    batch: int,
    tokens: int,
    dataset: Path,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """One side once, in a process of its own; `rates` are the tokens per second of every run."""
    command = [sys.executable, "-m", "benchmarks.training", "--side", f"{method}:{side}"]
    command += ["--dataset", str(dataset), "--tokens", str(tokens), "--batch", str(batch)]
    command += ["--llamafactory", arguments.llamafactory]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {
        **found,
        "method": method,
        "side": side,
        "batch": batch,
        "rates": [found["tokens_per_second"]],
    }


def rate(row: dict[str, Any]) -> float:
    return float(row["tokens_per_second"])


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
    from codetune.models.footprint import bound_kernels
    from codetune.models.load import resolve_base
    from codetune.progress import Progress
    from codetune.training.config import TrainingOptions
    from codetune.training.metrics import read_metrics
    from codetune.training.train import train

    bound_kernels()  # as `codetune tune` does
    batch = 8 * ROW  # what TRL's default eight examples hold when they are full rows
    options = TrainingOptions(
        method=method,
        batch_tokens=batch,
        max_steps=steps_for(tokens, batch),
        epochs=100,
        validation_tokens=0,
        checkpoint_seconds=1e9,
        gap_weight=1,  # as the others: the curves are of the same loss
        distillation=0,
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


class Claim(NamedTuple):
    """codetune beside one of the others."""

    name: str
    other: dict[str, Any]
    ratio: float
    wanted: float
    lighter: bool  # codetune's memory is not above the other's

    @property
    def holds(self) -> bool:
        return self.ratio >= self.wanted and (self.lighter or not self.wanted)


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What is claimed of one method's rows, the last of which is codetune's."""
    *others, ours = rows
    groups = {
        ("TRL at its fastest", OVER_TRL): [row for row in others if "trl" in row["side"]],
        ("everybody as they come", OVER_ALL): [r for r in others if r["batch"] == EXAMPLES],
        ("everybody at their fastest", 0.0): others,
    }
    found = []
    for (name, wanted), group in groups.items():
        other = max(group, key=rate)
        lighter = ours["peak_memory_bytes"] <= other["peak_memory_bytes"]
        found.append(Claim(name, other, rate(ours) / rate(other), wanted, lighter))
    return found


def share(method: str, row: dict[str, Any], machine: dict[str, float]) -> float:
    """The side's matrix products over what the machine could do in bf16.

    Products with weights only: 2 FLOP a weight forwards, 2 for the inputs' gradient, 2 for the
    weights' own where they are trained.
    """
    products = 2 * row["parameters"] * (3 if method == "full" else 2)
    return float(products * rate(row) / machine["bfloat16"])


def rates(row: dict[str, Any]) -> str:
    """The best run, and what the others were."""
    several = len(row["rates"]) > 1
    others = " ({:,.0f} to {:,.0f})".format(min(row["rates"]), max(row["rates"]))
    return f"{rate(row):,.0f}" + others * several


def name_of(row: dict[str, Any]) -> str:
    passes = "" if row["side"] == "codetune" else f", passes of {row['batch']}"
    return SIDES[row["side"]][0] + passes


def table(results: dict[str, list[dict[str, Any]]], machine: dict[str, float]) -> str:
    lines = [
        f"Machine: {machine['bfloat16'] / 1e9:,.0f} GFLOP/s in bf16 matrix products, "
        f"{machine['float32'] / 1e9:,.0f} in float32; {os.cpu_count()} cores.",
        "",
        "| method | trainer | real tokens/s | padding | peak memory | share of bf16 rate | loss |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for method, rows in results.items():
        for row in rows:
            tail = [loss for _, loss in row["curve"][-5:]]
            lines.append(
                f"| {method} | {name_of(row)} | {rates(row)} "
                f"| {row['padding_share']:.1%} | {row['peak_memory_bytes'] / 1e6:,.0f} MB "
                f"| {share(method, row, machine):.0%} "
                f"| {row['curve'][0][1]:.2f} → {sum(tail) / len(tail):.2f} |"
            )
    lines += ["", "| method | codetune over | ratio | wanted | memory |", "|---|---|--:|--:|---|"]
    for method, rows in results.items():
        for claim in claims(rows):
            lines.append(
                f"| {method} | {claim.name}: {name_of(claim.other)} | **{claim.ratio:.2f}×** "
                f"| {f'≥ {claim.wanted:.0f}' if claim.wanted else ''} "
                f"| {'not above' if claim.lighter else 'ABOVE'} its |"
            )
    return "\n".join(lines)


def draw(method: str, rows: list[dict[str, Any]], file: Path) -> None:
    """The loss curves over real tokens, laid over each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=144, layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        if row["side"] != "codetune" and row["batch"] != EXAMPLES:
            continue
        label, colour = SIDES[row["side"]]
        x, y = zip(*row["curve"], strict=True)
        axes.plot([n / 1e3 for n in x], y, color=colour, label=label, linewidth=1.6)
    axes.set_xlabel("real tokens trained on (thousands)")
    axes.set_ylabel("training loss (nats per token)")
    axes.set_title(f"nano, {method}: same data, same learning rate", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file)


if __name__ == "__main__":
    sys.exit(main())
