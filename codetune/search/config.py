"""The options of the search."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from codetune.options import Options, option

Part = Literal["learning_rate", "rank", "epochs", "fim", "mix"]
PARTS: tuple[Part, ...] = ("learning_rate", "rank", "epochs", "fim", "mix")


class SearchOptions(Options):
    """How `codetune tune` tries other options before it settles on some."""

    trials: int = option(
        0,
        ge=0,
        le=1000,
        description="Trials, the first of which has the options as they stand here; 0: none. "
        "`--search N` on the command line. Needs the extra [search].",
    )
    parameters: tuple[Part, ...] = option(
        PARTS,
        min_length=1,
        description="What is varied. fim: the share of fill-in-the-middle examples; mix: the "
        "shares of replayed code and of the sets mixed in.",
    )
    learning_rate: tuple[float, float] | None = option(
        None,
        description="Lowest and highest peak learning rate; a quarter to four times the one that "
        "the run would have taken when not set.",
    )
    rank: tuple[int, ...] = option(
        (8, 16, 32, 64), min_length=1, description="LoRA: ranks of the added matrices."
    )
    epochs: tuple[float, ...] = option(
        (1.0, 2.0, 3.0, 4.0, 6.0), min_length=1, description="Passes over the data."
    )
    fim_rate: tuple[float, ...] = option(
        (0.25, 0.5, 0.75), min_length=1, description="Shares of fill-in-the-middle examples."
    )
    replay_share: tuple[float, ...] = option(
        (0.15, 0.3, 0.45),
        min_length=1,
        description="Shares of general code in the training text; not varied when the options "
        "leave general code out.",
    )
    mix_factor: tuple[float, ...] = option(
        (0.5, 1.0, 2.0),
        min_length=1,
        description="Times the share (or weight) of each set mixed in.",
    )
    reduction: int = option(
        2,
        ge=2,
        le=16,
        description="Successive halving: of the trials that reached a comparison, the best "
        "1/reduction go on.",
    )
    comparisons: int = option(
        2,
        ge=0,
        le=8,
        description="Comparisons in a trial's run. 2 with a reduction of 2: after a quarter and "
        "after half of its steps. 0: no trial is stopped early.",
    )
    startup: int = option(
        4,
        ge=1,
        description="Trials drawn at random, the first one aside, before the earlier trials "
        "(tree-structured Parzen estimator) say where to look.",
    )
    seed: int = option(0, ge=0, description="Seed of the trials' options.")

    @model_validator(mode="after")
    def _sound(self) -> SearchOptions:
        if self.trials == 1:
            raise ValueError("one trial is no search: take two at least, or 0 for none")
        if self.learning_rate is not None:
            low, high = self.learning_rate
            if not 0 < low < high <= 1:
                raise ValueError("learning_rate needs two numbers, 0 < lowest < highest <= 1")
        limits: dict[str, tuple[float, float]] = {
            "rank": (1, 1024),
            "epochs": (0.01, 100),
            "fim_rate": (0, 1),
            "replay_share": (0, 0.9),
            "mix_factor": (0.01, 100),
        }
        for name, (least, most) in limits.items():
            for value in getattr(self, name):
                if not least <= value <= most:
                    raise ValueError(f"{name}: {value} is not within {least} and {most}")
        if self.reduction**self.comparisons > 100:
            raise ValueError("the first comparison would come before a hundredth of the steps")
        return self
