"""An application with the management surface, and the people who call it."""

from __future__ import annotations

import asyncio
import io
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from codetune.api.app import create_app
from codetune.jobs.config import JobOptions
from codetune.registry.cards import Registry
from codetune.registry.ownership import Owners
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions
from codetune.serving.engines.local import LocalEngine
from codetune.serving.engines.remote import RemoteEngine
from codetune.workspace.workspace import Workspace
from tests.accounts import People

HOST = "http://codetune.test"


class Office:
    """Sends requests to one application, as this or that person."""

    def __init__(
        self,
        people: People,
        home: Path,
        base: Path,
        roots: tuple[str, ...] = (),
        *,
        login: bool,
        engines: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.people, self.home = people, home
        options = ServingOptions.load({"base": str(base), "engines": list(engines)}, "test")
        database = people.logins.database
        self.engine = LocalEngine(options)
        completer = Completer(
            self.engine,
            Catalog(Registry(home), options.base, Owners(database)),
            options,
            {each.name: RemoteEngine(each, options) for each in options.engines},
        )
        self.workspace = Workspace.of(database, home, JobOptions(roots=roots))
        self.app: FastAPI = create_app(
            completer,
            hosts=["codetune.test"],
            logins=people.logins if login else None,
            workspace=self.workspace,
        )

    def __call__(
        self, name: str | None, route: str, status: int | None = None, **options: Any
    ) -> httpx.Response:
        """The answer to "METHOD /path", asked by `name`; with `status`, it has to be that."""
        method, path = route.split(" ", 1)
        headers = {**self.people.headers(name), **options.pop("headers", {})}

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=("127.0.0.1", 1))
            async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
                return await client.request(method, path, headers=headers, **options)

        answer = asyncio.run(send())
        if status is not None:
            assert answer.status_code == status, (route, answer.status_code, answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        return answer


def archive() -> bytes:
    """A zip with one module."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("shop/prices.py", "def price(net):\n    return net * 1.19\n")
    return data.getvalue()


def repository(folder: Path) -> Path:
    """A git repository with one commit."""
    folder.mkdir(parents=True)
    (folder / "prices.py").write_text("def price(net):\n    return net * 1.19\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "Prices"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder
