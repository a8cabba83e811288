"""Which values are tried: a list of parameters, each named as the option that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codetune.errors import ConfigError
from codetune.search.config import SearchOptions

LEARNING_RATE, RANK, EPOCHS = "training.learning_rate", "training.rank", "training.epochs"
FIM_RATE, REPLAY = "dataset.fim_rate", "dataset.replay_share"
MIX = "dataset.mix."  # followed by the set's number and `share` or `weight`
_WIDER = 4.0  # × and ÷ the given learning rate


@dataclass(frozen=True)
class Parameter:
    """One searched option: its dotted key, the value as given, and what else is tried."""

    key: str
    given: float
    choices: tuple[float, ...] = ()
    bounds: tuple[float, float] | None = None  # instead of choices; tried on a log scale

    @property
    def values(self) -> tuple[float, ...]:
        """The choices, or both ends of the range."""
        return self.choices or self.bounds or (self.given,)


def make_space(options: SearchOptions, given: Mapping[str, float]) -> tuple[Parameter, ...]:
    """The parameters to vary among the `given` ones (dotted key → value as it stands).

    What `given` leaves out cannot be varied: the rank where every weight is trained, the share
    of examples that the base has no tokens for. A given value is always among the tried ones.

    Raises:
        ConfigError: nothing is left to vary.
    """
    wanted = options.parameters
    found: list[Parameter] = []
    if "learning_rate" in wanted and LEARNING_RATE in given:
        rate = given[LEARNING_RATE]
        low, high = options.learning_rate or (rate / _WIDER, min(1.0, rate * _WIDER))
        found.append(Parameter(LEARNING_RATE, rate, bounds=(min(low, rate), max(high, rate))))
    lists = (
        ("rank", RANK, options.rank),
        ("epochs", EPOCHS, options.epochs),
        ("fim", FIM_RATE, options.fim_rate),
        ("mix", REPLAY, options.replay_share),
    )
    for part, key, values in lists:
        if part in wanted and key in given:
            found.append(_choice(key, given[key], values))
    for key, value in given.items():
        if "mix" in wanted and key.startswith(MIX):
            scaled = (value * factor for factor in options.mix_factor)
            most = value + _room_of_a_set(given) if key.endswith("share") else float("inf")
            found.append(_choice(key, value, tuple(one for one in scaled if one <= most)))
    varied = tuple(one for one in found if len(set(one.values)) > 1)
    if not varied:
        raise ConfigError(
            f"The search has nothing to vary: {', '.join(wanted)} with these options.",
            advice="Give search.parameters, or the lists of their values, more to choose from.",
        )
    return varied


def _choice(key: str, given: float, values: tuple[float, ...]) -> Parameter:
    return Parameter(key, given, choices=tuple(sorted({*values, given})))


def _room_of_a_set(given: Mapping[str, float]) -> float:
    """By how much each share may grow, all at once, and leave a tenth for the repository."""
    shares = [value for key, value in given.items() if key.startswith(MIX) and "share" in key]
    return max(0.0, 0.9 - sum(shares)) / max(1, len(shares))


def named(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same without the sections: what tables and pictures call them."""
    return {short(key): value for key, value in params.items()}


def short(key: str) -> str:
    """`training.learning_rate` → `learning rate`; `dataset.mix.0.share` → `mix 0 share`."""
    return key.partition(".")[2].replace("_", " ").replace(".", " ").replace("fim", "FIM")
