"""Bits per byte: how well a model predicts text, comparable between tokenizers.

The score of a passage is -sum(log2 p(token)) / UTF-8 bytes over its region alone. The context
before the region and the file's header are given, not scored. Context and region are tokenised
separately, so that the border between them is also a border between tokens, and every byte
belongs to exactly one scored token. (Tokenising them together would be worth a fraction of a
bit per region to both sides, and would score bytes of the context where a token straddles.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codetune.models.prompts import Renderer
from codetune.models.seq2seq import target_logits
from codetune.progress import Progress

if TYPE_CHECKING:
    import torch

# Logits of one batch, in cells (tokens x vocabulary): 2**22 float32 cells are 16 MB; larger
# batches were slower, not faster.
LOGIT_CELLS = 2**22


@dataclass(frozen=True)
class Passage:
    """A text to score, after a context that is only read; `cluster` is what to resample by."""

    id: str
    cluster: str
    repo: str
    path: str
    context: str
    text: str
    language: str = "text"
    split: str = ""


@dataclass(frozen=True)
class Window:
    """One forward pass's row: tokens from `scored` on are scored, those before it are given."""

    passage: int
    tokens: list[int]
    scored: int


def score_passages(
    model: torch.nn.Module,
    renderer: Renderer,
    passages: Sequence[Passage],
    *,
    window: int,
    progress: Progress,
    label: str,
) -> list[float]:
    """The bits each passage's text costs under `model`, in the passages' order."""
    windows = cut_windows(renderer, passages, window)
    bits = [0.0] * len(passages)
    with progress.task(label, total=len(windows), unit="windows") as task:
        for batch in _batches(windows, renderer.vocab_size):
            for row, nats in zip(batch, _window_nats(model, batch), strict=True):
                bits[row.passage] += nats / math.log(2)
            task.advance(len(batch))
    return bits


def cut_windows(renderer: Renderer, passages: Sequence[Passage], window: int) -> list[Window]:
    """Rows of at most `window` tokens in which every region token is scored once.

    Each row begins with the file's header and reads up to half a row of what stands before its
    first scored token; a region longer than the rest is taken in strides. (More context for a
    short region would cost three times the computation for little: both sides read the same.)
    """
    contexts = renderer.plain_batch([passage.context for passage in passages])
    regions = renderer.plain_batch([passage.text for passage in passages])
    rows: list[Window] = []
    for number, passage in enumerate(passages):
        # Something must stand before the first token; end-of-text does where there is no header.
        header = renderer.start(passage.repo, passage.path) or [renderer.eos_id]
        header = header[: window // 4]
        stream, position = contexts[number] + regions[number], len(contexts[number])
        room = window - len(header)
        while position < len(stream):
            given = min(position, room // 2)
            new = min(len(stream) - position, room - given)
            tokens = header + stream[position - given : position + new]
            rows.append(Window(number, tokens, len(header) + given))
            position += new
    return rows


def _batches(windows: Sequence[Window], vocabulary: int) -> list[list[Window]]:
    """Windows of like length together, so that little is padded; longest first."""
    budget = max(1, LOGIT_CELLS // vocabulary)
    batches: list[list[Window]] = []
    for row in sorted(windows, key=lambda row: (-len(row.tokens), row.scored)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].tokens) <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _window_nats(model: torch.nn.Module, batch: Sequence[Window]) -> list[float]:
    """The nats of each row's scored tokens.

    Rows are padded on the right and no mask is given: a causal model's logits do not depend on
    what stands after them.
    """
    import torch

    whole: Any = model
    if whole.config.is_encoder_decoder:
        return _target_nats(model, batch)
    device = next(model.parameters()).device
    width = len(batch[0].tokens)
    first = min(row.scored for row in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    mark = torch.zeros((len(batch), width - first), dtype=torch.bool)
    for number, row in enumerate(batch):
        ids[number, : len(row.tokens)] = torch.tensor(row.tokens)
        mark[number, row.scored - first : len(row.tokens) - first] = True
    ids, mark = ids.to(device), mark.to(device)
    keep = torch.arange(first - 1, width - 1, device=device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        nats = torch.nn.functional.cross_entropy(
            logits[mark].float(), ids[:, first:][mark], reduction="none"
        )
        sums = torch.zeros(len(batch), dtype=torch.float64, device=device)
        rows = mark.nonzero()[:, 0]
        return list(map(float, sums.index_add(0, rows, nats.double()).tolist()))


def _target_nats(model: torch.nn.Module, batch: Sequence[Window]) -> list[float]:
    """The same of an encoder with a decoder: what is given goes in, what is scored comes out."""
    import torch

    sources = [row.tokens[: row.scored] for row in batch]
    targets = [row.tokens[row.scored :] for row in batch]
    with torch.inference_mode():
        logits = target_logits(model, sources, targets)
        return [
            float(
                torch.nn.functional.cross_entropy(
                    logits[number, : len(target)].float(),
                    torch.tensor(target, device=logits.device),
                    reduction="sum",
                )
            )
            for number, target in enumerate(targets)
        ]
