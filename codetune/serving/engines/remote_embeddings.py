"""Vectors of texts from servers elsewhere: OpenAI's, llama.cpp's, vLLM's and Ollama's way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from codetune.errors import BadRequestError, ServingError
from codetune.serving.config import EngineOptions
from codetune.serving.engine import Servable

Call = Callable[..., Awaitable[dict[str, Any]]]
Passages = Sequence[str | Sequence[int]]


async def ask_for_vectors(
    options: EngineOptions, call: Call, model: str, texts: Passages
) -> tuple[np.ndarray, int]:
    """The vectors of `texts` [texts, size] as that server makes them, and the tokens it counted.

    Raises:
        ServingError: it has no vectors, or its answer is none.
        BadRequestError, RegistryError, OverloadedError: it refuses.
    """
    body = {"model": model, "input": list(texts)}
    if options.kind == "ollama":
        said = await call("POST", f"{options.root}/api/embed", body)
        rows, tokens = said.get("embeddings"), said.get("prompt_eval_count")
    else:
        body["encoding_format"] = "float"
        said = await call("POST", f"{options.openai}/embeddings", body)
        rows, tokens = _in_order(said.get("data")), (said.get("usage") or {}).get("prompt_tokens")
    try:
        vectors = np.array(rows, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ServingError(f"The engine '{options.name}' gives no vectors.") from error
    if vectors.shape[:1] != (len(texts),) or vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ServingError(f"The engine '{options.name}' gives no vectors.")
    return vectors, tokens if isinstance(tokens, int) else 0


def no_vectors(options: EngineOptions, model: Servable) -> BadRequestError:
    """What the server computes for a model of ours are answers, and no states."""
    return BadRequestError(
        f"'{model.id}' is answered by the engine '{options.name}', which gives no vectors of it.",
        param="model",
        advice=f"Ask for a model of its own that has vectors: remote:{options.name}/MODEL.",
    )


def _in_order(data: Any) -> Any:
    """The vectors of OpenAI's answer by their numbers."""
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        return None
    return [entry.get("embedding") for entry in sorted(data, key=lambda e: e.get("index", 0))]
