"""Vectors of texts through the openai and ollama packages and llama.cpp's paths."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest
import torch
from openai import OpenAI

from codetune.models.load import load_model
from codetune.models.prompts import Renderer
from codetune.serving.embed import LONGEST, MOST_TEXTS
from codetune.serving.engines.remote_embeddings import ask_for_vectors
from tests.clients.conftest import Running

TEXTS = ["def add(a, b):\n    return a + b\n", "x", "<|im_end|>"]


@pytest.fixture(scope="module")
def expected(server: Running) -> np.ndarray:
    """By transformers, one text at a time; names of control tokens in it are text."""
    model: Any = load_model(server.base.path, dtype=torch.float32)
    renderer, rows = Renderer.from_folder(server.base.path), []
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor([renderer.plain(text)])
            mean = model(ids, output_hidden_states=True).hidden_states[-1][0].mean(0)
            rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


def test_the_openai_package(client: OpenAI, expected: np.ndarray) -> None:
    """Which asks for base64 by itself, and for numbers when it is told to."""
    made = client.embeddings.create(model="tiny", input=TEXTS)
    assert (made.object, made.model, [one.index for one in made.data]) == (
        "list",
        "tiny",
        [0, 1, 2],
    )
    np.testing.assert_allclose([one.embedding for one in made.data], expected, atol=1e-5)
    assert made.usage.prompt_tokens == made.usage.total_tokens == sum(map(len, TEXTS))
    plain = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    assert [one.embedding for one in plain.data] == [one.embedding for one in made.data]
    one = client.embeddings.create(model="tiny", input=TEXTS[1], dimensions=64)
    np.testing.assert_allclose(one.data[0].embedding, expected[1], atol=1e-5)
    ids = [[ord(c) - ord("!") for c in "x"]] * 2
    for vector in client.embeddings.create(model="tiny", input=ids).data:
        np.testing.assert_allclose(vector.embedding, expected[1], atol=1e-5)
    tuned = client.embeddings.create(model="shop", input=TEXTS[0])
    assert tuned.model == "shop:1"
    assert np.abs(np.array(tuned.data[0].embedding) - expected[0]).max() > 1e-3, "the adapter's own"


def test_the_ollama_package(server: Running, expected: np.ndarray) -> None:
    with ollama.Client(host=server.url) as ask:
        made = ask.embed("tiny:latest", TEXTS)
        assert (made.model, made.prompt_eval_count) == ("tiny:latest", sum(map(len, TEXTS)))
        np.testing.assert_allclose(np.array(made.embeddings), expected, atol=1e-5)
        assert (made.total_duration or 0) > 10_000
        older = ask.embeddings("tiny", TEXTS[0])
        np.testing.assert_allclose(older.embedding, expected[0], atol=1e-5)
        assert ask.embed("shop:2", "").embeddings == []
        assert "shop:2" in [model.model for model in ask.ps().models], "an empty request loads it"
        cut = ask.embed("tiny", "x" * 5000)
        assert cut.prompt_eval_count == 1024
        with pytest.raises(ollama.ResponseError, match="5000 tokens") as refused:
            ask.embed("tiny", "x" * 5000, truncate=False)
        assert refused.value.status_code == 400
        with pytest.raises(ollama.ResponseError, match="model 'none' not found"):
            ask.embed("none", "x")


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_llama_cpps_paths(server: Running, expected: np.ndarray, path: str) -> None:
    with httpx.Client(base_url=server.url) as http:
        made = http.post(path, json={"model": "tiny", "content": TEXTS}).json()
        assert [one["index"] for one in made] == [0, 1, 2]
        np.testing.assert_allclose([one["embedding"][0] for one in made], expected, atol=1e-5)
        one = http.post(path, json={"model": "tiny", "content": "x"}).json()
        assert len(one) == 1
        refused = http.post(path, json={"content": "x", "embd_normalize": -1})
        assert refused.status_code == 400 and refused.json()["error"]["code"] == 400


def test_what_has_no_vector(client: OpenAI) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"input": ""}, "empty text"),
        ({"input": []}, "0 texts"),
        ({"input": ["x", ""]}, "empty text"),
        ({"input": ["x"] * (MOST_TEXTS + 1)}, f"1 to {MOST_TEXTS}"),
        ({"input": "x" * 2000}, "Text 0 has 2000 tokens; at most 1024"),
        ({"input": ["x" * 1000] * 301}, "more than 300000 tokens"),
        ({"input": [[10**6]]}, "Token ids"),
        ({"input": "x", "dimensions": 32}, "64 numbers, and cannot have 32"),
    ]
    for body, said in wrong:
        with pytest.raises(openai.BadRequestError, match=said) as refused:
            client.embeddings.create(model="tiny", **body)
        assert refused.value.param in ("input", "dimensions")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="none", input="x")
    assert LONGEST == 8192


def test_vectors_of_a_server_elsewhere(server: Running, expected: np.ndarray) -> None:
    """This very server, asked as each kind of remote engine."""
    import asyncio

    from codetune.errors import BadRequestError, RegistryError
    from codetune.serving.config import EngineOptions, ServingOptions
    from codetune.serving.engine import Servable
    from codetune.serving.engines.remote import RemoteEngine

    async def ask(kind: str) -> None:
        options = EngineOptions.load(
            {"name": "there", "kind": kind, "url": f"{server.url}/v1", "model": "tiny"}, "test"
        )
        engine = RemoteEngine(options, ServingOptions())
        vectors, tokens = await engine.vectors(TEXTS, None)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        assert tokens == sum(map(len, TEXTS))
        with pytest.raises(RegistryError):
            await engine.vectors(TEXTS, "none")
        with pytest.raises(BadRequestError, match="remote:there/MODEL"):
            await engine.embed(Servable("tiny", "base", server.base.path, server.base), [])
        engine.close()

    for kind in ("openai", "vllm", "llamacpp", "ollama"):
        asyncio.run(ask(kind))


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"data": "x"},
        {"data": [{"index": 0}]},
        {"data": [{"embedding": [1, "x"]}]},
        {"data": [{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}]},
        {"data": [{"embedding": [1.0]}]},
    ],
)
def test_an_answer_that_is_no_vector(said: dict[str, Any]) -> None:
    import asyncio

    from codetune.errors import ServingError
    from codetune.serving.config import EngineOptions

    async def call(*_: Any) -> dict[str, Any]:
        return said

    options = EngineOptions.load({"name": "there", "url": "http://localhost:1/v1"}, "test")
    with pytest.raises(ServingError, match="gives no vectors"):
        asyncio.run(ask_for_vectors(options, call, "m", ["x", "y"]))
