"""What can be asked for, whatever dialect it was asked in; the limits that all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codetune.errors import BadRequestError
from codetune.models.prompts import ContextFile

MOST_TOKENS = 1_000_000  # a larger max_tokens is a mistake; a smaller one is cut to the window
MOST_ANSWERS = 128  # n × prompts
MOST_STOPS, LONGEST_STOP = 64, 256
MOST_LOGPROBS = 20
MOST_TEMPERATURE = 100.0
_NAMED = 1e300  # what is more is not repeated: it need not be a float


@dataclass(frozen=True)
class Text:
    """Text to go on with, or its token ids."""

    text: str | Sequence[int]


@dataclass(frozen=True)
class Fim:
    """A place in a file; `path` and `repo` say which, where the client knows.

    `begun` is what of the middle is written already: the answer goes on after it. `context`
    are texts from elsewhere, the most telling first; what does not fit is left out.
    """

    prefix: str
    suffix: str
    path: str | None = None
    repo: str | None = None
    begun: str = ""
    context: Sequence[ContextFile] = ()


@dataclass(frozen=True)
class Chat:
    """A conversation."""

    messages: Sequence[Mapping[str, Any]]


Prompt = Text | Fim | Chat


@dataclass(frozen=True)
class Query:
    """Prompts for one model, `n` answers to each. `max_tokens` None: as many as fit."""

    prompts: Sequence[Prompt]
    model: str | None = None
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # candidates for each token; 0: all
    min_p: float = 0.0  # of the likeliest candidate's probability; less likely ones are out
    seed: int | None = None
    stops: Sequence[str] = ()
    n: int = 1
    logprobs: int | None = None
    stream: bool = False
    tenant: str = ""  # who asks; the same for all that may share a queue and what was read

    def check(self) -> None:
        """Refuse what no model can answer.

        Raises:
            BadRequestError: naming the field.
        """
        answers = self.n * len(self.prompts)
        _within("n", self.n, 1, MOST_ANSWERS)
        if not self.prompts or answers > MOST_ANSWERS:
            raise BadRequestError(
                f"{answers} answers were asked for; between 1 and {MOST_ANSWERS} are possible.",
                param="prompt",
            )
        if self.max_tokens is not None:
            _within("max_tokens", self.max_tokens, 1, MOST_TOKENS)
        if self.logprobs is not None:
            _within("logprobs", self.logprobs, 0, MOST_LOGPROBS)
        _within("temperature", self.temperature, 0.0, MOST_TEMPERATURE)
        _within("top_p", self.top_p, 0.0, 1.0)
        _within("top_k", self.top_k, 0, MOST_TOKENS)
        _within("min_p", self.min_p, 0.0, 1.0)
        if self.seed is not None:
            _within("seed", self.seed, -(2**63), 2**63 - 1)
        if len(self.stops) > MOST_STOPS or any(len(s) > LONGEST_STOP for s in self.stops):
            raise BadRequestError(
                f"At most {MOST_STOPS} stops of at most {LONGEST_STOP} characters are possible.",
                param="stop",
            )


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        said = "beyond all bounds" if abs(value) > _NAMED else f"{value:g}"
        raise BadRequestError(f"'{name}' is {said}; it may be {low:g} to {high:g}.", param=name)
