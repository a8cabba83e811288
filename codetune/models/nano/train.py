"""The training run: rows in, checkpoints out, resumed by running it again.

Warm-up, plateau, decay: the plateau has no planned end, so a decay can start from any of its
checkpoints. The run keeps everything that decides the future in its checkpoint (weights,
momenta, position in the data, where the decay began); a re-run goes on from there and reaches
the same weights.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from codetune.models.linear_loss import IGNORE, linear_cross_entropy
from codetune.models.nano.network import Lengths, Network
from codetune.models.nano.optimiser import Optimiser
from codetune.models.nano.recipe import Recipe
from codetune.models.nano.rows import Shard, prepare_shard
from codetune.progress import Progress


@dataclass
class Position:
    """Where the run is; saved with the weights."""

    tokens: int = 0
    seconds: float = 0.0
    shard: int = 0
    window: int = 0
    row: int = 0
    decay_from: int = -1
    decay_tokens: int = 0


@dataclass(frozen=True)
class Budget:
    """How long to train: tokens, or minutes of this machine (decay included), whichever is given."""

    tokens: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Workplace:
    """The folders and files of one run."""

    home: Path
    documents: Path
    held_out: Path
    tokenizer: Path
    run: Path

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoint.pt"


class Run:
    """One training run of one recipe in one folder."""

    def __init__(
        self, recipe: Recipe, place: Workplace, device: str = "cpu", compiled: bool = True
    ) -> None:
        self.recipe, self.place, self.device = recipe, place, torch.device(device)
        network = Network(recipe.model)
        network.initialise(recipe.train.seed)
        self.network = network.to(self.device, torch.bfloat16)
        self.optimiser = Optimiser(network.to(self.device), recipe.train)
        self.compiled = compiled
        self.forward: Callable[..., torch.Tensor] = (
            torch.compile(network, dynamic=False) if compiled else network
        )
        self.position = Position(window=recipe.train.short_window)
        self.stopping = False
        if place.checkpoint.exists():
            self._restore()

    # -- the loop -----------------------------------------------------------------------------

    def train(self, budget: Budget, progress: Progress) -> Position:
        """Train until the decay is over, or until asked to stop (SIGTERM saves first)."""
        previous = signal.signal(signal.SIGTERM, self._stop)
        total = self._total(budget)
        saved = started = time.monotonic()
        tokens_before = self.position.tokens
        try:
            with progress.task("nano", total=total, unit="tokens") as task:
                task.advance(self.position.tokens)
                rows = self._rows()
                while not self.finished and not self.stopping:
                    self._plan_decay(budget, time.monotonic() - started, tokens_before)
                    clock = time.monotonic()
                    loss, seen = self._step(rows)
                    self.position.seconds += time.monotonic() - clock
                    task.advance(seen, f"loss {loss:.3f}")
                    if time.monotonic() - saved > self.recipe.train.save_minutes * 60:
                        self.save()
                        self._log(loss=loss, bits_per_byte=self.bits_per_byte())
                        saved = time.monotonic()
        finally:
            signal.signal(signal.SIGTERM, previous)
        self.save()
        self._log(bits_per_byte=self.bits_per_byte(), finished=self.finished)
        return self.position

    @property
    def finished(self) -> bool:
        at = self.position
        return at.decay_from >= 0 and at.tokens >= at.decay_from + at.decay_tokens

    def rate(self) -> float:
        """The learning rates' factor: linear up, flat, linear down."""
        at = self.position
        warm = min(1.0, (at.tokens + 1) / self.recipe.train.warmup_tokens)
        if at.decay_from < 0:
            return warm
        return warm * max(0.0, 1 - (at.tokens - at.decay_from) / max(1, at.decay_tokens))

    def _step(self, rows: Iterator[tuple[torch.Tensor, list[int], int]]) -> tuple[float, int]:
        wanted = max(n for tokens, n in self.recipe.train.rows_per_step if self.position.tokens >= tokens)
        batch = [next(rows) for _ in range(wanted)]
        count = sum(real - len(lengths) for _, lengths, real in batch)
        total = torch.zeros((), device=self.device)
        for tokens, lengths, real in batch:
            loss = self.loss(tokens, lengths, real, divisor=float(count))
            loss.backward()
            self.optimiser.accumulate()
            total += loss.detach()
        norm = self.optimiser.step(self.rate())
        seen = sum(real for _, _, real in batch)
        self.position.tokens += seen
        value = float(total)
        if not math.isfinite(value) or not math.isfinite(norm):
            raise FloatingPointError("The loss is not finite; lower the learning rates.")
        self._log(loss=value, norm=norm, rate=self.rate(), rows=wanted)
        return value, seen

    def loss(
        self, tokens: torch.Tensor, lengths: list[int], real: int, divisor: float | None = None
    ) -> torch.Tensor:
        """Next-token loss of one row; no document predicts into the next one."""
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        labels = torch.roll(tokens, -1)
        ends = torch.tensor(lengths).cumsum(0) - 1
        labels[ends] = IGNORE
        labels[real:] = IGNORE
        hidden = self.forward(tokens.to(self.device), positions, Lengths(lengths))
        head = self.network.model.embed_tokens.weight
        return linear_cross_entropy(
            hidden, head, labels.to(self.device), divisor=divisor, compiled=self.compiled
        )

    # -- the data -----------------------------------------------------------------------------

    def _rows(self) -> Iterator[tuple[torch.Tensor, list[int], int]]:
        """Rows from the position on, for ever; the next shard is prepared in another process."""
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            ahead: dict[Path, Future[None]] = {}
            while True:
                at = self.position
                path = self._prepare(pool, ahead, at.shard, at.window)
                ahead.pop(path).result()
                shard = Shard.load(path)
                self._prepare(pool, ahead, at.shard + 1, self._window())
                while at.row < len(shard.real):
                    if at.window != self._window() and self._window() == self.recipe.train.long_window:
                        break  # the decay began: go over to long chunks now
                    row = at.row
                    at.row += 1
                    tokens = torch.from_numpy(shard.tokens[row].astype("int64"))
                    yield tokens, shard.lengths[row], shard.real[row]
                path.unlink(missing_ok=True)
                at.shard, at.row, at.window = at.shard + 1, 0, self._window()

    def _prepare(
        self, pool: ProcessPoolExecutor, ahead: dict[Path, Future[None]], number: int, window: int
    ) -> Path:
        path = self.place.run / "shards" / f"{number:05d}-{window}.npz"
        if path not in ahead:
            ahead[path] = pool.submit(
                prepare_shard,
                self.place.documents,
                self.place.tokenizer,
                self.recipe.data,
                number,
                window,
                path,
            )
        return path

    def _window(self) -> int:
        train = self.recipe.train
        if self.position.decay_from >= 0:
            return train.long_window
        return train.short_window if self.position.tokens < train.short_tokens else train.window

    # -- the budget ---------------------------------------------------------------------------

    def _plan_decay(self, budget: Budget, elapsed: float, tokens_before: int) -> None:
        """Fix, once, where the decay begins and how long it is."""
        at, share = self.position, self.recipe.train.decay_share
        if at.decay_from >= 0:
            return
        if budget.tokens is not None:
            if at.tokens >= (1 - share) * budget.tokens:
                at.decay_from = at.tokens
                at.decay_tokens = max(1, budget.tokens - at.tokens)
        elif budget.minutes is not None:
            seconds = budget.minutes * 60
            if elapsed >= (1 - share) * seconds and at.tokens > tokens_before:
                speed = (at.tokens - tokens_before) / elapsed
                at.decay_from = at.tokens
                at.decay_tokens = max(1, int(speed * (seconds - elapsed)))

    def _total(self, budget: Budget) -> float | None:
        if self.position.decay_from >= 0:
            return float(self.position.decay_from + self.position.decay_tokens)
        return float(budget.tokens) if budget.tokens is not None else None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    # -- checkpoints and measurements ---------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint beside the old one, then rename: never half a checkpoint."""
        self.place.run.mkdir(parents=True, exist_ok=True)
        temporary = self.place.checkpoint.with_suffix(".tmp")
        torch.save(
            {
                "recipe": self.recipe.model_dump(mode="json"),
                "position": asdict(self.position),
                "optimiser": self.optimiser.state(),
            },
            temporary,
        )
        temporary.rename(self.place.checkpoint)

    def _restore(self) -> None:
        stored = torch.load(self.place.checkpoint, map_location=self.device, weights_only=True)
        self.position = Position(**stored["position"])
        self.optimiser.restore(stored["optimiser"])

    def _log(self, **values: Any) -> None:
        self.place.run.mkdir(parents=True, exist_ok=True)
        entry = {
            "tokens": self.position.tokens,
            "seconds": round(self.position.seconds, 1),
            "window": self.position.window,
            **{k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()},
        }
        with (self.place.run / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(entry) + "\n")

    @torch.no_grad()
    def bits_per_byte(self, most_rows: int = 6) -> float:
        """Held-out bits per byte on a fixed sample of whole-file starts, no holes, no headers."""
        if not hasattr(self, "_held_out"):
            self._held_out = held_out_rows(self.place, self.recipe, most_rows)
        nats = bytes_ = 0.0
        for tokens, lengths, real, size in self._held_out:
            count = float(real - len([x for x in lengths if x]))
            nats += float(self.loss(tokens, lengths, real, divisor=1.0))
            bytes_ += size
            del count
        return nats / math.log(2) / bytes_


def held_out_rows(
    place: Workplace, recipe: Recipe, most_rows: int
) -> list[tuple[torch.Tensor, list[int], int, float]]:
    """Rows of held-out text with the bytes that their labels stand for."""
    import random

    import pyarrow.parquet as pq

    from codetune.models.nano.rows import pack
    from codetune.models.nano.tokenizer import load_plain

    tokenizer = load_plain(place.tokenizer)
    pad = tokenizer.token_to_id("<|fim_pad|>")
    documents = pq.read_table(place.held_out, columns=["text"])["text"].to_pylist()
    random.Random(3).shuffle(documents)
    chunks = []
    for text in documents:
        ids = tokenizer.encode(text[:6000]).ids[: recipe.train.window]
        if len(ids) > 32:
            chunks.append(ids)
        if sum(map(len, chunks)) > most_rows * recipe.data.row:
            break
    shard = pack(chunks, recipe.data.row, pad)
    rows = []
    for tokens, lengths, real in zip(shard.tokens, shard.lengths, shard.real, strict=True):
        size, at = 0, 0
        for length in lengths:
            if at < real:
                labels = tokens[at + 1 : at + length].tolist()
                size += len(tokenizer.decode(labels).encode())
            at += length
        rows.append((torch.from_numpy(tokens.astype("int64")), lengths, real, float(size)))
    return rows
