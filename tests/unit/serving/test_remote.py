"""Remote engines against real servers: `codetune serve`, and one with vLLM's habits."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from codetune.errors import (
    BadRequestError,
    ConfigError,
    DeadlineError,
    OverloadedError,
    RegistryError,
    ServingError,
)
from codetune.models.load import BaseModel
from codetune.registry.cards import Registry
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import EngineOptions, ServingOptions
from codetune.serving.engine import Finish, Generation, Piece, Servable
from codetune.serving.engines.generation import RemoteGeneration
from codetune.serving.engines.local import LocalEngine
from codetune.serving.engines.remote import RemoteEngine
from codetune.serving.engines.router import Router
from codetune.serving.engines.wires import Asked
from codetune.serving.query import Chat, Fim, Prompt, Query, Text
from tests.clients.conftest import Running, serving
from tests.unit.serving.conftest import Asker

Routes = Callable[[FastAPI], None]


@pytest.fixture(scope="module")
def there(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Another codetune, with the same base."""
    with serving(tmp_path_factory.mktemp("there"), base) as running:
        yield running


def completer(
    running_url: str, base: BaseModel, home: Path, serves: str | None = None
) -> Completer:
    engine = EngineOptions(name="big", url=running_url, base=serves)
    settings = ServingOptions(base=str(base.path), engines=[engine])
    remotes = {"big": RemoteEngine(engine, settings)}
    catalog = Catalog(Registry(home), settings.base)
    return Completer(Router(LocalEngine(settings), remotes), catalog, settings, remotes)


@contextmanager
def app_with(routes: Routes) -> Iterator[str]:
    """A real HTTP server with some routes."""
    app = FastAPI()
    routes(app)
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(app, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)


def remote(url: str, **options: Any) -> RemoteEngine:
    values = {"name": "big", "url": f"{url}/v1", "model": "m", **options}
    return RemoteEngine(EngineOptions.model_validate(values), ServingOptions())


async def whole(generation: Generation) -> tuple[str, Finish]:
    text = ""
    async for piece in generation:
        text += piece.text
        if piece.finish:
            return text, piece.finish
    raise AssertionError("no finish")


def answer(completer: Completer, prompt: Prompt, model: str | None, **more: Any) -> Any:
    async def ask() -> tuple[str, Finish]:
        query = Query([prompt], model, **{"max_tokens": 12, "temperature": 0.0, **more})
        answers = await completer.start(query)
        return await whole(answers.generations[0])

    return asyncio.run(ask())


PROMPTS: list[Prompt] = [
    Text("def one(x):\n"),
    Fim("def one(x):\n    return ", "\n\nprint(one(2))\n"),
]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("rendered_here", [True, False])
def test_a_remote_answer_is_the_one_given_here(
    prompt: Prompt, rendered_here: bool, there: Running, base: BaseModel, tmp_path: Path
) -> None:
    """As token ids for a base that is known here, and as text for a model that is not."""
    ours = completer(f"{there.url}/v1", base, tmp_path, base.name if rendered_here else None)
    local = Completer(LocalEngine(), ours.catalog, ours.options)
    before = there.engine.stats().submitted
    text, finish = answer(ours, prompt, None if rendered_here else "remote:big")
    assert there.engine.stats().submitted == before + 1
    expected, expected_finish = answer(local, prompt, None)
    assert (text, finish.reason, finish.tokens) == (expected, "length", expected_finish.tokens)
    assert finish.prompt_tokens
    ours.engine.close()
    local.engine.close()


def test_a_conversation_and_a_named_model(there: Running, base: BaseModel, tmp_path: Path) -> None:
    ours = completer(f"{there.url}/v1", base, tmp_path)
    name = f"remote:big/{base.path.name}"
    chat = Chat([{"role": "user", "content": "hello"}])
    assert answer(ours, chat, name)[0] == answer(ours, chat, None)[0]
    assert answer(ours, Text("x"), name)[1].tokens == 12
    with pytest.raises(RegistryError, match="does not have this"):
        answer(ours, Text("x"), "remote:big/nobody")
    with pytest.raises(RegistryError, match=r"no engine 'bog'.*\n.*Did you mean 'big'"):
        answer(ours, Text("x"), "remote:bog")
    with pytest.raises(BadRequestError, match="only given for models that run on this server"):
        answer(ours, Text("x"), "remote:big", logprobs=1)
    ours.engine.close()


def test_stops_seeds_and_streams(there: Running, base: BaseModel, tmp_path: Path) -> None:
    ours = completer(f"{there.url}/v1", base, tmp_path)
    text, _ = answer(ours, PROMPTS[0], "remote:big")
    cut, finish = answer(ours, PROMPTS[0], "remote:big", stops=("zz", text[4:7]))
    assert (cut, finish.reason) == (text[: text.index(text[4:7])], "stop")
    rules = {"temperature": 1.3, "seed": 3}
    one, two = (answer(ours, PROMPTS[0], "remote:big", **rules) for _ in range(2))
    assert one == two
    ours.engine.close()


def test_cancelling_frees_the_place_there(there: Running, base: BaseModel, tmp_path: Path) -> None:
    ours = completer(f"{there.url}/v1", base, tmp_path)

    async def ask() -> None:
        query = Query([Text("x")], "remote:big", max_tokens=900, temperature=0.0, stream=True)
        (generation,) = (await ours.start(query)).generations
        await anext(aiter(generation))
        assert there.engine.busy()["running"] == 1
        generation.cancel()
        for _ in range(500):
            if not any(there.engine.busy().values()) and not any(ours.engine.busy().values()):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it still runs there")

    asyncio.run(ask())
    assert ours.engine.stats().cancelled >= 1
    ours.engine.close()


def asked(text: str = "x") -> list[Asked]:
    from codetune.serving.engine import Sampling

    return [Asked(Text(text), Sampling(max_tokens=5))]


def ask(engine: RemoteEngine) -> tuple[str, Finish]:
    async def one() -> tuple[str, Finish]:
        return await whole(engine.ask(asked(), None)[0])

    return asyncio.run(one())


def test_nobody_there_is_said_at_once_and_then_without_trying() -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    engine = remote(url, retries=0)
    for said in ("cannot be reached", "could not be reached just now"):
        with pytest.raises(ServingError, match=said):
            ask(engine)
    assert (engine.stats().submitted, engine.stats().failed) == (2, 2)
    assert asyncio.run(engine.health()).ok is False


def stream(*lines: str) -> Response:
    return StreamingResponse(iter(line.encode() for line in lines), media_type="text/event-stream")


async def torn() -> Any:
    """A stream whose connection breaks after the first chunk."""
    yield CHUNK.encode()
    await asyncio.sleep(0.05)
    raise ConnectionResetError


CHUNK = 'data: {"choices":[{"index":0,"text":"ab","finish_reason":null}]}\n\n'
LAST = 'data: {"choices":[{"index":0,"text":"c","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def test_it_is_tried_again_only_while_nothing_has_come() -> None:
    calls: list[str] = []
    plan = [
        JSONResponse({"error": {"message": "busy"}}, 503),
        JSONResponse({}, 429, {"Retry-After": "0"}),
        stream(CHUNK, LAST),
        stream(CHUNK),
        StreamingResponse(torn(), media_type="text/event-stream"),
    ]

    def routes(app: FastAPI) -> None:
        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            calls.append((await request.json())["prompt"])
            return plan[len(calls) - 1]

    with app_with(routes) as url:
        engine = remote(url, retries=2)
        text, finish = ask(engine)
        assert (text, finish.reason, len(calls)) == ("abc", "stop", 3)
        for calls_so_far, reason in ((4, "its answer broke off"), (5, "the connection broke")):
            with pytest.raises(ServingError, match=reason):
                ask(engine)
            assert len(calls) == calls_so_far


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadRequestError), (404, RegistryError), (429, OverloadedError), (401, ServingError)],
)
def test_refusals_keep_their_meaning_and_the_key_stays_secret(
    status: int,
    kind: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("BIG_KEY", "sk-very-secret")
    seen: list[str] = []

    def routes(app: FastAPI) -> None:
        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            seen.append(request.headers["authorization"])
            return JSONResponse({"error": {"message": f"no: {seen[-1]}"}}, status)

    with app_with(routes) as url, caplog.at_level(logging.DEBUG):
        engine = remote(url, retries=0, key_variable="BIG_KEY")
        with pytest.raises(kind) as caught:
            ask(engine)
    assert seen == ["Bearer sk-very-secret"]
    assert "sk-very" not in str(caught.value) + caplog.text + repr(vars(engine.options))


def test_a_missing_key_and_text_that_would_leave_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_KEY holds no key"):
        remote("http://127.0.0.1:1", key_variable="NO_KEY")
    values: dict[str, Any] = {"name": "far", "url": "https://example.org/v1"}
    with pytest.raises(ConfigError, match="is not this machine"):
        EngineOptions.load(values, "test")
    assert not EngineOptions.load(values | {"remote": True}, "test").is_local
    for url in ("http://[", "http://127.0.0.1:x", "http://127.0.0.1:99999"):
        with pytest.raises(ConfigError, match="'url' cannot be"):
            EngineOptions.load({"name": "near", "url": url}, "test")
    with pytest.raises(ConfigError, match="two engines have the name 'far'"):
        ServingOptions.load({"engines": [values | {"remote": True}] * 2}, "test")


def test_silence_and_slowness_end() -> None:
    calls: list[float] = []

    def routes(app: FastAPI) -> None:
        @app.post("/v1/completions")
        async def completions() -> Response:
            calls.append(time.monotonic())

            async def drip() -> Any:
                yield CHUNK.encode()
                await asyncio.sleep(5)

            return StreamingResponse(drip(), media_type="text/event-stream")

    with app_with(routes) as url:
        with pytest.raises(ServingError, match=r"silent for 0\.2 s"):
            ask(remote(url, timeout=0.2))
        engine = remote(url)
        engine._serving = ServingOptions(deadline=0.2)
        with pytest.raises(DeadlineError):
            ask(engine)
        assert len(calls) == 2


@pytest.mark.parametrize(
    "said", ["data: nonsense\n\n", "data: [1]\n\n", 'data: {"choices":[{}]}\n\n' * 2, "data: {}\n"]
)
def test_what_nobody_understands_is_an_error(said: str) -> None:
    def routes(app: FastAPI) -> None:
        @app.post("/v1/completions")
        async def completions() -> Response:
            return stream(said)

    with app_with(routes) as url, pytest.raises(ServingError, match="'big' fails"):
        ask(remote(url))


@pytest.mark.parametrize(
    ("said", "headers"),
    [
        ('data: {"choices":[{"text":["a"]}]}\n\n', {}),
        ('data: {"choices":[],"usage":{"prompt_tokens":"2"}}\n\n', {}),
        (CHUNK, {"content-encoding": "gzip"}),
    ],
)
def test_an_unexpected_answer_ends_the_request(said: str, headers: dict[str, str]) -> None:
    def routes(app: FastAPI) -> None:
        @app.post("/v1/completions")
        async def completions() -> Response:
            return PlainTextResponse(said, headers=headers)

    async def one(engine: RemoteEngine) -> None:
        await asyncio.wait_for(whole(engine.ask(asked(), None)[0]), 3)

    with app_with(routes) as url:
        engine = remote(url, retries=0)
        with pytest.raises(ServingError, match="'big' fails"):
            asyncio.run(one(engine))
        assert engine.stats().failed == 1


def test_a_fault_of_ours_ends_the_request_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def faulty() -> AsyncIterator[Piece]:
        yield Piece("a")
        raise RuntimeError("a fault")

    async def one() -> None:
        await asyncio.wait_for(whole(RemoteGeneration(faulty(), 5, lambda _: None)), 1)

    with pytest.raises(ServingError, match="not be read"):
        asyncio.run(one())
    assert "a fault" in caplog.text


def test_a_list_of_models_that_cannot_be_read_is_an_error() -> None:
    def routes(app: FastAPI) -> None:
        @app.get("/v1/models")
        async def models() -> Response:
            return PlainTextResponse("no gzip", headers={"content-encoding": "gzip"})

    with app_with(routes) as url:
        assert asyncio.run(remote(url).health()).ok is False


class Vllm:
    """vLLM's routes for adapters in front of nothing: it believes any path, as vLLM has done."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, Any]] = []

    def __call__(self, app: FastAPI) -> None:
        @app.post("/v1/load_lora_adapter")
        async def load(request: Request) -> Response:
            body = await request.json()
            self.calls.append(("load", body["lora_name"]))
            self.adapters[body["lora_name"]] = body["lora_path"]
            return PlainTextResponse("Success")

        @app.post("/v1/unload_lora_adapter")
        async def unload(request: Request) -> Response:
            self.calls.append(("unload", (await request.json())["lora_name"]))
            del self.adapters[self.calls[-1][1]]
            return PlainTextResponse("Success")

        @app.get("/v1/models")
        async def models() -> Response:
            return JSONResponse({"data": [{"id": name} for name in ("m", *self.adapters)]})

        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            body = await request.json()
            self.calls.append(("ask", body["model"]))
            folder = self.adapters.get(body["model"])
            if body["model"] != "m" and (folder is None or not Path(folder).is_dir()):
                return JSONResponse({"message": "no such adapter"}, 404 if folder is None else 500)
            if not body.get("stream"):
                return JSONResponse({"choices": []})
            assert body["prompt"] == [87]
            return stream(CHUNK, LAST)


def test_adapters_are_loaded_probed_and_unloaded(
    base: BaseModel, adapters: list[Servable], asker: Asker
) -> None:
    server = Vllm()
    with app_with(server) as url:
        options = {"kind": "vllm", "base": base.name, "adapters": True, "most_adapters": 1}
        engine = remote(url, retries=0, **options)
        router = Router(LocalEngine(), {"big": engine})
        jobs = [asker.job("x", model) for model in (adapters[0], adapters[0], adapters[1])]

        async def one(job: Any) -> tuple[str, Finish]:
            return await whole(router.submit([job])[0])

        answers = [asyncio.run(one(job)) for job in jobs]
        assert [text for text, _ in answers] == ["abc"] * 3
        assert [what for what, _ in server.calls] == [
            *("load", "ask", "ask", "ask"),
            *("unload", "load", "ask", "ask"),
        ]
        assert list(server.adapters.values()) == [str(adapters[1].folder)]
        server.adapters.clear()  # it was started anew
        with pytest.raises(RegistryError):
            asyncio.run(one(jobs[2]))
        assert asyncio.run(one(jobs[2]))[0] == "abc"
        router.close()


def test_an_adapter_that_does_not_load_is_refused_or_the_base_answers(
    base: BaseModel, adapters: list[Servable], asker: Asker, tmp_path: Path
) -> None:
    import shutil

    gone = replace(adapters[0], folder=tmp_path / "gone")
    shutil.copytree(adapters[0].folder, gone.folder)

    class Elsewhere(Vllm):
        """A server that does not see our folders."""

        def __call__(self, app: FastAPI) -> None:
            super().__call__(app)
            self.adapters = _Lost()

    with app_with(Elsewhere()) as url:
        options = {"kind": "vllm", "base": base.name, "adapters": True, "retries": 0}

        async def one(engine: RemoteEngine) -> tuple[str, Finish]:
            return await whole(engine.submit([asker.job("x", gone)])[0])

        with pytest.raises(ServingError, match="does not load 'a'"):
            asyncio.run(one(remote(url, **options)))
        text, finish = asyncio.run(one(remote(url, **options, fallback=True)))
        assert (text, finish.model) == ("abc", base.name)


class _Lost(dict[str, str]):
    """Adapters whose folders are somewhere else."""

    def __setitem__(self, name: str, folder: str) -> None:
        super().__setitem__(name, "/nowhere")
