"""The openai package, unchanged, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI

from codetune.models.load import load_adapter, load_model
from codetune.models.prompts import Renderer
from tests.clients.conftest import Running

MODELS = ["tiny", "shop", "shop:1", "shop:2", "team/whole", "team/whole:1"]
FIM = {"prompt": "def add(a, b):\n    ", "suffix": "\n\nprint(add(1, 2))\n"}


def test_models_are_listed_with_what_they_stand_for(client: OpenAI) -> None:
    models = {model.id: model.to_dict() for model in client.models.list()}
    assert [name for name in models if name != "nano"] == MODELS
    assert models["shop"]["root"] == "shop:1", "the newest promoted version, not the newest"
    assert models["shop:2"]["parent"] == "tiny"
    assert models["shop"]["owned_by"] == "codetune"
    assert models["shop"]["created"] > 1_700_000_000
    for name in MODELS:
        assert client.models.retrieve(name).id == name


def test_a_completion_with_suffix_is_what_the_model_says_to_a_fim_prompt(
    client: OpenAI, server: Running
) -> None:
    """Against transformers and PEFT on the prompt that training renders, header included."""
    import torch

    renderer = Renderer.from_folder(server.base.path)
    ids = renderer.fim_prompt(
        FIM["prompt"], FIM["suffix"], repo="github.com/team/shop", path="src/shop.py"
    )
    answer = client.completions.create(
        model="shop",
        **FIM,
        max_tokens=12,
        temperature=0,
        extra_body={"path": "src/shop.py", "unknown_field": {"x": [1]}},
    )
    folder = _model_folder(server, "shop:1")
    model: Any = load_adapter(load_model(server.base.path, dtype=torch.float32), folder)
    with torch.no_grad():
        expected = list(ids)
        for _ in range(12):
            token = int(model(torch.tensor([expected])).logits[0, -1].argmax())
            expected.append(token)
            if token in renderer.fim_stops:
                break
    said = renderer.decode(expected[len(ids) :])
    assert answer.choices[0].text == said
    assert answer.model == "shop:1"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.completion_tokens == len(expected) - len(ids)


def _model_folder(server: Running, ref: str) -> Any:
    from codetune.registry.cards import Registry

    registry = Registry(server.home)
    return registry.folder(registry.get(ref)) / "model"


def test_streams_give_the_same_text_piece_by_piece(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": "shop", **FIM, "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**request)
    chunks = list(client.completions.create(**request, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons[-1] == whole.choices[0].finish_reason
    assert set(reasons[:-1]) <= {None}


def test_a_long_answer_comes_in_pieces(client: OpenAI) -> None:
    """How many depends on the machine: tokens of one moment go together."""
    stream = client.completions.create(
        model="tiny", prompt="def add(a, b):\n", max_tokens=200, temperature=0, stream=True
    )
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len(chunks) > 1


def test_a_chat_stream_begins_with_the_role_and_ends_empty(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=20,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant"
    assert all(delta.role is None for delta in deltas[1:])
    assert deltas[-1].content is None
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.completion_tokens, usage.total_tokens) == (20, usage.prompt_tokens + 20)
    assert all(chunk.usage is None for chunk in chunks[:-1])

    whole = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        max_completion_tokens=20,
        temperature=0,
    )
    assert whole.choices[0].message.content == "".join(delta.content or "" for delta in deltas)
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == usage.prompt_tokens


def test_base_and_tuned_models_answer_at_the_same_time_as_they_do_alone(client: OpenAI) -> None:
    """Base, two adapters and a model of its own, in concurrent requests."""

    def ask(number: int) -> str:
        model = MODELS[number % len(MODELS)]
        prompt = f"def part_{number // len(MODELS)}("
        stream = client.completions.create(
            model=model, prompt=prompt, suffix="\n", max_tokens=24, temperature=0, stream=True
        )
        return "".join(chunk.choices[0].text for chunk in stream)

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, range(12)))
    assert together == list(map(ask, range(12)))
    assert together[1] == together[2], "a name and the version behind it"
    assert len(set(together[:6])) == 4


def test_several_answers_and_several_prompts(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "temperature": 1.5, "seed": 7}
    one = client.completions.create(prompt=["a", "b"], n=2, **request)
    assert [choice.index for choice in one.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in one.choices]
    assert texts[0] != texts[1]
    again = client.completions.create(prompt=["a", "b"], n=2, **request)
    assert texts == [choice.text for choice in again.choices]
    assert texts[2] == client.completions.create(prompt="b", **request).choices[0].text

    streamed: dict[int, str] = {}
    for chunk in client.completions.create(prompt=["a", "b"], n=2, stream=True, **request):
        choice = chunk.choices[0]
        streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert [streamed[index] for index in range(4)] == texts


def test_prompts_may_be_token_ids_and_may_be_echoed(client: OpenAI) -> None:
    text = client.completions.create(model="tiny", prompt="xyz", max_tokens=4, temperature=0)
    ids = [ord(character) - ord("!") for character in "xyz"]  # the tiny base's tokens are bytes
    same = client.completions.create(
        model="tiny", prompt=ids, max_tokens=4, temperature=0, echo=True
    )
    assert same.choices[0].text == "xyz" + text.choices[0].text
    with pytest.raises(openai.BadRequestError, match="Token ids"):
        client.completions.create(model="tiny", prompt=[99999], max_tokens=4)


def test_stops_and_limits(client: OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="x", max_tokens=30, temperature=0)
    text = whole.choices[0].text
    stop = text[4:6]
    nine = [f"never {n}" for n in range(8)] + [stop]  # Continue sends nine
    cut = client.completions.create(
        model="tiny", prompt="x", max_tokens=30, temperature=0, stop=nine
    )
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert whole.choices[0].finish_reason == "length"
    default = client.completions.create(model="tiny", prompt="x", temperature=0)
    assert default.usage is not None
    assert default.usage.completion_tokens == 16


def test_log_probabilities_have_openais_shape(client: OpenAI) -> None:
    plain = client.completions.create(
        model="tiny", prompt="x", max_tokens=3, temperature=0, logprobs=2
    )
    found = plain.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    assert len(found.token_logprobs) == len(found.tokens or []) == 3
    assert all(value <= 0 for value in found.token_logprobs)
    chat = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=3,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    content = chat.choices[0].logprobs and chat.choices[0].logprobs.content
    assert content is not None
    assert [len(entry.top_logprobs) for entry in content] == [2, 2, 2]


def test_markup_in_a_request_is_plain_text(client: OpenAI) -> None:
    """A control token written in a message or a file costs as many tokens as it has bytes."""
    text = "<|im_end|><|endoftext|><|fim_middle|>"

    def tokens(content: str) -> int:
        chat = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], max_tokens=1
        )
        assert chat.usage is not None
        return chat.usage.prompt_tokens

    assert tokens(text) - tokens("") == len(text)
    fim = client.completions.create(model="tiny", prompt=text, suffix=text, max_tokens=1)
    assert fim.usage is not None
    assert fim.usage.prompt_tokens == 2 * len(text) + 3


def test_fim_markup_that_an_editor_wrote_becomes_the_bases_own(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "temperature": 0}
    own = client.completions.create(prompt="a = ", suffix="\nb", **request)
    for prompt in (
        "<fim_prefix>a = <fim_suffix>\nb<fim_middle>",
        "<|fim_prefix|>a = <|fim_suffix|>\nb<|fim_middle|>",
    ):
        other = client.completions.create(prompt=prompt, **request)
        assert (other.usage, other.choices) == (own.usage, own.choices)


def test_a_file_longer_than_the_window_is_cut_around_the_cursor(client: OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt="x = 1\n" * 5000, suffix="y = 2\n" * 5000, max_tokens=16
    )
    assert answer.usage is not None
    assert 900 < answer.usage.prompt_tokens <= 1024 - 16


def test_errors_become_the_clients_own(client: OpenAI, server: Running) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="shopp", prompt="x")
    assert missing.value.code == "model_not_found"
    assert "Did you mean 'shop'?" in missing.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("team/other")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x" * 3000}]
        )
    assert "window is 1024" in long.value.message
    assert "tokens" in long.value.message
    assert long.value.param == "messages"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"n": 10**6}, "n"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"stop": ["x"] * 1000}, "stop"),
        ({"stop": "x" * 1000}, "stop"),
        ({"logprobs": 10**6}, "logprobs"),
        ({"seed": "no"}, "seed"),
        ({"best_of": 5}, "best_of"),
    ]
    for change, param in wrong:
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="tiny", prompt="x", extra_body=change)
        assert refused.value.param == param
    server.settle()


def test_a_client_that_leaves_frees_its_place(client: OpenAI, server: Running) -> None:
    stream = client.completions.create(
        model="tiny", prompt="x", max_tokens=1000, temperature=0, stream=True
    )
    next(iter(stream))
    assert server.engine.busy()["running"] == 1
    stream.close()
    server.settle()
    with server.client(timeout=0.05) as hasty, pytest.raises(openai.APITimeoutError):
        hasty.completions.create(
            model="tiny", prompt="x" * 500, max_tokens=500, n=16, temperature=0
        )
    server.settle()


def test_too_many_requests_are_asked_to_come_back(serve_with: Callable[..., Any]) -> None:
    with serve_with(max_running=1, max_waiting=1) as server, server.client() as client:
        client.completions.create(model="tiny", prompt="x", max_tokens=1)
        streams = [
            client.completions.create(
                model="tiny", prompt="x", max_tokens=1000, temperature=0, stream=True
            )
        ]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(
                client.completions.create, model="tiny", prompt="x", max_tokens=2, temperature=0
            )
            while server.engine.busy()["waiting"] == 0:
                assert not waiting.done()
            with pytest.raises(openai.RateLimitError) as refused:
                client.completions.create(model="tiny", prompt="x", max_tokens=2)
            assert refused.value.code == "overloaded"
            assert int(refused.value.response.headers["retry-after"]) >= 1
            for stream in streams:
                stream.close()
            assert waiting.result(10).choices[0].finish_reason == "length"


def test_an_error_in_mid_stream_is_told_in_the_stream(serve_with: Callable[..., Any]) -> None:
    with serve_with(deadline=0.3) as server, server.client() as client:
        client.completions.create(model="tiny", prompt="x", max_tokens=1)
        stream = client.completions.create(
            model="tiny", prompt="x", max_tokens=1000, n=32, temperature=0, stream=True
        )
        with pytest.raises(openai.APIError, match="not ready within"):
            list(stream)
        server.settle()
