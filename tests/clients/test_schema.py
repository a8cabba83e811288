"""The whole OpenAPI document, asked at random: no undeclared status, no 500."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from codetune.api.app import create_app
from codetune.api.server import Server, listen
from codetune.registry.cards import Registry
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions
from codetune.serving.engines.local import LocalEngine
from codetune.store.database import Database
from codetune.workspace.workspace import Workspace
from tests.clients.conftest import Running

EXAMPLES = 8  # for each operation


def no_500(ctx: Any, response: Any, case: schemathesis.Case) -> None:
    """503 is said on purpose; 500 never."""
    assert response.status_code != 500, response.text


CHECKS = (no_500, status_code_conformance, content_type_conformance)


@pytest.fixture(scope="module")
def address(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The models of the other tests, with short answers; what is asked here is noise."""
    options = ServingOptions(base=str(server.base.path), max_new_tokens=4)
    engine = LocalEngine(options)
    home = tmp_path_factory.mktemp("schema")
    ready = threading.Event()
    with (
        Database.open(f"sqlite:///{home / 'codetune.db'}") as database,
        listen("127.0.0.1", 0) as listener,
    ):
        app = create_app(
            Completer(engine, Catalog(Registry(server.home), options.base), options),
            workspace=Workspace.of(database, home),
        )
        running = Server(app, engine, ready.set)
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        assert ready.wait(10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        running.should_exit = True
        thread.join(10)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_operation_answers_what_it_does_not_declare(address: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
            continue  # nothing that could be wrong

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=list(CHECKS), timeout=60)

        ask()
        asked += 1
    assert asked > 12
