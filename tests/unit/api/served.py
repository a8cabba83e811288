"""A real server on a loopback port, with accounts, usage, and a log that can be read."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from codetune.api.app import create_app
from codetune.api.logs import logging_to
from codetune.api.server import Server, listen
from codetune.registry.cards import Registry
from codetune.registry.ownership import Owners
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions
from codetune.serving.engines.local import LocalEngine
from codetune.serving.fates import Remains
from codetune.serving.log import StoredLog
from codetune.serving.usage import UsageBook
from codetune.workspace.workspace import Workspace
from tests.accounts import People


class Served:
    """A server in a thread; `now` is the clock of what stays of completions."""

    def __init__(self, people: People, home: Path, base: Path) -> None:
        self.people, self.home, self.now = people, home, 0.0
        self.database = people.logins.database
        self.options = ServingOptions(base=str(base))
        self.engine = LocalEngine(self.options)
        catalog = Catalog(Registry(home), self.options.base, Owners(self.database))
        self.completer = Completer(self.engine, catalog, self.options)
        self.usage = UsageBook(self.database, every=3600)
        self.log = io.StringIO()

    @contextmanager
    def running(
        self, load: Callable[[], object] | None = None, *, drain: float = 0.5
    ) -> Iterator[Server]:
        """Listens; `load` is done beside it. The block ends when the server has."""
        remains = Remains(lambda: self.now)
        app = create_app(
            self.completer,
            logins=self.people.logins,
            log=StoredLog(self.database, remains=remains),
            workspace=Workspace.of(self.database, self.home),
            usage=self.usage,
        )
        with listen("127.0.0.1", 0) as listener, logging_to(self.log, "json"), self.usage:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            server = Server(app, self.engine, load=load, drain=drain)
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            try:
                with httpx.Client(base_url=self.url, timeout=30) as self.client:
                    yield server
            finally:
                server.should_exit = True
                thread.join(20)
                assert not thread.is_alive()

    def ask(self, name: str | None, route: str, **options: Any) -> httpx.Response:
        """The answer to "METHOD /path", asked by `name`."""
        method, path = route.split(" ", 1)
        headers = {**self.people.headers(name), **options.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **options)

    def lines(self) -> list[dict[str, Any]]:
        """What the log says; each line is a JSON object."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def line(self, request: str) -> dict[str, Any]:
        """The log's line of the request with this id, which may be about to come."""
        return until(
            lambda: next((x for x in self.lines() if x.get("request_id") == request), None)
        )


def until(look: Callable[[], Any]) -> Any:
    """What `look` returns as soon as it is something."""
    for _ in range(3000):
        if found := look():
            return found
        time.sleep(0.01)
    raise AssertionError("it has not come")
