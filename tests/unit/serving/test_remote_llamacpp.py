"""A remote engine against llama.cpp's real server, which runs the same weights as we do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.gguf_file import write_gguf
from benchmarks.serving_peers import LLAMA
from codetune.models.load import resolve_base
from codetune.models.prompts import Renderer
from codetune.serving.config import EngineOptions, ServingOptions
from codetune.serving.engine import Finish, Job, Sampling, Servable
from codetune.serving.engines.local import LocalEngine
from codetune.serving.engines.remote import RemoteEngine
from codetune.serving.engines.router import Router
from codetune.serving.engines.wires import Asked
from codetune.serving.query import Fim, Text

pytest.importorskip("xllamacpp", reason="llama.cpp comes with the extra 'test'")
pytest.importorskip("gguf", reason="its files are written with the extra 'test'")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("gguf") / "nano.gguf"
    write_gguf(resolve_base("nano").path, file)
    command = [sys.executable, "-c", LLAMA, str(file), "2", "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stdin=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()
        process.communicate()


def ask(engine: RemoteEngine | Router, what: Asked | Job) -> tuple[str, Finish]:
    async def one() -> tuple[str, Finish]:
        if isinstance(what, Job):
            (generation,) = engine.submit([what])
        else:
            assert isinstance(engine, RemoteEngine)
            (generation,) = engine.ask([what], None)
        text = ""
        async for piece in generation:
            text += piece.text
            if piece.finish:
                return text, piece.finish
        raise AssertionError("no finish")

    return asyncio.run(one())


def test_llama_cpp_answers_as_we_do(url: str) -> None:
    """Token ids for a base known here, text, a gap through /infill, health and models."""
    base = resolve_base("nano")
    renderer = Renderer.from_folder(base.path)
    options = EngineOptions(name="cpp", kind="llamacpp", url=url, base="nano")
    engine = RemoteEngine(options, ServingOptions())
    local = LocalEngine()
    model = Servable("nano", "base", base.path, base)
    text = "def add(a, b):\n    return "
    rules = Sampling(max_tokens=24)
    job = Job(model, renderer.plain(text), rules, renderer.decode)
    ours, theirs = ask(Router(local, {}), job), ask(Router(local, {"cpp": engine}), job)
    assert theirs[0] == ours[0]
    assert (theirs[1].reason, theirs[1].tokens) == ("length", 24)
    assert theirs[1].prompt_tokens == len(job.prompt)
    assert ask(engine, Asked(Text(text), rules))[0]
    filled, finish = ask(engine, Asked(Fim("def add(a, b):\n    return a", "\n"), rules))
    assert finish.tokens > 0
    assert filled or finish.reason == "stop"
    health = asyncio.run(engine.health())
    assert health.ok, health.message
    assert len(health.models) == 1
    engine.close()
    local.close()
