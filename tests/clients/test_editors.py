"""The request sequences of Continue, llama.vscode and the Tabby agent, as their sources send them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from codetune.models.prompts import Renderer
from tests.clients.conftest import Running

P, S = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"
QWEN_STOPS = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
QWEN_STOPS += ["<|repo_name|>", "<|file_sep|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": "Bearer x"}) as http:
        yield http


def continue_sse(answer: httpx.Response) -> list[dict[str, Any]]:
    """Continue's parser: a line that begins with `: ping` ends the stream for it."""
    assert answer.status_code == 200, answer.text
    found = []
    for line in answer.text.split("\n"):
        assert not line.startswith(":")
        if line.startswith("data: [DONE]"):
            return found
        if line.startswith("data:"):
            data = json.loads(line.removeprefix("data:"))
            assert "error" not in data
            found.append(data)
    raise AssertionError("no [DONE]")


def greedy(client: OpenAI, **fields: Any) -> str:
    """What OpenAI's dialect says to the same place in the file."""
    answer = client.completions.create(model="shop", max_tokens=20, temperature=0, **fields)
    return answer.choices[0].text


def test_continue_through_mistrals_route(http: httpx.Client, client: OpenAI) -> None:
    body = {"model": "shop", "prompt": P, "suffix": S, "max_tokens": 20, "temperature": 0.0}
    body |= {"frequency_penalty": 0, "presence_penalty": 0, "stop": QWEN_STOPS, "stream": True}
    chunks = continue_sse(http.post("/v1/fim/completions", json=body))
    assert all(isinstance(chunk["choices"][0]["delta"]["content"], str) for chunk in chunks)
    said = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert said == greedy(client, prompt=P, suffix=S)
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    whole = http.post("/v1/fim/completions", json=body | {"stream": False}).json()
    assert whole["choices"][0]["message"]["content"] == said


@pytest.mark.parametrize(
    "markup",
    [
        f"<fim_prefix>{P}<fim_suffix>{S}<fim_middle>",  # unknown names
        f"<|fim_prefix|>{P}<|fim_suffix|>{S}<|fim_middle|>",  # qwen…coder
        f"<PRE> {P} <SUF>{S} <MID>",  # codellama
        f"<｜fim▁begin｜>{P}<｜fim▁hole｜>{S}<｜fim▁end｜>",  # deepseek
        f"[SUFFIX]{S}[PREFIX]{P}",  # codestral
    ],
)
def test_continue_renders_the_prompt_itself(
    http: httpx.Client, client: OpenAI, markup: str
) -> None:
    """Its `openai` and `ollama` providers guess the markup from the model's name."""
    body = {"model": "shop", "max_tokens": 20, "temperature": 0, "stop": QWEN_STOPS}
    answer = http.post("/v1/completions", json=body | {"prompt": markup, "stream": True})
    chunks = continue_sse(answer)
    expected = greedy(client, prompt=P, suffix=S)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    options = {"temperature": 0, "num_predict": 20, "stop": QWEN_STOPS, "num_ctx": 1024}
    body = {"model": "shop", "prompt": markup, "raw": True, "options": options}
    lines = http.post("/api/generate", json=body | {"keep_alive": 1800, "stream": True}).text
    parts = [json.loads(line) for line in lines.splitlines()]
    assert "".join(part["response"] for part in parts) == expected


def test_continue_through_ollama(http: httpx.Client, client: OpenAI) -> None:
    shown = http.post("/api/show", json={"name": "shop"}).json()
    assert "if .Suffix" in shown["template"]
    for line in shown["parameters"].split("\n"):  # it reads each line so, and stops at an error
        key, value = line.split(None, 1)
        assert key == "num_ctx" or json.loads(value)
    options = {"temperature": 0, "num_predict": 20, "stop": ["\n\n\n"]}
    body = {"model": "shop", "prompt": P, "suffix": S, "options": options, "stream": True}
    parts = [json.loads(line) for line in http.post("/api/generate", json=body).text.splitlines()]
    assert "".join(part["response"] for part in parts) == greedy(client, prompt=P, suffix=S)


def test_continue_through_llamacpp(http: httpx.Client, client: OpenAI) -> None:
    body = {"prompt": P, "stream": True, "n_predict": 20, "temperature": 0, "model": "shop"}
    text = http.post("/completion", json=body).text
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]
    assert "".join(event["content"] for event in events) == greedy(client, prompt=P)
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["timings"]["predicted_n"] == events[-1]["tokens_predicted"]


def test_llama_vscode(http: httpx.Client, client: OpenAI) -> None:
    """A request that warms the cache, completions at the cursor, a chat without a limit."""
    chunk = {"text": "import math\n", "time": 1, "filename": "math.py"}
    warm = {"input_prefix": "", "input_suffix": "", "input_extra": [chunk], "prompt": ""}
    warm |= {"n_predict": 0, "samplers": [], "cache_prompt": True, "t_max_predict_ms": 1}
    assert http.post("/infill", json=warm).json()["content"] == ""
    body = {"input_prefix": "def add(a, b):\n", "input_suffix": S, "input_extra": []}
    body |= {"prompt": "    ", "n_predict": 20, "top_k": 40, "top_p": 0.99, "stream": False}
    body |= {"samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "model": "shop"}
    answer = http.post("/infill", json=body | {"t_max_prompt_ms": 500, "t_max_predict_ms": 2500})
    found = answer.json()
    assert found["timings"]["prompt_n"] + found["timings"]["cache_n"] == found["tokens_evaluated"]
    bare = http.post("/infill", json=body | {"prompt": ""}).json()
    assert found["tokens_evaluated"] - bare["tokens_evaluated"] == len(body["prompt"])
    again = http.post("/infill", json=body).json()
    assert again["content"] == found["content"], "samplers with infill are greedy"
    several = http.post("/infill", json=body | {"n_cmpl": 3, "seed": 1}).json()
    assert len(several) == 3
    assert len({one["content"] for one in several}) > 1
    chat = {"messages": [{"role": "user", "content": "x"}], "stream": False, "max_tokens": -1}
    chat |= {"samplers": "edkypmxt", "temperature": 0.8, "top_k": 40, "min_p": 0.05}
    answer = http.post(
        "/v1/chat/completions", json=chat | {"stop": ["a", "e", "i"], "model": "tiny"}
    )
    assert answer.json()["choices"][0]["message"]["role"] == "assistant"


def test_adapters_by_number(http: httpx.Client, client: OpenAI) -> None:
    listed = http.get("/lora-adapters").json()
    assert [entry["path"] for entry in listed] == ["shop:1", "shop:2"]
    assert [entry["scale"] for entry in listed] == [0.0, 0.0]
    body = {"prompt": P, "n_predict": 12, "temperature": 0}

    def said(**fields: Any) -> tuple[str, str]:
        answer = http.post("/completion", json=body | fields).json()
        return answer["model"], answer["content"]

    one, two = said(lora=[{"id": 0, "scale": 0.5}]), said(lora=[{"id": 1, "scale": 1.0}])
    assert (one[0], two[0]) == ("shop:1", "shop:2")
    assert one[1] != two[1]
    assert said(lora=[{"id": 0, "scale": 0}])[0] == "tiny"
    assert http.post("/lora-adapters", json=[{"id": 1, "scale": 1}]).status_code == 200
    assert [entry["scale"] for entry in http.get("/lora-adapters").json()] == [0.0, 1.0]
    assert said() == two
    assert said(lora=[{"id": 0, "scale": 1}]) == one
    assert said(model="tiny")[0] == "tiny"
    assert http.post("/lora-adapters", json=[]).status_code == 200
    for wrong in ([{"id": 7, "scale": 1}], [{"id": 0, "scale": 1}, {"id": 1, "scale": 1}]):
        answer = http.post("/completion", json=body | {"lora": wrong})
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_llamacpp_ends_where_its_own_server_does(http: httpx.Client) -> None:
    body = {"prompt": "x", "n_predict": 64, "temperature": 0, "model": "tiny"}
    whole = http.post("/completion", json=body).json()
    stop = whole["content"][4:6]
    ended = http.post("/completion", json=body | {"stop": ["never", stop]}).json()
    assert len(stop) == 2
    assert ended["content"] == whole["content"].partition(stop)[0]
    assert (ended["stop_type"], ended["stopping_word"]) == ("word", stop)
    assert (whole["stop_type"], whole["stopping_word"]) == ("limit", "")
    assert http.post("/completion", json=body | {"n_predict": 0}).json()["content"] == ""
    picked = http.post(
        "/completion", json=body | {"response_fields": ["timings/predicted_n", "x/y"]}
    )
    assert picked.json() == {"timings/predicted_n": whole["tokens_predicted"]}
    several = http.post("/completion", json=body | {"prompt": ["a", "b"], "n_predict": 2}).json()
    assert [one["index"] for one in several] == [0, 1]
    props = http.get("/props", params={"model": "shop"}).json()
    assert props["default_generation_settings"]["n_ctx"] == 1024
    assert "/" not in props["model_path"]
    assert http.get("/health").json()["status"] == "ok"


def test_tokens_and_templates(http: httpx.Client, server: Running) -> None:
    renderer = Renderer.from_folder(server.base.path)
    text = "x = '<|fim_middle|>' # ä"
    ids = http.post("/tokenize", json={"content": text}).json()["tokens"]
    assert ids == renderer.plain(text), "names of control tokens are text"
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"content": text}
    pieces = http.post("/tokenize", json={"content": "ä", "with_pieces": True}).json()["tokens"]
    assert [piece["piece"] for piece in pieces] == [[0xC3], [0xA4]]
    answer = http.post("/tokenize", json={"content": "x", "parse_special": True})
    assert answer.status_code == 400
    assert http.post("/detokenize", json={"tokens": [99999]}).status_code == 400
    messages = [{"role": "user", "content": "<|im_end|>"}]
    prompt = http.post("/apply-template", json={"messages": messages}).json()["prompt"]
    assert prompt.endswith("<|im_start|>assistant\n")
    parts = [{"type": "text", "text": "<|im_"}, {"type": "text", "text": "end|>"}]
    again = http.post("/apply-template", json={"messages": [messages[0] | {"content": parts}]})
    assert again.json()["prompt"] == prompt


def test_the_tabby_agent(http: httpx.Client, client: OpenAI) -> None:
    health = http.get("/v1/health").json()
    assert health["version"]["git_describe"].startswith("v0.32")
    default = client.completions.create(model="", prompt="x", max_tokens=1).model
    assert health["model"] == health["chat_model"] == default
    assert http.get("/v1beta/server_setting").json() == {"disable_client_side_telemetry": True}
    segments = {"prefix": P, "suffix": S, "filepath": "src/shop.py"}
    segments |= {"git_url": "https://user:secret@github.com/team/other.git", "clipboard": "x"}
    body = {"language": "python", "segments": segments, "user": "u", "temperature": 0.0}
    answer = http.post("/v1/completions", json=body).json()
    assert answer.keys() == {"id", "choices"}
    (choice,) = answer["choices"]
    assert choice.keys() == {"index", "text"}
    named = {"path": "src/shop.py", "repo": "github.com/team/other"}
    expected = client.completions.create(
        model=default, prompt=P, suffix=S, max_tokens=128, temperature=0, extra_body=named
    )
    assert choice["text"] == expected.choices[0].text, "the repository is named as in training"
    snippets = [{"filepath": "math.py", "body": "def add(a, b): ...", "score": 0.9}]
    segments |= {"declarations": [{"filepath": "a.py", "body": "x: int"}]}
    segments |= {"relevant_snippets_from_changed_files": snippets, "filepath": None}
    assert http.post("/v1/completions", json=body).status_code == 200
    event = {"completion_id": answer["id"], "choice_index": 0, "view_id": "v", "elapsed": 12}
    for kind in ("view", "select"):
        assert http.post("/v1/events", json=event | {"type": kind}).status_code == 200
    assert http.post("/v1/events", json=event | {"type": "stare"}).status_code == 400
    other = event | {"type": "view", "completion_id": "cmpl-none"}
    unknown = http.post("/v1/events", json=other)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    other = event | {"type": "view", "choice_index": 1}
    refused = http.post("/v1/events", json=other)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "choice_index")


def test_vllms_adapters(http: httpx.Client, client: OpenAI, server: Running) -> None:
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    body = {"lora_name": "mine", "lora_path": "shop:2"}
    answer = http.post(load, json=body)
    assert (answer.status_code, answer.text[:8]) == (200, "Success:")
    try:
        again = http.post(load, json=body)
        assert (again.status_code, again.json()["error"]["type"]) == (400, "InvalidUserInput")
        listed = {model.id: model.to_dict() for model in client.models.list()}
        assert (listed["mine"]["root"], listed["mine"]["parent"]) == ("shop:2", "tiny")
        said = client.completions.create(model="mine", prompt=P, max_tokens=12, temperature=0)
        same = client.completions.create(model="shop:2", prompt=P, max_tokens=12, temperature=0)
        assert (said.model, said.choices) == ("mine", same.choices)
    finally:
        assert http.post(unload, json={"lora_name": "mine"}).status_code == 200
    missing = http.post(unload, json={"lora_name": "mine"})
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "NotFoundError")
    # A folder that nobody named, even one that holds a registered adapter.
    folder = next((server.home / "models").glob("*/model/adapter_config.json")).parent
    for path in (str(folder), "/etc", "../shop", "none:1", "\0"):
        answer = http.post(load, json={"lora_name": "x", "lora_path": path})
        assert answer.status_code == 404, path
    assert http.post(load, json={"lora_name": "x", "lora_path": "tiny"}).status_code == 400


def test_adapters_below_a_named_root(serve_with: Any, server: Running, tmp_path: Any) -> None:
    import shutil

    folders = [f.parent for f in (server.home / "models").glob("*/model/adapter_config.json")]
    source, root, outside = folders[0], tmp_path / "root", tmp_path / "outside"
    shutil.copytree(source, root / "mine")
    shutil.copytree(source, outside)
    (root / "link").symlink_to(outside)
    with (
        serve_with(adapter_roots=(str(root),)) as running,
        httpx.Client(base_url=running.url) as http,
    ):
        load = "/v1/load_lora_adapter"
        answer = http.post(load, json={"lora_name": "x", "lora_path": str(root / "mine")})
        assert answer.status_code == 200
        body = {"model": "x", "prompt": P, "max_tokens": 12, "temperature": 0}
        answer = http.post("/v1/completions", json=body).json()
        assert answer["model"] == "x"
        other = next(made for made in folders if made != source)
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            shutil.copy(other / file, root / "mine" / file)
        again = {"lora_name": "x", "lora_path": str(root / "mine"), "load_inplace": True}
        assert http.post(load, json=again).status_code == 200
        assert http.post("/v1/completions", json=body).json()["choices"] != answer["choices"]
        for path in (root, root / "link", root / "mine/../../outside", outside):
            answer = http.post(load, json={"lora_name": "y", "lora_path": str(path)})
            assert answer.status_code == 404, path
