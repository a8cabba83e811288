"""What the card states: held-out bits per byte beside general compressors, and FIM scores."""

from __future__ import annotations

import lzma
import math
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codetune.distance import edit_similarity
from codetune.models.prompts import Pending, Renderer


@dataclass(frozen=True)
class Hole:
    """One place to fill: what stands before, what was there, what follows."""

    kind: str
    before: str
    middle: str
    after: str


def bits_per_byte(
    model: Any, tokenizer: Any, texts: Iterable[tuple[str, str]], context: int
) -> dict[str, float]:
    """Bits per byte by language and over all (`"all"`), long files in windows of `context`.

    Every token but a file's first is predicted once, with at least half a window of context
    where the file has it.
    """
    import torch

    bits: dict[str, float] = defaultdict(float)
    sizes: dict[str, int] = defaultdict(int)
    for language, text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        total, done = 0.0, 1
        while done < len(ids):
            begin = max(0, done - context // 2) if done > 1 else 0
            piece = torch.tensor([ids[begin : begin + context]])
            with torch.inference_mode():
                logits = model(piece).logits[0].float()
            losses = torch.nn.functional.cross_entropy(logits[:-1], piece[0, 1:], reduction="none")
            total += float(losses[done - begin - 1 :].sum())
            done = begin + piece.shape[1]
        first = len(tokenizer.decode(ids[:1]).encode())
        for name in (language, "all"):
            bits[name] += total / math.log(2)
            sizes[name] += len(text.encode()) - first
    return {name: bits[name] / sizes[name] for name in bits}


def compressors(texts: Iterable[str]) -> dict[str, float | None]:
    """Bits per byte of `xz -9` and `zstd -19` on all texts as one file; None without the tool."""
    import shutil
    import subprocess

    joined = "".join(texts).encode()
    xz = len(lzma.compress(joined, preset=9)) * 8 / len(joined)
    zstd = None
    if shutil.which("zstd"):
        packed = subprocess.run(
            ["zstd", "-19", "-q", "-c"], input=joined, capture_output=True, check=True
        )
        zstd = len(packed.stdout) * 8 / len(joined)
    return {"xz -9": xz, "zstd -19": zstd}


def holes(records: Iterable[dict[str, str]], each: int, seed: int) -> list[Hole]:
    """Short holes in held-out Python: `each` line ends and `each` syntax nodes, 5 to 80 bytes."""
    from codetune.models.nano.recipe import DataRecipe
    from codetune.models.nano.rows import Renderer as Rows

    dice = random.Random(seed)
    texts = [record["text"] for record in records if record["language"] == "python"]
    renderer = Rows.__new__(Rows)  # only its syntax-tree picking is used, no tokenizer
    renderer.recipe, renderer._parsers = DataRecipe(), {}
    found: list[Hole] = []
    while sum(hole.kind == "line end" for hole in found) < each:
        text = dice.choice(texts)
        start = dice.randrange(len(text))
        end = text.find("\n", start)
        middle = text[start:end]
        if end > start and len(middle.strip()) >= 5 and len(middle) <= 80 and "#" not in middle:
            found.append(Hole("line end", text[:start], middle, text[end:]))
    while sum(hole.kind == "syntax node" for hole in found) < each:
        text = dice.choice(texts)
        span = renderer._node(text, "python", dice)
        if span and 5 <= span[1] - span[0] <= 80 and text[slice(*span)].strip():
            found.append(Hole("syntax node", text[: span[0]], text[slice(*span)], text[span[1] :]))
    return found


def fill(model: Any, renderer: Renderer, hole: Hole, *, longest: int = 48) -> str:
    """The greedy middle, asked for as the product does it, cut at the end token."""
    import torch

    opening = renderer.fim_opening(hole.before[-2000:], hole.after[:1000])
    beginning, start = opening.beginning, len(opening.ids)
    every = list(range(renderer.vocab_size))

    def allowed(_: int, written: torch.Tensor) -> list[int]:
        if beginning is None:
            return every
        pending = Pending(beginning)
        for token in written[start:].tolist():
            pending.push(token)
        return pending.allowed.tolist() if pending.rest else every

    with torch.inference_mode():
        out = model.generate(
            input_ids=torch.tensor([opening.ids]),
            attention_mask=torch.ones(1, start, dtype=torch.long),
            prefix_allowed_tokens_fn=allowed,
            max_new_tokens=longest + opening.healed,
            do_sample=False,
            eos_token_id=renderer.eos_id,
            pad_token_id=renderer.eos_id,
        )
    answer = renderer.decode(out[0, start:].tolist())
    return answer[len(beginning.text) if beginning else 0 :]


def fim_scores(model: Any, renderer: Renderer, cases: list[Hole]) -> dict[str, dict[str, float]]:
    """Exact match and edit similarity by kind, blanks at both ends ignored."""
    kinds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for hole in cases:
        answer, wanted = fill(model, renderer, hole).strip(), hole.middle.strip()
        kinds[hole.kind].append((float(answer == wanted), edit_similarity(answer, wanted)))
    return {
        kind: {
            "cases": len(pairs),
            "exact_match": sum(pair[0] for pair in pairs) / len(pairs),
            "edit_similarity": sum(pair[1] for pair in pairs) / len(pairs),
        }
        for kind, pairs in kinds.items()
    }


def measure(folder: Path, evaluation: Path, *, context: int, fim_cases: int) -> dict[str, Any]:
    """All measurements of the model in `folder` on the evaluation set."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from codetune.models.nano.general import read_general
    from codetune.models.nano.tokenizer import load_plain

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = load_plain(folder / "tokenizer.json")
    records = list(read_general(evaluation))
    texts = [(record["language"], record["text"]) for record in records]
    return {
        "evaluation_bytes": sum(len(text.encode()) for _, text in texts),
        "bits_per_byte": bits_per_byte(model, tokenizer, texts, context),
        "compressors": compressors(text for _, text in texts),
        "fim": fim_scores(model, Renderer.from_folder(folder), holes(records, fim_cases, seed=5)),
    }
