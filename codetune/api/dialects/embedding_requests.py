"""What is asked for vectors of texts, in three dialects."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from codetune.api.dialects.bodies import Request
from codetune.api.dialects.openai_requests import TokenId
from codetune.errors import BadRequestError
from codetune.serving.embed import Given

Input = str | list[str] | list[TokenId] | list[list[TokenId]]


class EmbeddingRequest(Request):
    """`POST /v1/embeddings`."""

    input: Input
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(None, description="Only the model's own.")

    def texts(self) -> list[Given]:
        return _many(self.input)


class EmbedRequest(Request):
    """Ollama's `POST /api/embed`."""

    model: str = Field(min_length=1)
    input: str | list[str] | None = None
    truncate: bool | None = True
    dimensions: int | None = Field(None, description="Only the model's own.")
    options: dict[str, Any] | None = None
    keep_alive: Any = None

    def texts(self) -> list[Given]:
        return _many(self.input) if self.input else []


class PromptRequest(Request):
    """Ollama's `POST /api/embeddings`."""

    model: str = Field(min_length=1)
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


class ContentRequest(Request):
    """llama.cpp's `POST /embedding` and `/embeddings`."""

    content: Input
    model: str | None = None
    embd_normalize: int | None = Field(2, description="2, Euclidean, is what there is.")

    def texts(self) -> list[Given]:
        """Raises BadRequestError for vectors that are normalised otherwise."""
        if self.embd_normalize not in (None, 2):
            raise BadRequestError("Vectors here have the length 1.", param="embd_normalize")
        return _many(self.content)


def _many(given: Input) -> list[Given]:
    one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    many: list[Any] = [given] if one else list(given)
    return many
