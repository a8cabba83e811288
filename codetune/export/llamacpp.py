"""A GGUF file asked through llama.cpp itself, where its package (xllamacpp) is installed.

It runs in a process of its own: a file that it cannot take ends that process, not this one.
As a program it reads the order on standard input and answers on standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetune.errors import ParityError
from codetune.export.parity import Reference, answer_logits
from codetune.export.probes import TEXTS, Probe
from codetune.export.source import Source
from codetune.export.speech import stops

if TYPE_CHECKING:
    from torch import Tensor, nn

_PATIENCE = 1800.0  # seconds
_WINDOW = 1024  # tokens; the prompts of the comparison are short
_MARK = "codetune-llamacpp:"  # before our line: llama.cpp prints what it likes


# How much less likely than the likeliest token, in nats, one may be that llama.cpp chooses: it
# keeps keys and values in 16 bits, and with quantised weights its activations in 8.
_TIE, _TIE_QUANTISED = 0.05, 0.5


@dataclass(frozen=True)
class Spoken:
    """How llama.cpp itself answers with a file."""

    compared: str
    texts: int
    same_texts: int  # greedy answers that are the model's to the last token
    largest_gap: float  # nats, where others part, between its token and the likeliest one

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def is_installed() -> bool:
    import importlib.util

    return importlib.util.find_spec("xllamacpp") is not None


def ask(
    file: Path, probes: Sequence[Probe], lengths: Sequence[int], texts: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
    """llama.cpp's greedy answers to `probes`, of so many tokens, and its token ids of `texts`.

    Raises:
        ParityError: llama.cpp cannot load or run the file.
    """
    order = {
        "file": str(file),
        "prompts": [list(probe.ids) for probe in probes],
        "lengths": list(lengths),
        "texts": list(texts),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "codetune.export.llamacpp"],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ParityError(f"llama.cpp did not answer within {_PATIENCE:.0f} seconds.") from error
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith(_MARK):
            said = json.loads(line.removeprefix(_MARK))
            return said["answers"], said["ids"]
    last = done.stderr.decode(errors="replace").strip().splitlines()
    raise ParityError(
        f"llama.cpp cannot use the file: it ended with {done.returncode}"
        + (f", after: {last[-1][:300]}" if last else "."),
        advice="Nothing was kept. Export as safetensors, and please report this with the base's "
        "name.",
    )


def through_llamacpp(
    source: Source, reference: Reference, model: nn.Module, file: Path, kind: str
) -> Spoken:
    """Compare llama.cpp's answers with those of `model`, which has the weights of `file`.

    Raises:
        ParityError: it splits text otherwise, or chooses tokens that the weights do not explain.
    """
    lengths = [len(answer) for answer in reference.answers]
    answers, ids = ask(file, reference.probes, lengths, TEXTS)
    for text, theirs in zip(TEXTS, ids, strict=True):
        if theirs != source.renderer.plain(text):
            raise ParityError(
                f"llama.cpp splits {text[:40]!r} into other tokens than the model was trained on.",
                advice="Nothing was kept. Export as safetensors.",
            )
    same, largest, ends = 0, 0.0, stops(source)
    for probe, ours, theirs in zip(reference.probes, reference.answers, answers, strict=True):
        place = _parting(ours, theirs)
        if place is None:
            same += 1
            continue
        row = answer_logits(model, probe.ids, ours)[place]
        largest = max(largest, _gap(row, theirs[place : place + 1] or ends))
    limit = _TIE_QUANTISED if kind.startswith("q") else _TIE
    if largest > limit:
        raise ParityError(
            f"llama.cpp chooses a token that is {largest:.2g} nats less likely, by the file's own "
            f"weights, than the likeliest; {limit:g} may be its rounding.",
            advice="Nothing was kept. Export as safetensors, and please report this with the "
            "base's name.",
        )
    return Spoken("llama.cpp", len(answers), same, largest)


def _parting(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """The first place at which an answer is another one, or ends early."""
    for place, token in enumerate(ours):
        if place >= len(theirs) or theirs[place] != token:
            return place
    return None


def _gap(scores: Tensor, chosen: Sequence[int]) -> float:
    return float(scores.max()) - max(float(scores[token]) for token in chosen)


def main() -> None:
    """Load the file of the order, answer, and end at once."""
    order = json.load(sys.stdin)
    import httpx
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.port = order["file"], 0
    params.n_parallel, params.n_ctx = 1, _WINDOW
    params.verbosity = 0
    params.no_extra_bufts = True  # repacked weights crash on some processors
    server = xllamacpp.Server(params)
    with httpx.Client(
        base_url=server.listening_address, timeout=_PATIENCE, trust_env=False
    ) as client:
        answers = [
            _answer(client, prompt, length)
            for prompt, length in zip(order["prompts"], order["lengths"], strict=True)
        ]
        ids = [_ids(client, text) for text in order["texts"]]
    print(_MARK + json.dumps({"answers": answers, "ids": ids}), flush=True)  # noqa: T201
    os._exit(0)


def _answer(client: Any, prompt: list[int], length: int) -> list[int]:
    body = {
        "prompt": prompt,
        "n_predict": length,
        "temperature": 0.0,
        "top_k": 1,
        "return_tokens": True,
        "cache_prompt": False,
        "ignore_eos": False,
    }
    reply = client.post("/completion", json=body)
    reply.raise_for_status()
    return [int(token) for token in reply.json()["tokens"]]


def _ids(client: Any, text: str) -> list[int]:
    body = {"content": text, "add_special": False, "parse_special": False}
    reply = client.post("/tokenize", json=body)
    reply.raise_for_status()
    return [int(token) for token in reply.json()["tokens"]]


if __name__ == "__main__":
    main()
