"""One tiny base for all of serving's tests, and what they ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codetune.models.load import BaseModel
from codetune.models.prompts import Renderer
from codetune.serving.config import ServingOptions
from codetune.serving.engine import Finish, Job, Sampling, Servable
from codetune.serving.engines.local import LocalEngine
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base

PROMPTS = [
    "def one(x):\n",
    "x",
    "class Shop:\n    def sell(self, item):\n        ",
    "import os\n",
] * 2


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_of(make_base(tmp_path_factory.mktemp("bases") / "tiny"))


@pytest.fixture(scope="session")
def adapters(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[Servable]:
    """Two adapters of different ranks and targets."""
    folder = tmp_path_factory.mktemp("adapters")
    make_adapter(base, folder / "a", seed=1)
    make_adapter(base, folder / "b", seed=2, r=8, target_modules=["q_proj", "down_proj"])
    return [Servable(name, "adapter", folder / name, base) for name in ("a", "b")]


@pytest.fixture(scope="session")
def renderer(base: BaseModel) -> Renderer:
    return Renderer.from_folder(base.path)


@pytest.fixture
def engines() -> Iterator[Callable[..., LocalEngine]]:
    """Make engines that are closed after the test."""
    made: list[LocalEngine] = []

    def make(**options: Any) -> LocalEngine:
        made.append(LocalEngine(ServingOptions(**options)))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


class Asker:
    """Asks an engine and waits for whole answers."""

    def __init__(self, renderer: Renderer, base: BaseModel) -> None:
        self.renderer = renderer
        self.plain = Servable("tiny", "base", base.path, base)

    def job(self, prompt: str, model: Servable | None = None, **sampling: Any) -> Job:
        stream = sampling.pop("stream", True)
        deadline = sampling.pop("deadline", 60.0)
        rules = replace(Sampling(max_tokens=24), **sampling)
        ids = self.renderer.plain(prompt)
        return Job(model or self.plain, ids, rules, self.renderer.decode, stream, deadline)

    async def one(self, engine: LocalEngine, job: Job) -> tuple[str, Finish]:
        text = ""
        async for piece in engine.submit([job])[0]:
            text += piece.text
            if piece.finish:
                return text, piece.finish
        raise AssertionError("no finish")

    def together(self, engine: LocalEngine, jobs: list[Job]) -> list[tuple[str, Finish]]:
        async def ask() -> list[tuple[str, Finish]]:
            return await asyncio.gather(*(self.one(engine, job) for job in jobs))

        return asyncio.run(ask())

    def apart(self, engine: LocalEngine, jobs: list[Job]) -> list[tuple[str, Finish]]:
        return [self.together(engine, [job])[0] for job in jobs]


@pytest.fixture(scope="session")
def asker(renderer: Renderer, base: BaseModel) -> Asker:
    return Asker(renderer, base)


@pytest.fixture(scope="session")
def tiny_folder(base: BaseModel) -> Path:
    return base.path
