"""How remote servers are asked, and what their streams say: OpenAI's, llama.cpp's, Ollama's.

Each function returns the path and body of a streamed request; `read_event` understands one
event of any of the three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codetune.errors import BadRequestError, ServingError
from codetune.serving.config import EngineOptions
from codetune.serving.engine import FinishReason, Sampling
from codetune.serving.query import Chat, Fim, Prompt, Text

HEALTH = {"vllm": "/health", "llamacpp": "/health", "ollama": "/api/version"}


@dataclass(frozen=True)
class Health:
    """Whether a server answers, and which models it lists."""

    ok: bool
    message: str = ""
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What a remote model is asked: a prompt as it came, or one that was rendered here."""

    prompt: Prompt
    sampling: Sampling
    text: str | None = None  # the rendered prompt as text, where `prompt` holds its ids


@dataclass(frozen=True)
class Event:
    """One event of a stream; counts are None where it has none."""

    text: str = ""
    reason: FinishReason | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None


def request_of(options: EngineOptions, model: str, asked: Asked) -> tuple[str, dict[str, Any]]:
    """The address and body of the request.

    Raises:
        BadRequestError: this kind of server cannot be asked this.
    """
    if asked.sampling.logprobs is not None:
        raise BadRequestError(
            "Log-probabilities are only given for models that run on this server.",
            param="logprobs",
        )
    if options.kind == "ollama":
        return _ollama(options, model, asked)
    if options.kind == "llamacpp" and not isinstance(asked.prompt, Chat):
        return _llamacpp(options, model, asked)
    return _openai(options, model, asked)


def _openai(options: EngineOptions, model: str, asked: Asked) -> tuple[str, dict[str, Any]]:
    prompt, rules = asked.prompt, asked.sampling
    address = options.openai
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": rules.max_tokens,
        "temperature": rules.temperature,
        "top_p": rules.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= {"seed": rules.seed} if rules.seed is not None else {}
    body |= {"stop": list(rules.stops)} if rules.stops else {}
    if options.kind != "openai":  # others refuse fields that OpenAI's API has not
        body |= {"top_k": rules.top_k} if rules.top_k else {}
        body |= {"min_p": rules.min_p} if rules.min_p else {}
    if options.kind == "vllm" and rules.stop_ids:
        body["stop_token_ids"] = sorted(rules.stop_ids)
    if isinstance(prompt, Chat):
        return f"{address}/chat/completions", body | {"messages": list(prompt.messages)}
    if isinstance(prompt, Text):
        text = prompt.text if isinstance(prompt.text, str) else list(prompt.text)
        return f"{address}/completions", body | {"prompt": text}
    if options.kind == "vllm":
        raise BadRequestError(
            f"'{options.name}' is vLLM, which fills no gaps by itself.",
            param="suffix",
            advice="Name the base that it serves in serving.engines: prompts are then rendered "
            "here.",
        )
    gap = {"prompt": prompt.prefix + prompt.begun, "suffix": prompt.suffix}
    return f"{address}/completions", body | gap


def _llamacpp(options: EngineOptions, model: str, asked: Asked) -> tuple[str, dict[str, Any]]:
    prompt, rules = asked.prompt, asked.sampling
    body: dict[str, Any] = {
        "model": model,
        "n_predict": rules.max_tokens,
        "temperature": rules.temperature,
        "top_p": rules.top_p,
        "top_k": rules.top_k,
        "min_p": rules.min_p,
        "stop": list(rules.stops),
        "stream": True,
        "cache_prompt": True,
    }
    body |= {"seed": rules.seed} if rules.seed is not None else {}
    if isinstance(prompt, Fim):
        extra = [{"text": file.text, "filename": file.path or ""} for file in prompt.context]
        body |= {"input_prefix": prompt.prefix, "input_suffix": prompt.suffix}
        return f"{options.root}/infill", body | {"prompt": prompt.begun, "input_extra": extra}
    assert isinstance(prompt, Text)
    text = prompt.text if isinstance(prompt.text, str) else list(prompt.text)
    return f"{options.root}/completion", body | {"prompt": text}


def _ollama(options: EngineOptions, model: str, asked: Asked) -> tuple[str, dict[str, Any]]:
    prompt, rules = asked.prompt, asked.sampling
    settings: dict[str, Any] = {
        "num_predict": rules.max_tokens,
        "temperature": rules.temperature,
        "top_p": rules.top_p,
        "top_k": rules.top_k,
        "min_p": rules.min_p,
        "stop": list(rules.stops),
    }
    settings |= {"seed": rules.seed} if rules.seed is not None else {}
    body: dict[str, Any] = {"model": model, "stream": True, "options": settings}
    if isinstance(prompt, Chat):
        return f"{options.root}/api/chat", body | {"messages": list(prompt.messages)}
    if isinstance(prompt, Fim):
        gap = {"prompt": prompt.prefix + prompt.begun, "suffix": prompt.suffix}
        return f"{options.root}/api/generate", body | gap
    text = asked.text if asked.text is not None else prompt.text
    if not isinstance(text, str):
        raise BadRequestError("Ollama takes text, not token ids.", param="prompt")
    return f"{options.root}/api/generate", body | {"prompt": text, "raw": True}


def read_event(data: Mapping[str, Any]) -> Event:
    """One event of a stream.

    Raises:
        ServingError: the server reports an error, or says what nobody understands.
    """
    if error := data.get("error"):
        said = error.get("message") if isinstance(error, Mapping) else error
        raise ServingError(f"it broke off: {str(said)[:200]}")
    try:
        if "choices" in data:
            event = _read_openai(data)
        elif "done" in data:
            event = _read_ollama(data)
        else:
            event = _read_llamacpp(data)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ServingError("it sent an event that is none.") from error
    counts = (event.prompt_tokens, event.tokens)
    if not isinstance(event.text, str) or not all(isinstance(n, int | None) for n in counts):
        raise ServingError("it sent an event that is none.")
    return event


def _read_openai(data: Mapping[str, Any]) -> Event:
    choices: Sequence[Mapping[str, Any]] = data["choices"]
    usage = data.get("usage") or {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    if not choices:
        return Event("", None, *counts)
    choice = choices[0]
    text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
    return Event(text or "", _reason(choice.get("finish_reason")), *counts)


def _read_ollama(data: Mapping[str, Any]) -> Event:
    text = data["message"]["content"] if "message" in data else data.get("response", "")
    if not data["done"]:
        return Event(text)
    reason = _reason(data.get("done_reason") or "stop")
    return Event(text, reason, data.get("prompt_eval_count"), data.get("eval_count"))


def _read_llamacpp(data: Mapping[str, Any]) -> Event:
    if not data.get("stop"):
        return Event(data["content"])
    reason: FinishReason = "length" if data.get("stop_type") == "limit" else "stop"
    counts = (data.get("tokens_evaluated"), data.get("tokens_predicted"))
    return Event(data.get("content", ""), reason, *counts)


def _reason(said: Any) -> FinishReason | None:
    if said is None:
        return None
    return "length" if said == "length" else "stop"
