"""How much of the change is kept, so that general code is not forgotten.

Between the base's weights and the tuned ones lies a line of models. Along it the loss on the
team's code falls fastest near the base, while that on general code rises slowly at first: most of
the gain costs little of what was known (WiSE-FT, arXiv 2109.01903). So after training the weights
go back along that line until general code costs at most a given share more than with the base.

Before that, what a layer's change does to inputs that are general code's more than the team's is
taken back (`moments`): the line then leads to a model that costs general code half as much. Where
that alone is more than enough, only as much of it is taken back as is needed.
Weights that are no matrix of a layer, and layers too wide for that, stay as they were trained.

The general code that is measured is of packages in the replay set that nothing trains on, and
that are not in the set on which the scorecard measures forgetting either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from codetune.models.architecture import longest_document
from codetune.models.load import BaseModel
from codetune.models.nano.general import kept_apart, replay_rows
from codetune.models.prompts import Renderer
from codetune.models.tokens import STREAMS, TokenStore, TokenWriter
from codetune.training.batches import Batch, make_batch
from codetune.training.methods import METHODS, load_base, trained
from codetune.training.moments import Moments, affordable, second_moments
from codetune.training.objective import CausalObjective, Objective
from codetune.training.packing import pack
from codetune.training.recovery import OutOfMemory, is_out_of_memory

if TYPE_CHECKING:
    from codetune.progress import Progress
    from codetune.training.config import TrainingOptions
    from codetune.training.passes import Passes

_BYTES = 96 * 1024  # of general code that is read each time
_SAMPLE = 1 << 15  # tokens of the team's code that show how the way bends
_SAMPLE_BYTES = 3 * _SAMPLE  # of general code, likewise
_HALVINGS = 7  # the place on the way is found to a 128th
_BENT = 0.6  # t of `moments`; 0.5 gave as much, the way back by t alone less after long training


@dataclass(frozen=True)
class Retention:
    """How much of the change is kept, and mean losses on general code in nats per token.

    `share` is how far from the base the model is on the way to the bent end, of which `bent` is
    how far that is bent: 0 is the tuned model, 1 the one that `moments` makes of it.
    """

    share: float
    bent: float
    base: float
    trained: float
    kept: float

    @property
    def whole(self) -> bool:
        """Whether the model is as it was trained."""
        return self.share == 1 and self.bent == 0


def retain(
    passes: Passes,
    store: TokenStore,
    base: BaseModel,
    options: TrainingOptions,
    weights: Mapping[str, Tensor] | None,
    progress: Progress,
    *,
    window: int,
    tokens: int,
) -> Retention | None:
    """Leave the model at the largest share of the change that `forgetting_limit` allows.

    `store` is what was trained on; `weights` are the float32 ones by the names of `trained`, or
    None for those in the model. `tokens` is the size of a pass, `window` that of an
    example, at most what the base reads.
    None where there is no limit, and where this cannot be done: for an encoder-decoder, which
    general code says little about, and for DoRA, whose row lengths bend the line.
    """
    objective = passes.objective
    if options.forgetting_limit is None or METHODS[options.method].dora:
        return None
    if not isinstance(objective, CausalObjective):
        return None
    line = _Line(objective, base, options, weights)
    renderer = Renderer.from_folder(base.path)
    window = min(window, longest_document(objective.causal.config) or window)
    size, vocabulary = max(tokens, window), objective.vocabulary
    apart = list(_general(renderer, vocabulary, kept_apart(_BYTES), window, size))
    objective.model.eval()

    def read(batches: Iterable[Batch]) -> tuple[float, int]:
        sums = [passes.summed(batch.to(passes.optimizer_device)) for batch in batches]
        return sum(total for total, _ in sums), sum(count for _, count in sums)

    with progress.task("Weighing what is forgotten", total=_HALVINGS + 4, unit="looks") as task:

        def loss_at(share: float, bent: float) -> float:
            line.move(share, bent)
            total, count = read(apart)
            task.advance(1)
            return total / max(1, count)

        def bend() -> None:
            rows = replay_rows(_SAMPLE_BYTES)
            try:
                with passes.one_at_a_time():
                    line.bend(
                        lambda: read(_sample(store, options.seed, size)),
                        lambda: read(_general(renderer, vocabulary, rows, window, size)),
                    )
            except (OutOfMemory, RuntimeError, MemoryError) as error:
                if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
                    raise
                progress.say("Too little memory to see which inputs are general code's.")
            task.advance(1)

        found = _largest(loss_at, bend, options.forgetting_limit)
    line.move(found.share, found.bent)
    objective.model.train()
    return found


def _largest(
    loss_at: Callable[[float, float], float], bend: Callable[[], None], limit: float
) -> Retention:
    """The model furthest from the base whose loss is within the limit, by halving.

    The way goes from the tuned model to the bent one, which `bend` makes, and on to the base;
    `loss_at` takes a share of the change and how far it is bent.
    """
    base, tuned = loss_at(0.0, 0.0), loss_at(1.0, 0.0)
    most = base * (1 + limit)
    if tuned <= most:
        return Retention(1.0, 0.0, base, tuned, tuned)
    bend()
    end = loss_at(1.0, 1.0)
    # Places on the way: 0 is the base, 1 the bent model, 2 the tuned one.
    low, high, kept = (1.0, 2.0, end) if end <= most else (0.0, 1.0, base)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        loss = loss_at(*_at(middle))
        if loss <= most:
            low, kept = middle, loss
        else:
            high = middle
    return Retention(*_at(low), base, tuned, kept)


def _at(place: float) -> tuple[float, float]:
    """The share of the change and how far it is bent, at a place between 0 and 2."""
    return min(1.0, place), min(1.0, 2.0 - place)


class _Line:
    """The models between the base, the tuned one, and the one that `bend` makes of that.

    What it keeps is in main memory, as are the weights it is given; each is moved by itself.
    """

    def __init__(
        self,
        objective: Objective,
        base: BaseModel,
        options: TrainingOptions,
        weights: Mapping[str, Tensor] | None,
    ) -> None:
        self._model = objective.model
        self._adapter = METHODS[options.method].adapter
        # What reads a layer's inputs. B·A' has the rank of B·A: of an adapter A alone bends.
        self._matrix = ".lora_A.default.weight" if self._adapter else ".weight"
        here = dict(trained(self._model))
        if weights is None:  # the model's own, which will be moved
            weights = {name: weight.detach().clone() for name, weight in here.items()}
        self._ends = {name: weights[name].to("cpu", torch.float32) for name in here}
        self._bent: dict[str, Tensor] = {}
        if self._adapter:
            # An adapter starts with B at zero. A stays: moving both would bend the line.
            moving = {name for name in here if "lora_B" in name}
            self._starts = {name: torch.zeros_like(self._ends[name]) for name in moving}
        else:
            weight = next(iter(here.values()))
            again = load_base(base, options, dtype=weight.dtype, device=torch.device("cpu"))
            self._starts = {
                name: start.detach().float()
                for name, start in again.named_parameters()
                if name in here
            }

    def bend(self, own: Callable[[], object], general: Callable[[], object]) -> None:
        """Find layers that act on the inputs of what `own` reads more than of `general`'s.

        The one is read with the tuned model, the other with the base.
        """
        layers = affordable(self._layers())
        self.move(1.0, 0.0)
        ours = second_moments(layers, own)
        self.move(0.0, 0.0)
        theirs = second_moments(layers, general)
        for layer in ours.keys() & theirs.keys():
            name = layer + self._matrix
            change = self._ends[name]
            start = torch.zeros_like(change) if self._adapter else self._starts[name]
            moments = Moments(ours.pop(layer), theirs.pop(layer))
            self._bent[name] = start + moments.bend(change - start, _BENT)

    def _layers(self) -> dict[str, nn.Module]:
        """Layers with a matrix of their own that is trained, or that an adapter changes."""
        return {
            name: layer
            for name, layer in self._model.named_modules()
            if name + self._matrix in self._ends and (self._adapter or isinstance(layer, nn.Linear))
        }

    def move(self, share: float, bent: float) -> None:
        """Put the model at `share` of the way from the base to the end, `bent` so far."""
        with torch.no_grad():
            for name, weight in trained(self._model):
                end = self._ends[name]
                if name in self._bent:
                    end = end.lerp(self._bent[name], bent)
                if name in self._starts:
                    end = self._starts[name].lerp(end, share)
                weight.copy_(end)


def _general(
    renderer: Renderer,
    vocabulary: int,
    rows: Sequence[Mapping[str, str]],
    window: int,
    tokens: int,
) -> Iterator[Batch]:
    """These files of general code, as next-token examples of at most `window` tokens."""
    with TemporaryDirectory() as folder:
        with TokenWriter(Path(folder), vocabulary) as writer:
            for number, row in enumerate(rows):
                ids = renderer.ntp(row["text"], repo=row["repo"], path=row["path"], ends_file=True)
                writer.append(ids[:window], stream="replay", document=number)
        store = TokenStore.open(Path(folder))
        for row_of in pack(store.lengths, tokens):
            yield make_batch(store, row_of)


def _sample(store: TokenStore, seed: int, tokens: int) -> Iterator[Batch]:
    """Some of the examples in the store that are not replayed, `tokens` in a batch."""
    own = np.flatnonzero(store.streams != STREAMS.index("replay"))
    drawn = np.random.default_rng(seed).permutation(own)
    drawn = drawn[: 1 + int(np.searchsorted(store.lengths[drawn].cumsum(), _SAMPLE))]
    for row in pack(store.lengths[drawn], tokens):
        yield make_batch(store, drawn[row].tolist())
