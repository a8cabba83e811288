"""Several engines as one: the embedded one, and those elsewhere that serve a base of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from codetune.serving.config import EMBEDDED_ENGINE
from codetune.serving.engine import Engine, Generation, Job, Passage, Servable
from codetune.serving.engines.remote import RemoteEngine
from codetune.serving.stats import EngineStats, Histogram

if TYPE_CHECKING:
    import numpy as np


class Router:
    """Sends each request to the engine of its model's base; the embedded one has the rest."""

    def __init__(self, local: Engine, remotes: Mapping[str, RemoteEngine]) -> None:
        self.local, self.remotes = local, remotes
        self._by_base = {
            remote.options.base: remote for remote in remotes.values() if remote.options.base
        }

    def engine_of(self, model: Servable) -> Engine:
        """Who answers for `model`: weights of its own are only here."""
        if model.kind == "full" or model.base.name not in self._by_base:
            return self.local
        return self._by_base[model.base.name]

    def submit(self, jobs: Sequence[Job]) -> Sequence[Generation]:
        return self.engine_of(jobs[0].model).submit(jobs) if jobs else []

    async def embed(self, model: Servable, passages: Sequence[Passage]) -> np.ndarray:
        return await self.engine_of(model).embed(model, passages)

    def load(self, model: Servable) -> None:
        self.engine_of(model).load(model)

    def loaded(self) -> set[str]:
        return self.local.loaded()

    def busy(self) -> dict[str, int]:
        counts = [self.local.busy(), *(remote.busy() for remote in self.remotes.values())]
        return {key: sum(count[key] for count in counts) for key in ("running", "waiting")}

    def stats(self) -> EngineStats:
        total = self.local.stats()
        for remote in self.remotes.values():
            stats = remote.stats()
            for field in fields(stats):
                mine, theirs = getattr(total, field.name), getattr(stats, field.name)
                added = mine.plus(theirs) if isinstance(mine, Histogram) else mine + theirs
                setattr(total, field.name, added)
        return total

    def engines(self) -> dict[str, Engine]:
        return {EMBEDDED_ENGINE: self.local, **self.remotes}

    def name_of(self, model: Servable) -> str:
        return self.engine_of(model).name_of(model)

    def close(self, drain: float = 0.0) -> None:
        for remote in self.remotes.values():
            remote.close(drain)
        self.local.close(drain)
