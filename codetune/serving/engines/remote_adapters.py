"""Adapters of this server's models, loaded into a vLLM that runs elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from codetune.errors import BadRequestError, CodetuneError, RegistryError, ServingError
from codetune.models.load import check_adapter
from codetune.serving.config import EngineOptions
from codetune.serving.engine import Servable

_log = logging.getLogger(__name__)
Call = Callable[..., Awaitable[dict[str, Any]]]


class RemoteAdapters:
    """Which adapters a server has been given; the one that was asked for longest ago leaves.

    vLLM has been seen answering 200 for a folder that does not exist, so that every load is
    followed by a look at its list and by one token.
    """

    def __init__(self, options: EngineOptions, call: Call) -> None:
        self._options, self._call = options, call
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._lock = asyncio.Lock()

    @property
    def count(self) -> int:
        return len(self._loaded)

    async def load(self, model: Servable) -> str:
        """The name of `model` there, loaded if it was not.

        Raises:
            ServingError: the server does not load adapters, or not this one.
        """
        if not self._options.adapters or model.kind != "adapter":
            raise ServingError(f"The engine '{self._options.name}' does not load '{model.id}'.")
        name = f"codetune-{hashlib.sha256(model.key.encode()).hexdigest()[:16]}"
        async with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return name
            check_adapter(model.folder, base=model.base)
            while len(self._loaded) >= self._options.most_adapters:
                await self._unload(next(iter(self._loaded)))
            try:
                await self._load(name, model)
            except (RegistryError, BadRequestError, ServingError) as error:
                raise ServingError(
                    f"The engine '{self._options.name}' does not load '{model.id}': "
                    f"{error.message.replace(str(model.folder), 'its folder')}"
                ) from error
            self._loaded[name] = None
            return name

    def forget(self, name: str) -> None:
        """The server does not know it any more."""
        self._loaded.pop(name, None)

    async def _load(self, name: str, model: Servable) -> None:
        root = self._options.root
        body = {"lora_name": name, "lora_path": str(model.folder)}
        try:
            await self._call("POST", f"{root}/v1/load_lora_adapter", body)
        except BadRequestError as error:
            if "already" not in error.message:  # from before this server was started
                raise
        listed = (await self._call("GET", f"{root}/v1/models")).get("data")
        names = [entry.get("id") for entry in listed or () if isinstance(entry, dict)]
        if name not in names:
            raise ServingError("it says that it has, but does not list it.")
        probe = {"model": name, "prompt": "x", "max_tokens": 1, "temperature": 0}
        try:
            await self._call("POST", f"{root}/v1/completions", probe)
        except CodetuneError:
            await self._unload(name)
            raise

    async def _unload(self, name: str) -> None:
        self._loaded.pop(name, None)
        try:
            await self._call(
                "POST", f"{self._options.root}/v1/unload_lora_adapter", {"lora_name": name}
            )
        except CodetuneError as error:
            _log.warning("'%s' keeps %s: %s", self._options.name, name, error.message)
