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
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from codetune.errors import TrainingError
from codetune.models.nano.network import Network
from codetune.models.nano.optimiser import Optimiser
from codetune.models.nano.recipe import Recipe
from codetune.models.nano.rows import Shard, prepare_shard
from codetune.models.nano.workers import Here, Row, Workers
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
    """How long to train, the decay included: tokens, or minutes of this machine."""

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
        self,
        recipe: Recipe,
        place: Workplace,
        device: str = "cpu",
        *,
        workers: int = 1,
        compiled: bool = True,
    ) -> None:
        self.recipe, self.place = recipe, place
        network = Network(recipe.model)
        network.initialise(recipe.train.seed)
        network.to(torch.device(device), torch.bfloat16)
        self.optimiser = Optimiser(network, recipe.train)
        self.position = Position(window=recipe.train.short_window)
        self.stopping = False
        self._held_out: tuple[list[Row], int] | None = None
        if place.checkpoint.exists():
            self._restore(device)
        self.engine: Here | Workers = (
            Workers(recipe.model, network, workers, compiled, recipe.train.hole_weight)
            if workers > 1
            else Here(network, compiled, recipe.train.hole_weight)
        )

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
        if not self.stopping:
            self._log(bits_per_byte=self.bits_per_byte(), finished=self.finished)
        return self.position

    def go_on(self) -> None:
        """Back to the plateau after a finished decay, so that a further budget can be trained."""
        at, train = self.position, self.recipe.train
        self._log(continued=at.tokens)
        at.decay_from, at.decay_tokens = -1, 0
        at.shard, at.row = at.shard + 1, 0
        at.window = train.short_window if at.tokens < train.short_tokens else train.window

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

    def _step(self, rows: Iterator[Row]) -> tuple[float, int]:
        wanted = max(n for at, n in self.recipe.train.rows_per_step if self.position.tokens >= at)
        batch = [next(rows) for _ in range(wanted)]
        divisor = float(sum(row.labels for row in batch))
        loss = self.engine.gradients(batch, divisor, self.optimiser.gradients)
        norm = self.optimiser.step(self.rate())
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                "The loss is no longer a number.",
                advice="Lower matrix_rate and other_rate, and start from the last checkpoint.",
            )
        seen = sum(row.real for row in batch)
        self.position.tokens += seen
        self._log(loss=loss, norm=norm, rate=self.rate(), rows=wanted)
        return loss, seen

    # -- the data -----------------------------------------------------------------------------

    def _rows(self) -> Iterator[Row]:
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
                    if (
                        at.window != self._window()
                        and self._window() == self.recipe.train.long_window
                    ):
                        break  # go over to long chunks now
                    row = at.row
                    at.row += 1
                    yield Row(shard.tokens[row], shard.lengths[row], shard.real[row])
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
        train, at = self.recipe.train, self.position
        if at.decay_from >= 0:
            long_from = at.decay_from + (1 - train.long_share) * at.decay_tokens
            return train.long_window if at.tokens >= long_from else train.window
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

    def _restore(self, device: str) -> None:
        stored = torch.load(self.place.checkpoint, map_location=device, weights_only=True)
        self.position = Position(**stored["position"])
        changed = changes(stored["recipe"], self.recipe.model_dump(mode="json"))
        if "model" in {name.split(".")[0] for name in changed}:
            raise TrainingError(
                f"The checkpoint in {self.place.run} is of another network.",
                advice="Move that folder away, or go back to the recipe it was made with.",
            )
        if changed:
            self._log(changed=changed)
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

    def bits_per_byte(self, most_rows: int = 6) -> float:
        """Held-out bits per byte on a fixed sample of file beginnings, no holes, no headers."""
        if self._held_out is None:
            self._held_out = held_out_rows(self.place, self.recipe, most_rows)
        rows, size = self._held_out
        return self.engine.loss(rows) / math.log(2) / size


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, list[Any]]:
    """Options that differ, as {"train.clip": [old, new]}; the card lists them."""
    return {
        f"{part}.{name}": [old.get(part, {}).get(name), value]
        for part, options in new.items()
        for name, value in options.items()
        if old.get(part, {}).get(name) != value
    }


def held_out_rows(place: Workplace, recipe: Recipe, most_rows: int) -> tuple[list[Row], int]:
    """Rows of held-out text, and the bytes that their labels stand for."""
    import random

    import pyarrow.parquet as pq

    from codetune.models.nano.rows import pack
    from codetune.models.nano.tokenizer import load_plain

    tokenizer = load_plain(place.tokenizer)
    pad = tokenizer.get_vocab()["<|fim_pad|>"]
    documents = pq.read_table(place.held_out, columns=["text"])["text"].to_pylist()
    random.Random(3).shuffle(documents)
    chunks: list[list[int]] = []
    for text in documents:
        ids = tokenizer.encode(text[:6000]).ids[: recipe.train.window]
        if len(ids) > 32:
            chunks.append(ids)
        if sum(map(len, chunks)) > most_rows * recipe.data.row:
            break
    shard = pack(chunks, recipe.data.row, pad)
    rows, size = [], 0
    for tokens, lengths, real in zip(shard.tokens, shard.lengths, shard.real, strict=True):
        at = 0
        for length in lengths:
            if at < real:
                size += len(tokenizer.decode(tokens[at + 1 : at + length].tolist()).encode())
            at += length
        rows.append(Row(tokens, lengths, real))
    return rows, size
