"""Passes with a thread for each half of the documents, and with all threads on each kernel.

A step of a small model is thousands of products. Where all threads share each of them, they wait
for each other thousands of times; and where another program computes, too, the one that is waited
for may not be running: GNU OpenMP lets those that are done wait on their cores.
`GOMP_SPINCOUNT=1000`, which codetune's workers set for their jobs, makes them leave soon. codetune
trains small models with a thread for each half instead.

Passes on nano, forwards and backwards, for `--seconds`, alone and with another such process at the
same time; tokens a second of each process.

    python -m benchmarks.side_by_side
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from codetune.jobs.worker import SPINS

if TYPE_CHECKING:
    from codetune.training.batches import Batch
    from codetune.training.passes import Passes

SHARED, LONG, SHORT = "a thread for each half", "all on each kernel", f"GOMP_SPINCOUNT={SPINS}"
WAYS = {SHARED: {}, LONG: {}, f"{LONG}, {SHORT}": {"GOMP_SPINCOUNT": SPINS}}
BATCHES, DOCUMENTS = 16, 12  # of a batch, about 7,700 tokens
SHORTEST, LONGEST = 256, 1024


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="each process computes so long")
    parser.add_argument("--rounds", type=int, default=3, help="in turns; the median counts")
    parser.add_argument("--quick", action="store_true", help="two seconds, one round")
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--side", choices=list(WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 2.0, 1
    if arguments.side:
        print(train(arguments.seconds, arguments.method, shared=arguments.side == SHARED))
        return 0
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for way in WAYS:
            for processes in (1, 2):
                rates = side_by_side(processes, way, arguments)
                found.setdefault((way, processes), []).append(sum(rates) / processes)
    rate = {which: median(rates) for which, rates in found.items()}
    print("| threads | alone, tokens/s | two at once, tokens/s each |\n|---|--:|--:|")
    for way in WAYS:
        print(f"| {way} | {rate[way, 1]:,.0f} | {rate[way, 2]:,.0f} |")
    alone, together = (rate[SHARED, n] / rate[LONG, n] for n in (1, 2))
    print(f"\n{SHARED}, over {LONG}: alone {alone:.2f}, two at once {together:.2f} times")
    return 0 if alone > 1 and together > 1 else 1


def side_by_side(processes: int, way: str, arguments: argparse.Namespace) -> list[float]:
    """Tokens a second of each of so many trainings at once."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    command = [sys.executable, "-m", "benchmarks.side_by_side", "--side", way]
    command += ["--seconds", str(arguments.seconds), "--method", arguments.method]
    running = [
        subprocess.Popen(
            command,
            env=environment | WAYS[way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(processes)
    ]
    for one in running:
        assert one.stdout is not None
        one.stdout.readline()  # it is ready; nobody computes alone while another loads
    for one in running:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.communicate()[0] for one in running]
    if any(one.returncode for one in running):
        raise SystemExit("A training failed; python -m benchmarks.side_by_side --side says why.")
    return [float(text.split()[-1]) for text in said]


def train(seconds: float, method: str, *, shared: bool) -> float:
    """Passes over batches of random documents; returns tokens a second."""
    passes, batches = passes_on_nano(method, shared=shared)
    passes.probe(batches[0])  # kernels are made
    print("ready", flush=True)
    sys.stdin.readline()
    return rate_of(passes, batches, seconds)


def passes_on_nano(method: str, *, shared: bool) -> tuple[Passes, list[Batch]]:
    """nano prepared for training, and batches of random documents."""
    import torch

    from codetune.models.load import resolve_base
    from codetune.progress import Progress
    from codetune.training.attention import layout_of
    from codetune.training.batches import Batch
    from codetune.training.config import TrainingOptions
    from codetune.training.methods import load_base, prepare, trained
    from codetune.training.objective import CausalObjective
    from codetune.training.optimizer import make_optimizer
    from codetune.training.passes import Passes
    from codetune.training.recovery import Recovery
    from codetune.training.threads import Threads

    base, options = resolve_base("nano"), TrainingOptions(method=method)
    loaded = load_base(base, options, dtype=torch.bfloat16, device=torch.device("cpu"))
    objective = CausalObjective(prepare(loaded, options))
    optimizer = make_optimizer("adamw", trained(objective.model), lr=1e-3, weight_decay=0)
    with tempfile.TemporaryDirectory() as folder:
        recovery = Recovery(Path(folder), logging.getLogger(__name__), Progress())
    passes = Passes(
        objective,
        optimizer,
        recovery,
        accumulation=1,
        recover=False,
        checkpointing=False,
        threads=Threads.of(objective.model) if shared else None,
    )
    torch.manual_seed(0)
    batches = []
    for _ in range(BATCHES):
        lengths = torch.randint(SHORTEST, LONGEST + 1, (DOCUMENTS,)).tolist()
        ids = torch.randint(objective.vocabulary, (1, sum(lengths)))
        places = torch.arange(sum(lengths) - 1)
        batches.append(
            Batch(
                input_ids=ids,
                position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
                places=places,
                labels=ids[0, places + 1],
                weights=None,
                layout=layout_of(lengths),
            )
        )
    return passes, batches


def rate_of(passes: Passes, batches: list[Batch], seconds: float) -> float:
    """Passes forwards and backwards for so long; tokens a second."""
    done, start = 0, time.perf_counter()
    for batch in cycle(batches):
        if time.perf_counter() - start > seconds:
            break
        passes.probe(batch)
        done += batch.tokens
    return done / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
