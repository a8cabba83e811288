"""Claims: eight concurrent completions have 3 times the throughput of one after another, and a
single one is not slower than `transformers.generate`.

Both over HTTP, against a `codetune serve` in a process of its own with its defaults; the
requests are plain `http.client` calls, so that the client's own work is small. transformers
runs with its weights in float32 and in bfloat16, and the better of the two counts.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
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
PROMPTS = [
    "import json\nimport os\n\n\ndef read_config(path):\n    ",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "def test_add():\n    assert add(1, 2) == 3\n\n\ndef test_subtract():\n    ",
    "import argparse\n\n\ndef main():\n    parser = argparse.ArgumentParser()\n    ",
    "from pathlib import Path\n\n\ndef find_files(root, pattern):\n    for path in ",
    "class Parser:\n    def parse(self, text):\n        tokens = text.split()\n        ",
    "def factorial(n):\n    if n == 0:\n        return 1\n    ",
    "import unittest\n\n\nclass TestServer(unittest.TestCase):\n    def setUp(self):\n        ",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="nano", help="the base model (default: nano)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else 9
    rates = over_http(arguments.base, rounds)
    rates |= with_transformers(arguments.base, rounds)
    rates |= mixed_adapters(arguments.base, rounds)
    best = max(rates["transformers float32"], rates["transformers bfloat16"])
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


def median_rate(rounds: int, run: Callable[[], int]) -> float:
    """Tokens per second, the median of several rounds after a first one that is not counted."""
    run()
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        tokens = run()
        rates.append(tokens / (time.perf_counter() - start))
    return statistics.median(rates)


def over_http(base: str, rounds: int) -> dict[str, float]:
    with server(base) as port:

        def ask(prompt: str, stream: bool = False) -> int:
            body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": stream}
            body["stream_options"] = {"include_usage": True}
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("POST", "/v1/completions", json.dumps(body))
            answer = connection.getresponse().read()
            connection.close()
            counts = re.findall(rb'"completion_tokens":(\d+)', answer)
            return int(counts[-1])

        with ThreadPoolExecutor(CONCURRENT) as pool:

            def streams(prompt: str) -> int:
                return ask(prompt, stream=True)

            return {
                "one after another": median_rate(rounds, lambda: sum(map(ask, PROMPTS))),
                "eight at once": median_rate(rounds, lambda: sum(pool.map(ask, PROMPTS))),
                "one after another, streamed": median_rate(
                    rounds, lambda: sum(map(streams, PROMPTS))
                ),
                "eight at once, streamed": median_rate(
                    rounds, lambda: sum(pool.map(streams, PROMPTS))
                ),
            }


@contextmanager
def server(base: str) -> Iterator[int]:
    """`codetune serve` on a free port, without tuned models."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-u", "-m", "codetune", "serve", "--base", base, "--port", "0"]
        environment = {**os.environ, "CODETUNE_HOME": home}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r":(\d+)\s", line)
            assert found, f"the server did not start: {line}"
            yield int(found[1])
        finally:
            process.terminate()
            process.wait(10)


def with_transformers(base: str, rounds: int) -> dict[str, float]:
    import torch
    from transformers import AutoTokenizer

    from codetune.models.load import load_model, resolve_base

    folder = resolve_base(base).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer(prompt, return_tensors="pt") for prompt in PROMPTS]
    rates = {}
    for name in ("float32", "bfloat16"):
        model: Any = load_model(folder, dtype=getattr(torch, name), device="cpu")
        pad = model.config.eos_token_id if tokenizer.pad_token_id is None else None

        def generate(model: Any = model, pad: int | None = pad) -> int:
            made = 0
            for prompt in prompts:
                output = model.generate(
                    **prompt, max_new_tokens=TOKENS, do_sample=False, pad_token_id=pad
                )
                made += output.shape[1] - prompt["input_ids"].shape[1]
            return made

        rates[f"transformers {name}"] = median_rate(max(2, rounds // 3), generate)
    return rates


def mixed_adapters(base_name: str, rounds: int) -> dict[str, float]:
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
            ids = renderer.plain(PROMPTS[number])
            rules = Sampling(TOKENS, stop_ids=renderer.fim_stops)
            model = models[number % len(models)]
            async for piece in engine.submit(Job(model, ids, rules, renderer.decode, False)):
                if piece.finish:
                    return piece.finish.tokens
            return 0

        async def all_of_them() -> int:
            return sum(await asyncio.gather(*map(one, range(CONCURRENT))))

        return asyncio.run(all_of_them())

    with tempfile.TemporaryDirectory() as folder:
        tuned = [adapter(base, Path(folder) / str(seed), seed) for seed in range(3)]
        rates = {
            "engine, eight at once: base": median_rate(rounds, lambda: ask([plain])),
            "engine, eight at once: one adapter": median_rate(rounds, lambda: ask(tuned[:1])),
            "engine, eight at once: base and three adapters": median_rate(
                rounds, lambda: ask([plain, *tuned])
            ),
        }
        engine.close()
    return rates


def adapter(base: Any, folder: Path, seed: int) -> Servable:
    """A random LoRA of rank 16 on all linear layers; so small that the text stays text."""
    import peft
    import torch

    from codetune.models.load import BASE_FILE, load_model
    from codetune.serving.engine import Servable

    torch.manual_seed(seed)
    model: Any = load_model(base.path, dtype=torch.float32, device="cpu")
    settings = peft.LoraConfig(
        r=16, target_modules="all-linear", task_type="CAUSAL_LM", use_rslora=True
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
