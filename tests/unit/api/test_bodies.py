"""What bodies say, and how it is told that they cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from codetune.api.dialects.bodies import read_body
from codetune.api.dialects.llamacpp_requests import TokenizeRequest
from codetune.api.dialects.mistral import FimRequest
from codetune.api.dialects.ollama_requests import ShowRequest
from codetune.api.dialects.openai_requests import ChatRequest, CompletionRequest
from codetune.api.routes import models, ollama
from codetune.errors import BadRequestError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("model", "sent", "field", "value"),
    [
        (ChatRequest, CHAT | {"max_completion_tokens": None, "max_tokens": 2}, "max_tokens", 2),
        (CompletionRequest, {"max_tokens": None}, "max_tokens", 16),
        (CompletionRequest, {"path": None, "filepath": "a.py"}, "path", "a.py"),
        (CompletionRequest, {"repo": None, "repository": "a/b"}, "repo", "a/b"),
        (CompletionRequest, {"stream_options": {"include_usage": None}}, "with_usage", False),
        (FimRequest, {"prompt": "", "random_seed": None, "seed": 5}, "random_seed", 5),
        (ShowRequest, {"model": None, "name": "nano"}, "model", "nano"),
        (ShowRequest, {"model": "", "name": "nano"}, "model", "nano"),
        (TokenizeRequest, {"content": "x", "with_pieces": None}, "with_pieces", False),
        (models.Pull, {"model": None, "repo_id": "a/b"}, "model", "a/b"),
        (models.Push, {"model": "m", "repo_id": None, "repository": "a/b"}, "repo_id", "a/b"),
        (ollama.Pull, {"model": None, "name": "m"}, "model", "m"),
    ],
)
def test_null_is_what_was_not_given(model: Any, sent: Any, field: str, value: Any) -> None:
    assert getattr(read_body(model, json.dumps(sent).encode()), field) == value


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        (FimRequest, {"prompt": None}),
        (ShowRequest, {"model": None}),
        (ShowRequest, {"model": ""}),
        (ChatRequest, {"messages": None}),
    ],
)
def test_what_has_to_be_given_cannot_be_null(model: Any, sent: Any) -> None:
    with pytest.raises(BadRequestError) as refused:
        read_body(model, json.dumps(sent).encode())
    assert refused.value.param == next(iter(sent))
