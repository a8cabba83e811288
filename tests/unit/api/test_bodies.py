"""What bodies say, and how it is told that they cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from codetune.api.dialects.bodies import read_body
from codetune.api.dialects.llamacpp_requests import Loras, TokenizeRequest
from codetune.api.dialects.mistral import FimRequest
from codetune.api.dialects.ollama_requests import ShowRequest
from codetune.api.dialects.openai_requests import ChatRequest, CompletionRequest
from codetune.api.routes import models, ollama
from codetune.errors import BadRequestError
from tests.unit.api.management import Office

AS_JSON = {"headers": {"Content-Type": "application/json"}}
UPLOADS = ("/api/v1/datasets/upload", "/api/v1/sources/upload")
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


@pytest.mark.parametrize("body", [b"[]", b"null", b"1"])
def test_a_body_that_is_no_object_is_called_the_body(body: bytes) -> None:
    with pytest.raises(BadRequestError, match=r"^The body: Input should be an object"):
        read_body(CompletionRequest, body)
    with pytest.raises(BadRequestError, match=r"^The body: Input should be a valid array"):
        read_body(Loras, b"{}")


@pytest.mark.parametrize(
    ("status", "said", "sent"),
    [
        (
            400,
            "not JSON: Expecting value (character 11)",
            {"content": b'{"models": nope}'} | AS_JSON,
        ),
        (400, "not JSON: no utf-", {"content": b"\xff\xfe{"} | AS_JSON),
        (400, "too deep", {"content": b"[" * 100_000} | AS_JSON),
        (400, "The body: Send a JSON object.", {"content": b"[]"} | AS_JSON),
        (400, "object with Content-Type: application/json.", {"content": b'{"models": ["m"]}'}),
        (422, "The body: say either 'prompt' or 'messages'.", {"json": {"models": ["m"]}}),
    ],
)
def test_our_own_routes_say_what_to_send(
    alone: Office, status: int, said: str, sent: dict[str, Any]
) -> None:
    error = alone(None, "POST /api/v1/compare", status, **sent).json()["error"]
    assert said in error["message"]
    assert error["code"] == "invalid_value"


def test_a_text_in_the_place_of_a_file_is_refused_in_words(alone: Office) -> None:
    for path in UPLOADS:
        error = alone(None, f"POST {path}", 422, files={"file": (None, "x")}).json()["error"]
        assert error["message"] == "file: Send a file, as the part of a form (multipart/form-data)."
