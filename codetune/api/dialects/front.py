"""What every dialect stands on: the models that the asker may use, and answers from them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from codetune.api.auth import actor_of
from codetune.api.dialects.answering import Run
from codetune.api.errors import failure_of
from codetune.api.watch import record_of
from codetune.errors import (
    BadRequestError,
    ModelError,
    RegistryError,
    UnservableModelError,
    nearest,
)
from codetune.registry.access import Actor
from codetune.serving.catalog import Listed, label_of
from codetune.serving.compare import Compared, compare
from codetune.serving.complete import REMOTE, Completer, Voice
from codetune.serving.embed import Embedded, Given, embed
from codetune.serving.engine import Servable
from codetune.serving.log import CompletionLog
from codetune.serving.query import Query

_log = logging.getLogger("codetune.api")
_MOST_NAMES = 1000  # that one asker gives to models


class Front:
    """Names are resolved here and nowhere else in the dialects, for one asker at a time.

    Beside the registry's names stand those that the asker has given to models itself
    (`/v1/load_lora_adapter`); they live as long as the process, as vLLM's do.
    """

    def __init__(self, completer: Completer, log: CompletionLog) -> None:
        self.completer, self.log = completer, log
        self.unlogged: dict[str, asyncio.Future[None]] = {}  # completions that are being written
        self._lock = threading.Lock()
        # asker's id → name → a version's id, or a folder that the administrator allows
        self._given: dict[str, dict[str, str | Servable]] = {}

    async def start(self, request: Request, query: Query) -> Run:
        """Queue the answers to a query.

        Raises:
            RegistryError: the asker has no model of that name; and as `Completer.start`.
        """
        asker = actor_of(request)
        query = replace(query, tenant=asker.id)
        answers = await self.completer.start(query, resolve=lambda name: self._resolve(asker, name))
        record_of(request).answers.append(answers)
        return Run(answers, query)

    async def embed(
        self,
        request: Request,
        texts: Sequence[Given],
        name: str | None,
        *,
        truncate: bool = False,
    ) -> Embedded:
        """The texts' vectors by a model of the asker's; raises as `serving.embed.embed`."""
        asker = actor_of(request)

        def resolve(called: str | None) -> Servable:
            return self._resolve(asker, called)

        found = await embed(self.completer, texts, name, resolve=resolve, truncate=truncate)
        record_of(request).answers.append(found)
        return found

    async def compare(self, request: Request, query: Query, names: Sequence[str]) -> list[Compared]:
        """The answers of several models of the asker's; raises as `serving.compare.compare`."""
        asker = actor_of(request)
        return await compare(
            self.completer,
            replace(query, tenant=asker.id),
            names,
            resolve=lambda name: self._resolve(asker, name),
            started=record_of(request).answers.append,
            worded=lambda error: failure_of(error, str(request.state.request_id)).message,
        )

    async def listed(self, request: Request) -> list[Listed]:
        """The models that the asker may use."""
        return await run_in_threadpool(self._listed, actor_of(request))

    async def offered(self, request: Request) -> list[Listed]:
        """The same, and the engines elsewhere, which whoever may ask a model may ask."""
        return [*await self.listed(request), *_elsewhere(self.completer)]

    async def pairs(self, request: Request) -> list[tuple[Listed, Servable | None]]:
        """The models that the asker may use; None beside one that cannot be served just now."""
        asker = actor_of(request)

        def find() -> list[tuple[Listed, Servable | None]]:
            return [(entry, self._servable(asker, entry.id)) for entry in self._listed(asker)]

        return await run_in_threadpool(find)

    async def resolve(self, request: Request, name: str | None) -> Servable:
        """The model called `name`, or the asker's default.

        Raises:
            RegistryError: the asker has none of that name.
        """
        return await run_in_threadpool(self._resolve, actor_of(request), name)

    async def voice(self, request: Request, name: str | None) -> tuple[Servable, Voice]:
        """The model called `name`, and how to speak to it."""

        def find() -> tuple[Servable, Voice]:
            model = self._resolve(actor_of(request), name)
            return model, self.completer.voice(model)

        return await run_in_threadpool(find)

    def given(self, request: Request, name: str) -> str | Servable | None:
        """The model that the asker has given this name to: a version's id, or a folder's."""
        with self._lock:
            return self._given.get(actor_of(request).id, {}).get(name)

    def give(self, request: Request, name: str, model: str | Servable) -> None:
        """Let the asker call a model by `name`, too, as long as they may use it.

        Raises:
            BadRequestError: they have given very many names already.
        """
        with self._lock:
            given = self._given.setdefault(actor_of(request).id, {})
            if len(given) >= _MOST_NAMES:
                raise BadRequestError(
                    f"{len(given)} adapters are loaded.", advice="Unload one.", param="lora_name"
                )
            given[name] = model

    def take_back(self, request: Request, name: str) -> bool:
        """Forget a name that the asker has given; False if there is none."""
        with self._lock:
            return self._given.get(actor_of(request).id, {}).pop(name, None) is not None

    def _resolve(self, asker: Actor, name: str | None) -> Servable:
        with self._lock:
            given = self._given.get(asker.id, {}).get(name or "")
        if name is None or given is None:
            return self.completer.catalog.resolve_model(asker, name)
        if isinstance(given, str):  # asked for each time: it may not be shared any more
            given = self.completer.catalog.resolve_model(asker, given)
        return replace(given, id=name)

    def _servable(self, asker: Actor, name: str) -> Servable | None:
        try:
            return self._resolve(asker, name)
        except (RegistryError, ModelError, UnservableModelError) as error:
            _log.warning("'%s' is listed, but cannot be served: %s", name, error)
            return None

    def _listed(self, asker: Actor) -> list[Listed]:
        with self._lock:
            given = self._given.get(asker.id, {}).copy()
        entries = self.completer.catalog.visible_models(asker)
        known = {entry.id: entry for entry in entries}
        for name, model in given.items():
            if isinstance(model, Servable):
                parent = label_of(model.base.name)
                entries.append(Listed(name, model.id, model.kind, parent, model.created))
            elif model in known:
                entries.append(replace(known[model], id=name))
        return entries


def _elsewhere(completer: Completer) -> list[Listed]:
    """Engines with models of their own, without asking them: names do not wait for a network."""
    made = []
    for name, engine in completer.remotes.items():
        known = engine.options.model
        root = f"{REMOTE}{name}/{known}" if known else f"{REMOTE}{name}"
        made.append(Listed(f"{REMOTE}{name}", root, "remote", None, 0, name))
    return made


def not_listed(name: str, entries: Sequence[Listed]) -> RegistryError:
    """Nobody is told more than which of their own models has a similar name."""
    return RegistryError(
        f"There is no model '{name}'.", advice=nearest(name, [entry.id for entry in entries])
    )
