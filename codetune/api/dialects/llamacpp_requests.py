"""llama.cpp's request bodies, and the rules by which its server ends an infill."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, Field, RootModel

from codetune.api.dialects import bodies
from codetune.api.dialects.openai_requests import Message
from codetune.errors import BadRequestError
from codetune.serving.query import Prompt, Query

TokenId = Annotated[int, Field(ge=0)]
_DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}  # as in its server
_NAMES = {"temperature": ("temperature", "temp", "t"), "top_k": ("top_k",), "top_p": ("top_p",)}
_NAMES |= {"min_p": ("min_p",)}
_OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


class Lora(BaseModel):
    """An adapter of /lora-adapters, and how much of it."""

    id: int
    scale: float = 1.0


class Loras(RootModel[list[Lora]]):
    """`POST /lora-adapters`."""


class Sampled(bodies.Request):
    """What `/completion` and `/infill` have in common."""

    model: str | None = None
    n_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    samplers: list[str] | str | None = None
    stream: bool | None = False
    n_probs: int | None = None
    n_cmpl: int | None = None
    n_indent: int | None = None
    t_max_prompt_ms: float | None = None
    t_max_predict_ms: float | None = None
    cache_prompt: bool | None = True
    id_slot: int | None = None
    lora: list[Lora] | None = None
    response_fields: list[str] | None = None

    @property
    def warms(self) -> bool:
        """Whether only the prompt is to be read into the cache."""
        return self.n_predict == 0

    def query(self, prompts: list[Prompt], model: str | None) -> Query:
        """The internal request; always streamed, since the times of both phases are reported."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        most = 1 if self.warms else self.n_predict
        return Query(
            prompts,
            model=model,
            max_tokens=None if most is not None and most < 0 else most,
            stops=[stop for stop in stops if stop],
            seed=None if self.seed is not None and self.seed < 0 else self.seed,
            n=1 if self.n_cmpl is None else self.n_cmpl,
            logprobs=self.n_probs or None,
            stream=True,
            **self._sampling(),
        )

    def _sampling(self) -> dict[str, Any]:
        """Only the samplers that are named count; all of them where none are.

        `infill`, which the editors name in place of a temperature, joins candidates that begin
        alike so that one sure continuation wins; here that is the likeliest one.
        """
        named = self.samplers if isinstance(self.samplers, list) else None
        values: dict[str, Any] = {}
        for field, names in _NAMES.items():
            given = getattr(self, field)
            if named is not None and not any(name in named for name in names):
                given = _OFF[field]
            values[field] = _DEFAULTS[field] if given is None else given
        if named is not None and "infill" in named and (self.n_cmpl or 1) == 1:
            values["temperature"] = 0.0
        values["top_k"] = max(int(values["top_k"]), 0)
        values["temperature"] = max(values["temperature"], 0.0)
        return values


class ExtraFile(BaseModel):
    """A chunk of another file; editors send when they took it, too."""

    text: str
    filename: str = ""


class InfillRequest(Sampled):
    """`POST /infill`."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraFile] | None = None
    prompt: str = ""


class CompletionRequest(Sampled):
    """`POST /completion`."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] = ""


class TokenizeRequest(bodies.Request):
    """`POST /tokenize`."""

    content: str = ""
    model: str | None = None
    add_special: bool = False
    parse_special: bool | None = None
    with_pieces: bool = False

    def check(self) -> None:
        """Text never becomes a control token.

        Raises:
            BadRequestError: that is what `parse_special` asks for.
        """
        if self.parse_special:
            raise BadRequestError("Control tokens in a text are text here.", param="parse_special")


class DetokenizeRequest(bodies.Request):
    """`POST /detokenize`."""

    tokens: list[TokenId] = Field(default_factory=list, max_length=1_000_000)
    model: str | None = None


class TemplateRequest(bodies.Request):
    """`POST /apply-template`."""

    messages: list[Message] = Field(min_length=1)
    model: str | None = None


class Ending:
    """Ends an infill where llama.cpp's server does.

    At a line that is indented less than `n_indent` (its text is not said), and at a line break
    once `t_max_predict_ms` have passed since the first token. Blank lines may be indented less.
    """

    def __init__(
        self, indent: int, milliseconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._indent, self._limit, self._clock = indent, milliseconds / 1000, clock
        self._ends_at: float | None = None
        self._held = ""  # blanks at the beginning of a line after the first
        self._at_start = False  # of a line after the first

    def push(self, text: str) -> tuple[str, bool]:
        now = self._clock()
        self._ends_at = self._ends_at or now + self._limit
        late = self._limit > 0 and now > self._ends_at
        said: list[str] = []
        for letter in text:
            if letter == "\n":
                if late:
                    return "".join(said), True
                self._at_start = True
                said.append(self._held + letter)
                self._held = ""
            elif self._at_start and letter in " \t":
                self._held += letter
            else:
                if self._at_start and len(self._held) < self._indent:
                    return "".join(said), True
                said.append(self._held + letter)
                self._held, self._at_start = "", False
        return "".join(said), False
