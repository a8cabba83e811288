"""A real server on a loopback port with a tiny base, an adapter and a full tuned model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from codetune.models.load import BaseModel
from codetune.serving.engines.local import LocalEngine
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, make_full, register


@dataclass(frozen=True)
class Running:
    """A server's address and what is behind it."""

    url: str
    engine: LocalEngine
    base: BaseModel
    home: Path

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="-", **({"max_retries": 0} | options))

    def settle(self) -> None:
        """Wait until nothing runs any more."""
        for _ in range(500):
            if not any(self.engine.busy().values()):
                return
            time.sleep(0.01)
        raise AssertionError(f"still busy: {self.engine.busy()}")


@pytest.fixture(scope="session")
def team_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BaseModel]:
    """A CODETUNE_HOME with shop:1 and shop:2 (adapters) and team/whole:1 (tuned in full)."""
    home = tmp_path_factory.mktemp("home")
    base = base_of(make_base(tmp_path_factory.mktemp("bases") / "tiny"))
    made = tmp_path_factory.mktemp("made")
    register(home, "shop", base, make_adapter(base, made / "one", seed=1))
    register(home, "shop", base, make_adapter(base, made / "two", seed=2), promoted=False)
    register(home, "team/whole", base, make_full(base, made / "whole"))
    return home, base


@contextmanager
def serving(home: Path, base: BaseModel, **options: Any) -> Iterator[Running]:
    from codetune.api.app import create_app
    from codetune.api.server import Server, listen
    from codetune.registry.cards import Registry
    from codetune.serving.catalog import Catalog
    from codetune.serving.complete import Completer
    from codetune.serving.config import ServingOptions

    settings = ServingOptions(base=str(base.path), **options)
    engine = LocalEngine(settings)
    completer = Completer(engine, Catalog(Registry(home), settings.base), settings)
    listening = threading.Event()
    listener = listen("127.0.0.1", 0)
    server = Server(create_app(completer), engine, listening.set)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert listening.wait(10)
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", engine, base, home)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def server(team_home: tuple[Path, BaseModel]) -> Iterator[Running]:
    with serving(*team_home) as running:
        yield running


@pytest.fixture
def serve_with(team_home: tuple[Path, BaseModel]) -> Callable[..., Any]:
    """A server of its own with other options."""
    return lambda **options: serving(*team_home, **options)


@pytest.fixture
def client(server: Running) -> Iterator[OpenAI]:
    with server.client() as client:
        yield client
