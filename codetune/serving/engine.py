"""What every engine is: it takes token ids and sampling rules, and gives back text as it grows.

Prompts, names, limits and dialects stand in front of it and are the same for every engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from codetune.models.load import BaseModel
from codetune.models.prompts.templates import TEMPLATE_FILE
from codetune.serving.stats import EngineStats

if TYPE_CHECKING:
    import numpy as np

    from codetune.models.prompts import Beginning, GapEdges

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Servable:
    """A model that can be asked for: the base itself, an adapter on it, or weights of its own."""

    id: str  # as in /v1/models
    kind: Literal["base", "adapter", "full"]
    folder: Path  # the weights of this kind
    base: BaseModel
    created: int = 0  # seconds since 1970
    repository: str | None = None  # that it was tuned on, as in its training headers
    edition: str = ""  # which weights, where the folder may come to hold others

    @property
    def key(self) -> str:
        """What tells its weights from all others in memory."""
        return f"{self.folder} {self.edition}" if self.edition else str(self.folder)

    @property
    def tokenizer_folder(self) -> Path:
        """A model tuned in full brings its own copy of the tokenizer; adapters use the base's."""
        own = self.kind == "full" and (self.folder / "tokenizer.json").is_file()
        return self.folder if own else self.base.path

    @property
    def template(self) -> Path | None:
        """The chat template that the model learned, if it is another one than its base's."""
        file = self.folder / TEMPLATE_FILE
        return file if self.kind != "base" and file.is_file() else None


def edition_of(folder: Path) -> str:
    """Which weights lie there: whoever renames a model leaves its folder's name to the next."""
    try:
        weights = min(folder.glob("*.safetensors"), default=folder).stat()
    except OSError:
        return ""  # it has just been removed
    return f"{weights.st_ino} {weights.st_mtime_ns} {weights.st_size}"


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen and when it ends. Temperature 0 is greedy."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # candidates for each token; 0: all
    min_p: float = 0.0  # candidates below this share of the likeliest one's probability are out
    seed: int | None = None
    stops: tuple[str, ...] = ()  # texts; not part of the answer
    stop_ids: frozenset[int] = frozenset()  # tokens; not part of the answer
    logprobs: int | None = None  # how many alternatives to report per token
    gap: GapEdges | None = None  # the answer fills it, and ends before what stands behind it


@dataclass(frozen=True)
class Job:
    """One answer to one prompt."""

    model: Servable
    prompt: Sequence[int]
    sampling: Sampling
    decode: Callable[[Sequence[int]], str]
    stream: bool = True  # False: one piece at the end is enough
    deadline: float = 120.0  # seconds from submission
    tenant: str = ""  # who asks: shares of the queue are fair, and nothing read is lent to others
    beginning: Beginning | None = None  # what the answer begins with; nobody is shown it
    # The bytes of tokens, for their scores: one token may hold a part of a character.
    decode_bytes: Callable[[Sequence[int]], bytes] | None = None


@dataclass(frozen=True)
class Passage:
    """A text whose vector is wanted; of its ids the ones before `start` are not its own."""

    ids: Sequence[int]
    start: int = 0


@dataclass(frozen=True)
class TokenScore:
    """A generated token's natural log-probability, and the likeliest alternatives.

    Bytes that are no whole character stand in a text as PEP 383 escapes them ("surrogateescape").
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Finish:
    """How an answer ended; `tokens` were generated, the one that ended it included."""

    reason: FinishReason
    tokens: int
    prompt_tokens: int | None = None  # as a remote engine counted them; None: as we did
    model: str | None = None  # who answered, where that is not the model that was asked
    # How it came about is no part of what an answer is: two are equal without it.
    reused: int = field(default=0, compare=False)  # tokens of the prompt that were not computed
    first: float | None = field(default=None, compare=False)  # seconds to the first token
    word: str = field(default="", compare=False)  # the stop text that ended it, if one did


@dataclass(frozen=True)
class Piece:
    """Some text, whole characters only; the last piece carries `finish`."""

    text: str = ""
    finish: Finish | None = None
    scores: tuple[TokenScore, ...] = field(default=())


class Generation(Protocol):
    """An answer under way."""

    @property
    def generated(self) -> int:
        """Tokens so far, whether anybody was given them or not."""

    @property
    def first(self) -> float | None:
        """Seconds from the submission to the first token; None before it."""

    @property
    def prompt_tokens(self) -> int | None:
        """The prompt's, as a remote engine counted them; None: as we did."""

    def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces; raises a ServingError or ModelError where it breaks off."""

    def cancel(self) -> None:
        """Nobody listens any more: the slot is free before the next step."""


class Engine(Protocol):
    """Runs jobs of any number of models at once."""

    def submit(self, jobs: Sequence[Job]) -> Sequence[Generation]:
        """Queue the jobs of one request from a running event loop, all or none.

        Raises:
            OverloadedError: too many are waiting already.
        """

    async def embed(self, model: Servable, passages: Sequence[Passage]) -> np.ndarray:
        """The texts' vectors [passages, hidden size], float32, each of length 1.

        Raises:
            BadRequestError: this engine has no vectors of that model.
            OverloadedError, DeadlineError, ModelError, ServingError
        """

    def load(self, model: Servable) -> None:
        """Load a model before it is asked for; blocks.

        Raises:
            ModelError, UnservableModelError: it cannot be loaded.
        """

    def loaded(self) -> set[str]:
        """The folders of the weights and of the adapters that are in memory."""

    def busy(self) -> dict[str, int]:
        """How many answers are `running` and `waiting`."""

    def stats(self) -> EngineStats:
        """What has been counted, and how things stand."""

    def engines(self) -> Mapping[str, Engine]:
        """The engines that this one is made of, by the names that metrics and logs give them."""

    def name_of(self, model: Servable) -> str:
        """Which of `engines` answers for `model`."""

    def close(self, drain: float = 0.0) -> None:
        """Take no more jobs, give those under way `drain` seconds, break off the rest; blocks."""
