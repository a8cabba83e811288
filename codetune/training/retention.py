"""How much of the change is kept, so that general code is not forgotten.

Between the base's weights and the tuned ones lies a straight line of models. Along it the loss on
the team's code falls fastest near the base, while that on general code rises slowly at first:
most of the gain costs little of what was known (WiSE-FT, arXiv 2109.01903). So after training
the weights go back along that line until general code costs at most a given share more than with
the base. For LoRA the line is exact: scaling B scales the adapter.

The general code is a part of the replay set that nothing trains on, and that is not in the set
on which the scorecard measures forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codetune.models.load import BaseModel
from codetune.models.nano.general import kept_apart
from codetune.models.prompts import Renderer
from codetune.models.tokens import TokenStore, TokenWriter
from codetune.training.batches import Batch, make_batch
from codetune.training.methods import METHODS, load_base, load_weights, trained
from codetune.training.objective import CausalObjective, Objective
from codetune.training.packing import pack

if TYPE_CHECKING:
    from codetune.progress import Progress
    from codetune.training.config import TrainingOptions
    from codetune.training.passes import Passes

_BYTES = 96 * 1024  # of general code that is read each time
_HALVINGS = 7  # the share is found to a 128th


@dataclass(frozen=True)
class Retention:
    """The share of the change that is kept, and mean losses on general code in nats per token."""

    share: float
    base: float
    trained: float
    kept: float


def retain(
    passes: Passes,
    base: BaseModel,
    options: TrainingOptions,
    weights: Mapping[str, Tensor] | None,
    progress: Progress,
    *,
    window: int,
    tokens: int,
) -> Retention | None:
    """Leave the model at the largest share of the change that `forgetting_limit` allows.

    `weights` are the float32 ones by the names of `trained`, or None for those in the model.
    None where there is no limit, and where this cannot be done: for an encoder-decoder, which
    general code says little about, and for DoRA, whose row lengths bend the line.
    `tokens` is the size of a pass, `window` that of an example.
    """
    objective = passes.objective
    if options.forgetting_limit is None or METHODS[options.method].dora:
        return None
    if not isinstance(objective, CausalObjective):
        return None
    line = _Line(objective, base, options, weights)
    batches = list(_general(base, objective.vocabulary, window, tokens))
    objective.model.eval()
    device = passes.optimizer_device
    with progress.task("Weighing what is forgotten", total=_HALVINGS + 2, unit="looks") as task:

        def loss_at(share: float) -> float:
            line.move(share)
            sums = [passes.summed(batch.to(device)) for batch in batches]
            task.advance(1)
            return sum(total for total, _ in sums) / max(1, sum(count for _, count in sums))

        found = _largest(loss_at, options.forgetting_limit)
    line.move(found.share)
    objective.model.train()
    return found


def _largest(loss_at: Callable[[float], float], limit: float) -> Retention:
    """The largest share whose loss is within the limit, by halving."""
    base, tuned = loss_at(0.0), loss_at(1.0)
    most = base * (1 + limit)
    if tuned <= most:
        return Retention(1.0, base, tuned, tuned)
    low, high, kept = 0.0, 1.0, base
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        loss = loss_at(middle)
        if loss <= most:
            low, kept = middle, loss
        else:
            high = middle
    return Retention(low, base, tuned, kept)


class _Line:
    """The models between the base and the tuned one."""

    def __init__(
        self,
        objective: Objective,
        base: BaseModel,
        options: TrainingOptions,
        weights: Mapping[str, Tensor] | None,
    ) -> None:
        self._model = objective.model
        here = dict(trained(self._model))
        self._ends = {name: (weights or here)[name].detach().float().clone() for name in here}
        if METHODS[options.method].adapter:
            # An adapter starts with B at zero. A stays: moving both would bend the line.
            moving = {name for name in here if "lora_B" in name}
            self._starts = {name: torch.zeros_like(self._ends[name]) for name in moving}
        else:
            weight = next(iter(here.values()))
            again = load_base(base, options, dtype=weight.dtype, device=torch.device("cpu"))
            self._starts = {
                name: start.detach().to(weight.device).float()
                for name, start in again.named_parameters()
                if name in here
            }

    def move(self, share: float) -> None:
        """Put the model at `share` of the way: 0 is the base, 1 is tuned."""
        weights = dict(self._ends)
        for name, start in self._starts.items():
            weights[name] = self._ends[name] if share == 1 else start.lerp(weights[name], share)
        load_weights(self._model, weights)


def _general(base: BaseModel, vocabulary: int, window: int, tokens: int) -> Iterator[Batch]:
    """The general code kept apart, as next-token examples of at most `window` tokens."""
    renderer = Renderer.from_folder(base.path)
    with TemporaryDirectory() as folder:
        with TokenWriter(Path(folder), vocabulary) as writer:
            for number, row in enumerate(kept_apart(_BYTES)):
                ids = renderer.ntp(row["text"], repo=row["repo"], path=row["path"], ends_file=True)
                writer.append(ids[:window], stream="replay", document=number)
        store = TokenStore.open(Path(folder))
        for row_of in pack(store.lengths, max(tokens, window)):
            yield make_batch(store, row_of)
