"""Trials without a model: the loss is a formula of the options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codetune.artifacts import Artifact
from codetune.progress import Progress
from codetune.search.config import SearchOptions
from codetune.search.search import HopelessError, Outcome, Report, search
from codetune.search.space import EPOCHS, LEARNING_RATE, RANK, make_space

GIVEN = {LEARNING_RATE: 1.5e-3, RANK: 16, EPOCHS: 3.0}
STEPS = 40


class Runs:
    """Runs whose curves fall towards a loss that is lowest at a rate of 3e-3 and rank 32."""

    def __init__(self, *, stop_at: tuple[int, int] | None = None) -> None:
        self.params: list[dict[str, Any]] = []
        self.validations = 0
        self._stop_at = stop_at  # trial of this process and step at which Ctrl-C comes

    def __call__(self, params: Mapping[str, Any], report: Report) -> Outcome:
        number, values = len(self.params), {**GIVEN, **params}
        self.params.append(dict(params))
        final = 1 + abs(math.log(values[LEARNING_RATE] / 3e-3)) / 10
        final += abs(math.log2(values[RANK] / 32)) / 50 + abs(values[EPOCHS] - 4) / 30
        for step in range(0, STEPS + 1, 4):
            self.validations += 1
            if not report(step, STEPS, final + math.exp(-3 * step / STEPS)):
                raise HopelessError
            if self._stop_at == (number, step):
                raise KeyboardInterrupt
        return Outcome(final + math.exp(-3), {"run": f"run-{values[LEARNING_RATE]}"})


def searched(folder: Path, attempt: Any, **options: Any) -> Artifact:
    chosen = SearchOptions(**{"trials": 6, "startup": 2, **options})
    space = make_space(chosen, GIVEN)
    return search(chosen, space, attempt, folder, Progress(), given=({}, {"data": "1"}))
