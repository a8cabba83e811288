"""The same prompts and weights: `codetune serve`, `transformers serve`, llama.cpp's server.

All answer OpenAI's /v1/completions as streams, in turn, in processes of their own, each with its
defaults and continuous batching; transformers in float32 (as we) and bfloat16, llama.cpp with F16
weights through xllamacpp. The first token's p50 and the tokens per second of all users together.
A server that does not answer on this machine is left out, and that is said.

Claim: at least 2 times `transformers serve`. What llama.cpp has over us is written below the table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.serving import candidates, machine, server

if TYPE_CHECKING:
    from codetune.models.prompts import Renderer

TOKENS, USERS = 64, 8
CLAIM = 2.0
LLAMA = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], 0
params.n_parallel, params.n_ctx = int(sys.argv[2]), 2048 * int(sys.argv[2])
params.cpuparams.n_threads = int(sys.argv[3])
params.verbosity = 0
params.no_extra_bufts = True  # repacked weights crash on some processors
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Peer:
    """A server and how it wants to be asked."""

    port: int
    model: str
    ids: bool = False  # prompts as token ids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else 5
    prompts = [text for text, _ in zip(candidates(), range(USERS), strict=False)]
    _renderer()
    found: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        peers = _started(stack)
        for round_ in range(rounds + 1):
            for name, peer in peers.items():
                numbers = measure(peer, prompts)
                if round_:  # the first one is warm-up
                    found.setdefault(name, []).append(numbers)
    rows = {
        name: (statistics.median(f for f, _ in many), statistics.median(t for _, t in many))
        for name, many in found.items()
    }
    print(f"nano, {USERS} users at once, {TOKENS} greedy tokens each, {machine()}\n")
    print("| server | first token, p50, ms | tokens/s | ours over it |\n|---|---:|---:|---:|")
    ours = rows["codetune serve"][1]
    for name, (first, rate) in rows.items():
        print(f"| {name} | {first * 1e3:.0f} | {rate:.0f} | {ours / rate:.2f} |")
    best = max((rate for name, (_, rate) in rows.items() if "transformers" in name), default=None)
    print()
    print(json.dumps({"machine": machine(), "rows": rows}))
    return 0 if best is None or ours >= CLAIM * best else 1


def _started(stack: ExitStack) -> dict[str, Peer]:
    from codetune.models.load import resolve_base

    folder = resolve_base("nano").path
    peers = {"codetune serve": Peer(stack.enter_context(server("nano")), "nano")}
    for dtype in ("float32", "bfloat16"):
        for batching in (True, False):
            name = f"transformers serve, {dtype}{', continuous batching' if batching else ''}"
            peer = stack.enter_context(_transformers(folder, dtype, batching))
            if peer is None:
                print(f"{name}: it does not answer on this machine", file=sys.stderr)
            else:
                peers[name] = peer
    cores = len(os.sched_getaffinity(0))
    try:
        peers[f"llama.cpp, F16, {cores} threads"] = stack.enter_context(_llama(folder, cores))
    except ImportError:
        print("llama.cpp is left out: pip install xllamacpp gguf", file=sys.stderr)
    return peers


@contextmanager
def _llama(folder: Path, threads: int) -> Iterator[Peer]:
    import xllamacpp  # noqa: F401 - it runs in a process of its own

    from benchmarks.gguf_file import write_gguf

    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "nano.gguf"
        write_gguf(folder, file)
        command = [sys.executable, "-c", LLAMA, str(file), str(USERS), str(threads)]
        with _process(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
            assert process.stdout is not None
            address = process.stdout.readline()
            found = re.search(r":(\d+)\s*$", address)
            assert found, f"llama.cpp's server did not start: {address}"
            yield Peer(int(found[1]), "nano", ids=True)


@contextmanager
def _transformers(folder: Path, dtype: str, batching: bool) -> Iterator[Peer | None]:
    """None where it does not answer within four minutes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", dtype]
    command += ["--continuous-batching", "--attn-implementation", "sdpa"] if batching else []
    # By default its cache takes a share of all memory, which never gets ready on a CPU.
    command += ["--cb-num-blocks", "512", "--cb-block-size", "32"] if batching else []
    peer = Peer(port, str(folder))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with _process(command, stderr=subprocess.DEVNULL, env=environment) as process:
        until = time.monotonic() + 240
        answers = False
        while not answers and process.poll() is None and time.monotonic() < until:
            try:
                answers = ask(peer, "def f(", 2)[1] > 0
            except (OSError, http.client.HTTPException, RuntimeError):
                time.sleep(1)
        yield peer if answers else None


@contextmanager
def _process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    options = {"stdout": subprocess.DEVNULL, "text": True, **options}
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(peer: Peer, prompts: list[str]) -> tuple[float, float]:
    """The first token's p50 in seconds, and all tokens per second."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        started = time.perf_counter()
        answers = list(pool.map(lambda prompt: ask(peer, prompt, TOKENS), prompts))
        passed = time.perf_counter() - started
    return statistics.median(first for first, _ in answers), sum(n for _, n in answers) / passed


def ask(peer: Peer, prompt: str, tokens: int) -> tuple[float, int]:
    """Seconds to the first text, and how many tokens came."""
    body: dict[str, Any] = {"model": peer.model, "prompt": prompt, "max_tokens": tokens}
    body |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    if peer.ids:
        body["prompt"] = _renderer().plain(prompt)
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=120)
    started = time.perf_counter()
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read()[:200])
        first, made, chunks = 0.0, 0, 0
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or {}
            made = usage.get("completion_tokens", made)
            if event.get("choices") and event["choices"][0].get("text"):
                first = first or time.perf_counter() - started
                chunks += 1
        return first, made or chunks
    finally:
        connection.close()


@cache
def _renderer() -> Renderer:
    from codetune.models.load import resolve_base
    from codetune.models.prompts import Renderer

    return Renderer.from_folder(resolve_base("nano").path)


if __name__ == "__main__":
    sys.exit(main())
