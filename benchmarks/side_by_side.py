"""Two trainings on the same cores: threads that wait long for each other, and threads that do not.

A step of a small model is thousands of products, each shared by all threads. GNU OpenMP lets a
thread that is done wait on its core for the others; where another program computes, too, the one
it waits for cannot run there. `GOMP_SPINCOUNT=1000`, which codetune's workers set for their jobs,
makes it leave the core soon. Alone that costs a little.

Passes of LoRA on nano, forwards and backwards, for `--seconds`; tokens a second of each process.

    python -m benchmarks.side_by_side
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from statistics import median

from codetune.jobs.worker import SPINS

WAYS = {"as it comes": {}, f"GOMP_SPINCOUNT={SPINS}": {"GOMP_SPINCOUNT": SPINS}}
TOKENS, LENGTH = 4096, 512  # of a pass, of a document in it


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="each process computes so long")
    parser.add_argument("--rounds", type=int, default=3, help="in turns; the median counts")
    parser.add_argument("--quick", action="store_true", help="two seconds, one round")
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 2.0, 1
    if arguments.side:
        print(train(arguments.seconds))
        return 0
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for way in WAYS:
            for processes in (1, 2):
                rates = side_by_side(processes, way, arguments.seconds)
                found.setdefault((way, processes), []).append(sum(rates) / processes)
    rate = {which: median(rates) for which, rates in found.items()}
    print("| threads wait | alone, tokens/s | two at once, tokens/s each |\n|---|--:|--:|")
    for way in WAYS:
        print(f"| {way} | {rate[way, 1]:,.0f} | {rate[way, 2]:,.0f} |")
    long, short = WAYS
    gain, cost = rate[short, 2] / rate[long, 2], rate[short, 1] / rate[long, 1]
    print(f"\ntwo at once: {gain:.1f} times as fast ; alone: {cost:.2f} times")
    return 0 if gain > 1 else 1


def side_by_side(processes: int, way: str, seconds: float) -> list[float]:
    """Tokens a second of each of so many trainings at once."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    command = [sys.executable, "-m", "benchmarks.side_by_side", "--side", "--seconds", str(seconds)]
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


def train(seconds: float) -> float:
    """Passes over one batch of random documents; returns tokens a second."""
    import torch

    from codetune.models.load import resolve_base
    from codetune.training.attention import layout_of
    from codetune.training.batches import Batch
    from codetune.training.config import TrainingOptions
    from codetune.training.methods import load_base, prepare
    from codetune.training.objective import CausalObjective

    base, options = resolve_base("nano"), TrainingOptions()
    loaded = load_base(base, options, dtype=torch.bfloat16, device=torch.device("cpu"))
    objective = CausalObjective(prepare(loaded, options))
    torch.manual_seed(0)
    places = torch.arange(TOKENS - 1)
    ids = torch.randint(objective.vocabulary, (1, TOKENS))
    batch = Batch(
        input_ids=ids,
        position_ids=(torch.arange(TOKENS) % LENGTH)[None],
        places=places,
        labels=ids[0, places + 1],
        weights=None,
        layout=layout_of([LENGTH] * (TOKENS // LENGTH)),
    )
    objective.loss(batch).backward()  # type: ignore[no-untyped-call]  # kernels are made
    print("ready", flush=True)
    sys.stdin.readline()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        objective.loss(batch).backward()  # type: ignore[no-untyped-call]
        done += TOKENS
    return done / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
