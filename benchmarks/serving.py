"""Claims: eight concurrent completions have 3 times the throughput of one after another, and a
single one is not slower than `transformers.generate`.

Both over HTTP, against a `codetune serve` in a process of its own with its defaults; the
requests are plain `http.client` calls, so that the client's own work is small. transformers
runs in float32 and bfloat16, on one core and on all, without HTTP; its best counts.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from codetune.serving.engine import Servable

TOKENS, CONCURRENT = 64, 8
CLAIMS = {"concurrent over one after another": 3.0, "single over transformers.generate": 1.0}
PROMPT_CHARACTERS = 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="nano", help="the base model (default: nano)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else 9
    prompts, rates = over_http(arguments.base, rounds)
    rates |= with_transformers(arguments.base, prompts, rounds)
    rates |= mixed_adapters(arguments.base, prompts, rounds)
    best = max(rate for name, rate in rates.items() if name.startswith("transformers"))
    ratios = {
        "concurrent over one after another": rates["eight at once"] / rates["one after another"],
        "single over transformers.generate": rates["one after another"] / best,
    }
    report(arguments.base, rates, ratios)
    return 0 if all(ratios[name] >= limit for name, limit in CLAIMS.items()) else 1


def report(base: str, rates: dict[str, float], ratios: dict[str, float]) -> None:
    print(f"{base}, {TOKENS} greedy tokens a completion, {machine()}\n")
    print("| how | tokens/s |")
    print("|---|---:|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} |")
    print("\n| claim | ratio | wanted |")
    print("|---|---:|---:|")
    for name, ratio in ratios.items():
        print(f"| {name} | {ratio:.2f} | {CLAIMS[name]:g} |")
    print()
    print(json.dumps({"machine": machine(), "tokens_per_second": rates, "ratios": ratios}))


def machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = re.search(r"model name\s*:\s*(.+)", text)
    return (
        f"{name[1] if name else platform.processor()}, {cores} cores, load {os.getloadavg()[0]:.1f}"
    )


def median_rates(rounds: int, runs: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Tokens per second of each, the median of rounds in turn, after one that is not counted."""
    rates = rates_in_turn(rounds, runs)
    return {name: statistics.median(values) for name, values in rates.items()}


def rates_in_turn(rounds: int, runs: dict[str, Callable[[], int]]) -> dict[str, list[float]]:
    """Tokens per second of each in every round, after one that is not counted.

    Every other round goes backwards, so that nobody always comes after the same one.
    """
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name in list(runs) if round_ % 2 else reversed(runs):
            start = time.perf_counter()
            tokens = runs[name]()
            if round_:
                rates[name].append(tokens / (time.perf_counter() - start))
    return rates


def candidates() -> Iterator[str]:
    """The beginnings of some of the standard library's files."""
    for file in sorted(Path(os.__file__).parent.glob("*.py")):
        text = file.read_text(errors="replace")
        if len(text) > 2 * PROMPT_CHARACTERS:
            yield text[:PROMPT_CHARACTERS]


def over_http(base: str, rounds: int) -> tuple[list[str], dict[str, float]]:
    """The prompts, chosen so that no answer ends before its 64th token, and the rates."""
    with server(base) as port:

        def ask(prompt: str, stream: bool = False) -> int:
            body: dict[str, Any] = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
            body |= {"stream": stream, "stream_options": {"include_usage": True}}
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("POST", "/v1/completions", json.dumps(body))
            answer = connection.getresponse().read()
            connection.close()
            return int(re.findall(rb'"completion_tokens":(\d+)', answer)[-1])

        def streams(prompt: str) -> int:
            return ask(prompt, stream=True)

        long = (prompt for prompt in candidates() if ask(prompt) == TOKENS)
        prompts = list(itertools.islice(long, CONCURRENT))
        with ThreadPoolExecutor(CONCURRENT) as pool:
            runs: dict[str, Callable[[], int]] = {
                "one after another": lambda: sum(map(ask, prompts)),
                "eight at once": lambda: sum(pool.map(ask, prompts)),
                "one after another, streamed": lambda: sum(map(streams, prompts)),
                "eight at once, streamed": lambda: sum(pool.map(streams, prompts)),
            }
            return prompts, median_rates(rounds, runs)


@contextmanager
def server(base: str, *more: str) -> Iterator[int]:
    """`codetune serve` on a free port, without tuned models; `more` are further arguments."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-u", "-m", "codetune", "serve", "--base", base, "--port", "0"]
        command += more
        environment = {**os.environ, "CODETUNE_HOME": home}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a line for each request
            text=True,
            env=environment,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r":(\d+)\s", line)
            assert found, f"the server did not start: {line}"
            yield int(found[1])
        finally:
            process.terminate()
            process.wait(10)


def with_transformers(base: str, prompts: list[str], rounds: int) -> dict[str, float]:
    """Some of the same prompts, one after another."""
    import torch
    from transformers import AutoTokenizer

    from codetune.models.load import load_model, resolve_base

    folder = resolve_base(base).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [tokenizer(prompt, return_tensors="pt") for prompt in prompts[:2]]
    cores = torch.get_num_threads()
    runs = {}
    for name, threads in itertools.product(("float32", "bfloat16"), {1, cores}):
        model: Any = load_model(folder, dtype=getattr(torch, name), device="cpu")

        def generate(model: Any = model, threads: int = threads) -> int:
            torch.set_num_threads(threads)
            made = 0
            for prompt in encoded:
                output = model.generate(
                    **prompt,
                    max_new_tokens=TOKENS,
                    do_sample=False,
                    pad_token_id=tokenizer.eos_token_id,
                )
                made += output.shape[1] - prompt["input_ids"].shape[1]
            return made

        runs[f"transformers.generate, {name}, {threads} threads"] = generate
    return median_rates(max(1, rounds // 3), runs)


def mixed_adapters(base_name: str, prompts: list[str], rounds: int) -> dict[str, float]:
    """The engine alone, without HTTP: what several adapters in one batch cost."""
    from codetune.models.load import resolve_base
    from codetune.models.prompts import Renderer
    from codetune.serving.engine import Job, Sampling, Servable
    from codetune.serving.engines.local import LocalEngine

    base = resolve_base(base_name)
    renderer = Renderer.from_folder(base.path)
    plain = Servable("base", "base", base.path, base)
    engine = LocalEngine()

    def ask(models: list[Servable]) -> int:
        async def one(number: int) -> int:
            ids = renderer.plain(prompts[number])
            rules = Sampling(TOKENS, stop_ids=renderer.fim_stops)
            model = models[number % len(models)]
            job = Job(model, ids, rules, renderer.decode, stream=False)
            async for piece in engine.submit([job])[0]:
                if piece.finish:
                    return piece.finish.tokens
            return 0

        async def all_of_them() -> int:
            return sum(await asyncio.gather(*map(one, range(CONCURRENT))))

        return asyncio.run(all_of_them())

    with tempfile.TemporaryDirectory() as folder:
        tuned = [adapter(base, Path(folder) / str(seed), seed) for seed in range(3)]
        runs = {
            "engine, eight at once: base": lambda: ask([plain]),
            "engine, eight at once: one adapter": lambda: ask(tuned[:1]),
            "engine, eight at once: base and three adapters": lambda: ask([plain, *tuned]),
        }
        rates = median_rates(rounds, runs)
        engine.close()
    return rates


def adapter(base: Any, folder: Path, seed: int, rank: int = 16) -> Servable:
    """A random LoRA on all linear layers; so small that the text stays text."""
    import peft
    import torch

    from codetune.models.load import BASE_FILE, load_model
    from codetune.serving.engine import Servable

    torch.manual_seed(seed)
    model: Any = load_model(base.path, dtype=torch.float32, device="cpu")
    settings = peft.LoraConfig(
        r=rank, target_modules="all-linear", task_type="CAUSAL_LM", use_rslora=True
    )
    tuned = peft.get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.002)
    tuned.save_pretrained(folder)
    (folder / BASE_FILE).write_text(json.dumps({"name": base.name, "digest": base.digest}))
    return Servable(f"adapter{seed}", "adapter", folder, base)


if __name__ == "__main__":
    sys.exit(main())
