"""The same prompts and weights: `codetune serve`, `transformers serve`, llama.cpp's server.

All answer OpenAI's /v1/completions as streams, in processes of their own, each with its defaults:
ours and transformers in float32 and bfloat16, transformers with and without continuous batching,
llama.cpp with F16 weights through xllamacpp. One peer runs at a time, and each of its rounds stands
beside one of each of ours: the ratios are the medians of the rounds'. The first token's p50 and the
tokens per second of all users together. A server that does not answer on this machine is left out,
and that is said.

Claim: in the same number type at least 2 times `transformers serve`. For llama.cpp there is no
claim: its kernels are written for this work, and it uses the cores that it is given, where the
engine uses one.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.serving import PROMPT_CHARACTERS, machine, server

if TYPE_CHECKING:
    from codetune.models.prompts import Renderer

TOKENS, USERS = 64, 8
DTYPES = ("float32", "bfloat16")  # of ours: the default on a CPU, and the other one
CLAIM = 2.0
START = 75.0  # seconds that a server has to answer for the first time
SILENCE = 40.0  # seconds after which it is given up
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


class Numbers(NamedTuple):
    first: float  # seconds to the first token, p50
    rate: float  # tokens per second of all users


class Row(NamedTuple):
    """A server's numbers, and how much more of ours in each of DTYPES."""

    numbers: Numbers
    ratios: list[float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else 5
    prompts = _prompts()
    _renderer()
    own: list[list[Numbers]] = [[] for _ in DTYPES]
    rows: dict[str, Row] = {}
    with ExitStack() as servers:
        ports = [servers.enter_context(server("nano", "--dtype", dtype)) for dtype in DTYPES]
        ours = [Peer(port, "nano") for port in ports]
        for name, start in _peers().items():
            with start() as peer:
                sides = _beside(ours, peer, itertools.islice(prompts, rounds + 1)) if peer else []
            if not sides:
                print(f"{name}: it does not answer on this machine", file=sys.stderr)
                continue
            *mine, theirs = zip(*sides, strict=True)
            for numbers, these in zip(own, mine, strict=True):
                numbers += these
            ratios = [
                statistics.median(a.rate / b.rate for a, b in zip(these, theirs, strict=True))
                for these in mine
            ]
            rows[name] = Row(_median(theirs), ratios)
        for numbers, peer in zip(own, ours, strict=True):
            numbers += [] if rows else [measure(peer, next(prompts)) for _ in range(rounds)]
    report([_median(numbers) for numbers in own], rows)
    same = [
        row.ratios[number]
        for number, dtype in enumerate(DTYPES)
        for name, row in rows.items()
        if name.startswith(f"transformers serve, {dtype}")
    ]
    return 0 if all(ratio >= CLAIM for ratio in same) else 1


def _beside(
    ours: list[Peer], peer: Peer, prompts: Iterator[list[str]]
) -> list[tuple[Numbers, ...]]:
    """Ours and the peer in each round but the first, which is warm-up; none where it breaks off."""
    sides = []
    for asked in prompts:
        mine = [measure(one, asked) for one in ours]
        try:
            sides.append((*mine, measure(peer, asked)))
        except (OSError, http.client.HTTPException, RuntimeError):
            return []
    return sides[1:]


def _prompts() -> Iterator[list[str]]:
    """One for each user, new ones in each round: nobody has read any of them before."""
    files = [
        text
        for file in sorted(Path(os.__file__).parent.glob("*.py"))
        if len(text := file.read_text(errors="replace")) > 60 * PROMPT_CHARACTERS
    ]
    for begin in itertools.count(0, PROMPT_CHARACTERS):
        yield [text[begin : begin + PROMPT_CHARACTERS] for text in files[:USERS]]


def report(ours: list[Numbers], rows: dict[str, Row]) -> None:
    print(f"nano, {USERS} users at once, {TOKENS} greedy tokens each, {machine()}\n")
    over = " | ".join(f"ours in {dtype} over it" for dtype in DTYPES)
    print(f"| server | first token, p50, ms | tokens/s | {over} |\n|---|" + "---:|" * 4)
    mine = {
        f"codetune serve, {dtype}": Row(numbers, [one.rate / numbers.rate for one in ours])
        for dtype, numbers in zip(DTYPES, ours, strict=True)
    }
    for name, (numbers, ratios) in {**mine, **rows}.items():
        cells = [f"{numbers.first * 1e3:.0f}", f"{numbers.rate:.0f}", *(f"{r:.2f}" for r in ratios)]
        print(f"| {name} | {' | '.join(cells)} |")
    print()
    print(json.dumps({"machine": machine(), "ours": ours, "rows": rows}))


def _median(many: Sequence[Numbers]) -> Numbers:
    return Numbers(
        statistics.median(n.first for n in many), statistics.median(n.rate for n in many)
    )


def _peers() -> dict[str, Callable[[], AbstractContextManager[Peer | None]]]:
    from codetune.models.load import resolve_base

    folder = resolve_base("nano").path
    peers: dict[str, Callable[[], AbstractContextManager[Peer | None]]] = {}
    if importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("gguf"):
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            peers[f"llama.cpp, F16, {threads} threads"] = partial(_llama, folder, threads)
    else:
        print("llama.cpp is left out: pip install xllamacpp gguf", file=sys.stderr)
    for dtype, batching in itertools.product(DTYPES, (True, False)):
        name = f"transformers serve, {dtype}{', continuous batching' if batching else ''}"
        peers[name] = partial(_transformers, folder, dtype, batching)
    return peers


@contextmanager
def _llama(folder: Path, threads: int) -> Iterator[Peer]:
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
    """None where it does not answer soon."""
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
        until = time.monotonic() + START
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


def measure(peer: Peer, prompts: list[str]) -> Numbers:
    """One round: all users at once."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        started = time.perf_counter()
        answers = list(pool.map(lambda prompt: ask(peer, prompt, TOKENS), prompts))
        passed = time.perf_counter() - started
    first = statistics.median(first for first, _ in answers)
    return Numbers(first, sum(made for _, made in answers) / passed)


def ask(peer: Peer, prompt: str, tokens: int) -> tuple[float, int]:
    """Seconds to the first text, and how many tokens came."""
    body: dict[str, Any] = {"model": peer.model, "prompt": prompt, "max_tokens": tokens}
    body |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    if peer.ids:
        body["prompt"] = _renderer().plain(prompt)
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=SILENCE)
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
