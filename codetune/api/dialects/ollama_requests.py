"""Ollama's request bodies. Options that do not change an answer here are accepted."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from codetune.api.dialects import bodies
from codetune.errors import BadRequestError
from codetune.serving.query import Prompt, Query


class Options(BaseModel):
    """`options`: of the Modelfile's parameters those that count here, with Ollama's defaults."""

    model_config = ConfigDict(extra="allow")

    num_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


class Asking(bodies.Request):
    """What generate and chat have in common."""

    model: str = Field(min_length=1)
    options: Options | None = None
    stream: bool | None = True
    format: Any = None
    keep_alive: Any = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def check(self) -> None:
        """Refuse what would have to be answered in another way than this server can.

        Raises:
            BadRequestError
        """
        if self.think:
            raise BadRequestError(f'"{self.model}" does not support thinking')
        if self.format:
            raise BadRequestError("only text can be answered here, not a format", param="format")

    def query(self, prompt: Prompt, model: str) -> Query:
        """The internal request; always streamed, since the times of both phases are reported."""
        options = self.options or Options()
        most = options.num_predict
        stops = [options.stop] if isinstance(options.stop, str) else options.stop or []
        return Query(
            [prompt],
            model=model,
            max_tokens=None if most is None or most < 0 else max(most, 1),
            temperature=0.8 if options.temperature is None else options.temperature,
            top_k=40 if options.top_k is None else max(options.top_k, 0),
            top_p=0.9 if options.top_p is None else options.top_p,
            min_p=options.min_p or 0.0,
            seed=options.seed,
            stops=[stop for stop in stops if stop],
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            stream=True,
        )


class GenerateRequest(Asking):
    """`POST /api/generate`."""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = False
    images: list[str] | None = None

    def check(self) -> None:
        super().check()
        if self.images:
            raise BadRequestError("this model reads text only", param="images")
        if self.template:
            raise BadRequestError("a model's template cannot be replaced here; send raw prompts")


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str = ""
    images: list[str] | None = None


class ChatRequest(Asking):
    """`POST /api/chat`."""

    messages: list[Message] = Field(default_factory=list)
    tools: list[Any] | None = None

    def check(self) -> None:
        super().check()
        if self.tools:
            raise BadRequestError(f'"{self.model}" does not support tools')
        if any(message.images for message in self.messages):
            raise BadRequestError("this model reads text only", param="images")


class ShowRequest(bodies.Request):
    """`POST /api/show`; Continue sends `name`, others `model`."""

    model: str = Field(min_length=1, validation_alias=AliasChoices("model", "name"))
    verbose: bool | None = False

    @model_validator(mode="before")
    @classmethod
    def _without_an_empty_name(cls, sent: Any) -> Any:
        """As in Ollama, an empty `model` leaves the name to `name`."""
        if isinstance(sent, dict) and sent.get("model") == "" and sent.get("name"):
            return {field: value for field, value in sent.items() if field != "model"}
        return sent
