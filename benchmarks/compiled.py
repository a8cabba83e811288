"""Training passes with the decoder's layers through torch.compile, and as codetune runs them.

Inductor compiles each layer's forward and backward with its RMSNorms as transformers writes them
(they fuse); attention over documents stays outside, as it works on their list. Both sides in one
process, in turns, all threads on each kernel: what Inductor makes for a CPU holds Python's lock,
and cannot run in two threads at once. A C++ compiler must be there.

    python -m benchmarks.compiled [--method full]
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median
from typing import Any

from benchmarks.side_by_side import passes_on_nano, rate_of
from codetune.models.footprint import bound_kernels

MINIMUM = 1.0  # compiled over plain, to be worth its while


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each side, each round")
    parser.add_argument("--rounds", type=int, default=5, help="in turns; the median counts")
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    arguments = parser.parse_args()
    bound_kernels()  # as `codetune tune` does
    plain, batches = passes_on_nano(arguments.method, shared=False)
    compiled = passes_on_nano(arguments.method, shared=False)[0]
    layers = compile_layers(compiled.objective.model)
    start = time.perf_counter()
    for batch in batches:
        compiled.probe(batch)
    took = time.perf_counter() - start
    sides = {"plain": plain, "compiled": compiled}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, passes in sides.items():
            rates[name].append(rate_of(passes, batches, arguments.seconds))
    rate = {name: median(found) for name, found in rates.items()}
    print("| passes | tokens/s |\n|---|--:|")
    for name, found in rate.items():
        print(f"| {name} | {found:,.0f} |")
    ratio = rate["compiled"] / rate["plain"]
    print(
        f"\n{layers} layers compiled: {ratio:.2f} times plain; the first passes took {took:.0f} s"
    )
    return 0 if ratio >= MINIMUM else 1


def compile_layers(model: Any) -> int:
    """Compile each decoder layer, all but its attention over documents; returns how many."""
    import torch

    from codetune.training import attention

    # What is compiled calls it by this name; it is not looked into.
    attention._Documents.apply = torch.compiler.disable(attention._Documents.apply)  # type: ignore
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = causal.get_decoder().layers
    for layer in layers:
        for name, part in layer.named_modules():
            if name.endswith("layernorm"):
                part.forward = type(part).forward.__get__(part)
        layer.forward = torch.compile(layer.forward, dynamic=True)
    return len(layers)


if __name__ == "__main__":
    sys.exit(main())
