"""The ollama package, unchanged, against a real server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from openai import OpenAI

from tests.clients.conftest import Running, serving
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, register

GREEDY = {"temperature": 0, "num_predict": 12}
FIM = {"prompt": "def add(a, b):\n    ", "suffix": "\n\nprint(add(1, 2))\n"}


@pytest.fixture
def ask(server: Running) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


def test_models_are_listed_and_shown(ask: ollama.Client, server: Running) -> None:
    listed = {model.model: model for model in ask.list().models}
    assert {"tiny:latest", "shop:latest", "shop:1", "shop:2", "team/whole:latest"} <= set(listed)
    one = listed["shop:1"]
    assert one.details is not None
    assert one.details.family == "qwen2"
    assert one.details.parameter_size == "0.1M"
    assert one.size is not None
    assert one.size > (server.base.path / "model.safetensors").stat().st_size, "with its adapter"
    for name in ("shop", "shop:1", "shop:latest", "tiny"):
        shown = ask.show(name)
        assert shown.template is not None
        assert "{{ .Suffix }}" in shown.template, "Continue looks for it before it sends a suffix"
        assert shown.capabilities == ["completion", "insert"]
        assert (shown.modelinfo or {})["qwen2.context_length"] == 1024
    assert ask.ps().models is not None


def test_a_prompt_with_suffix_is_filled_in(ask: ollama.Client, client: OpenAI) -> None:
    """The same text as OpenAI's dialect gives, whole and in a stream."""
    other = client.completions.create(model="shop", **FIM, max_tokens=12, temperature=0)
    whole = ask.generate("shop", **FIM, options=GREEDY)
    assert whole.response == other.choices[0].text
    assert other.usage is not None
    assert whole.prompt_eval_count == other.usage.prompt_tokens
    assert whole.eval_count == other.usage.completion_tokens
    parts = list(ask.generate("shop", **FIM, options=GREEDY, stream=True))
    assert "".join(part.response for part in parts) == whole.response
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert last.done_reason in ("stop", "length")
    assert last.response == ""
    for field in ("total_duration", "prompt_eval_duration", "eval_duration"):
        assert getattr(last, field) >= 0
    assert (last.total_duration or 0) > 10_000, "nanoseconds"


def test_a_conversation(ask: ollama.Client, client: OpenAI) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    other = client.chat.completions.create(
        model="tiny",
        messages=messages,  # type: ignore[arg-type]
        max_tokens=12,
        temperature=0,
    )
    whole = ask.chat("tiny", messages, options=GREEDY)
    assert whole.message.role == "assistant"
    assert whole.message.content == other.choices[0].message.content
    parts = list(ask.chat("tiny", messages, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert ask.generate("tiny", "Hello", raw=True, options=GREEDY).prompt_eval_count == 5
    scored = ask.generate(
        "tiny", "Hello", raw=True, options=GREEDY, stream=False, logprobs=True, top_logprobs=2
    )
    assert len(scored.logprobs or []) == scored.eval_count
    assert len((scored.logprobs or [])[0].top_logprobs or []) == 2


def test_an_empty_request_loads_the_model(ask: ollama.Client) -> None:
    answer = ask.generate("shop:2")
    assert (answer.response, answer.done, answer.done_reason) == ("", True, "load")
    assert "shop:2" in [model.model for model in ask.ps().models]
    assert ask.chat("shop:2", keep_alive=0).done_reason == "unload"


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        (lambda c: c.generate("none", "x"), 404, "model 'none' not found"),
        (
            lambda c: c.chat("none:7", [{"role": "user", "content": "x"}]),
            404,
            "model 'none:7' not found",
        ),
        (lambda c: c.show("none"), 404, "model 'none' not found"),
        (lambda c: c.generate("tiny", "x", think=True), 400, "does not support thinking"),
        (lambda c: c.generate("tiny", "x", format="json"), 400, "only text"),
        (lambda c: c.generate("tiny", "x", template="{{ .Prompt }}"), 400, "template"),
        (lambda c: c.generate("tiny", "x", options={"num_predict": 10**9}), 400, "max_tokens"),
        (lambda c: c.generate("tiny", "x", options={"top_p": 7}), 400, "top_p"),
        (lambda c: c.pull("tiny"), 404, "/api/pull"),
    ],
)
def test_errors_are_strings(
    ask: ollama.Client, call: Callable[[Any], Any], status: int, message: str
) -> None:
    with pytest.raises(ollama.ResponseError, match=message) as refused:
        call(ask)
    assert refused.value.status_code == status


def test_an_error_in_mid_stream_is_a_line_of_its_own(serve_with: Callable[..., Any]) -> None:
    with serve_with(deadline=0.3) as server, ollama.Client(host=server.url) as ask:
        ask.generate("tiny", "x", options={"num_predict": 1})
        stream = ask.generate(
            "tiny", "x", stream=True, raw=True, options={"temperature": 0, "num_predict": 1000}
        )
        parts = []
        try:
            for part in stream:
                parts.append(part)
                if len(parts) == 1:  # others take the model's time until it is too late
                    with httpx.Client() as http:
                        http.post(
                            f"{server.url}/v1/completions",
                            json={"prompt": "x", "max_tokens": 1000, "n": 32, "temperature": 0},
                        )
        except ollama.ResponseError as error:
            assert "not ready within" in str(error)
        else:
            assert parts[-1].done, "fast enough this time"
        server.settle()


def test_streams_are_ndjson_and_on_by_default(server: Running) -> None:
    body = {"model": "tiny", "prompt": "x", "raw": True, "options": GREEDY}
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/").text == "Ollama is running"
        page = http.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}).text
        assert page.startswith("codetune ") and "/v1/models" in page
        assert http.head("/").status_code == 200
        assert tuple(map(int, http.get("/api/version").json()["version"].split("."))) >= (0, 6, 4)
        answer = http.post("/api/generate", json=body)
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.text.endswith("}\n")
        # curl -d sends JSON as a form.
        form = {"content-type": "application/x-www-form-urlencoded"}
        once = b'{"model": "tiny", "prompt": "x", "stream": false, "options": {"num_predict": 2}}'
        whole = http.post("/api/generate", content=once, headers=form)
        assert whole.headers["content-type"] == "application/json"
        assert whole.json()["done"] is True
        # Continue sends the model as `name`.
        assert http.post("/api/show", json={"name": "shop"}).status_code == 200


def test_a_model_that_cannot_be_served_does_not_hide_the_others(tmp_path: Path) -> None:
    """Its base is another one now: it is listed without details, and says why when asked."""
    base = base_of(make_base(tmp_path / "tiny"))
    register(tmp_path / "home", "old", base, make_adapter(base, tmp_path / "adapter"))
    shutil.rmtree(tmp_path / "tiny")
    make_base(tmp_path / "tiny", seed=5)
    with (
        serving(tmp_path / "home", base_of(tmp_path / "tiny")) as running,
        ollama.Client(host=running.url) as ask,
    ):
        listed = {model.model: model.size for model in ask.list().models}
        assert listed["old:1"] == 0
        assert (listed["tiny:latest"] or 0) > 0
        with pytest.raises(ollama.ResponseError, match="tuned on another"):
            ask.generate("old", "x")
