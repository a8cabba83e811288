"""OpenAI's request bodies, as far as they change an answer; other fields are accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from codetune.api.dialects.bodies import Request
from codetune.errors import BadRequestError

Stops = str | list[str] | None
TokenId = Annotated[int, Field(ge=0)]


class StreamOptions(Request):
    """What a stream says beside the text."""

    include_usage: bool = False


class _Asking(Request):
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None  # of vLLM's and llama.cpp's clients, as min_p and n_predict
    min_p: float | None = None
    n_predict: int | None = None
    seed: int | None = None
    stop: Stops = None
    n: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else [s for s in self.stop if s]

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def warms(self) -> bool:
        """Whether only the prompt is to be read, as llama.cpp's editors ask for."""
        return self.n_predict == 0


class CompletionRequest(_Asking):
    """`POST /v1/completions`. `path` and `repo` are ours: where the text stands."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] = ""
    suffix: str | None = None
    max_tokens: int | None = 16
    echo: bool | None = False
    logprobs: int | None = None
    best_of: int | None = None
    path: str | None = Field(
        None, validation_alias=AliasChoices("path", "file_path", "filepath", "filename")
    )
    repo: str | None = Field(None, validation_alias=AliasChoices("repo", "repository"))


class Message(BaseModel):
    """One turn; its content is text, or parts of text."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """Raises BadRequestError for parts that are not text."""
        if not isinstance(self.content, list):
            return self.content or ""
        texts = []
        for part in self.content:
            if part.get("type") not in ("text", "input_text"):
                raise BadRequestError(
                    f"This model reads text only, not '{part.get('type')}'.", param="messages"
                )
            texts.append(str(part.get("text", "")))
        return "".join(texts)


def turns_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The turns as chat templates take them; raises as `Message.text`."""
    return [
        message.model_dump(exclude_none=True) | {"content": message.text()} for message in messages
    ]


class ChatRequest(_Asking):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(
        None, validation_alias=AliasChoices("max_completion_tokens", "max_tokens")
    )
    logprobs: bool | None = False
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None

    @property
    def wants_text(self) -> bool:
        kind: Literal["text"] | Any = (self.response_format or {}).get("type", "text")
        return bool(kind == "text")
