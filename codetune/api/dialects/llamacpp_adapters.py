"""Adapters by number, as llama.cpp's clients name them: the asker's own, in order of their age."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from fastapi import Request

from codetune.api.auth import actor_of
from codetune.api.dialects.front import Front
from codetune.api.dialects.llamacpp_requests import Lora, Sampled
from codetune.errors import BadRequestError


class Adapters:
    """Numbers of adapters, and which one each asker has chosen for all their requests."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._lock = threading.Lock()
        self._chosen: dict[str, str] = {}  # asker → model

    async def listed(self, request: Request) -> list[dict[str, Any]]:
        """Every adapter with its number; the scale is 1 for the chosen one."""
        with self._lock:
            chosen = self._chosen.get(actor_of(request).id)
        return [
            {"id": number, "path": name, "scale": 1.0 if name == chosen else 0.0}
            for number, name in enumerate(await self._names(request))
        ]

    async def choose(self, request: Request, adapters: Sequence[Lora]) -> None:
        """Use this one where a request names none; none of them: the default model again.

        Raises:
            BadRequestError: there is no such number, or several are to be mixed.
        """
        name = await self._one(request, adapters)
        with self._lock:
            if name is None:
                self._chosen.pop(actor_of(request).id, None)
            else:
                self._chosen[actor_of(request).id] = name

    async def chosen(
        self, request: Request, body: Sampled
    ) -> tuple[str | None, list[dict[str, Any]]]:
        """The model that a request means: by its `lora`, its `model`, or the choice of before."""
        if body.lora is not None:
            name = await self._one(request, body.lora)
            if name is not None:
                number = (await self._names(request)).index(name)
                return name, [{"id": number, "scale": 1.0}]
            return body.model or self._front.completer.options.base, []
        if body.model:
            return body.model, []
        with self._lock:
            name = self._chosen.get(actor_of(request).id)
        if name is not None and name not in await self._names(request):
            name = None  # deleted, or not shared any more
        return name, []

    async def _one(self, request: Request, adapters: Sequence[Lora]) -> str | None:
        wanted = [adapter.id for adapter in adapters if adapter.scale > 0]
        if len(wanted) > 1:
            raise BadRequestError("Adapters are not mixed here: name one.", param="lora")
        names = await self._names(request)
        if wanted and not 0 <= wanted[0] < len(names):
            raise BadRequestError(f"There is no adapter {wanted[0]}.", param="lora")
        return names[wanted[0]] if wanted else None

    async def _names(self, request: Request) -> list[str]:
        """Versions, not the names that stand for one of them; the oldest first."""
        entries = await self._front.listed(request)
        own = {(e.created, e.id) for e in entries if e.kind == "adapter" and e.id == e.root}
        return [name for _, name in sorted(own)]
