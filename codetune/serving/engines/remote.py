"""Engines elsewhere: vLLM, Ollama, llama.cpp's server, and whatever speaks OpenAI's API.

A remote engine answers two kinds of questions. As an `Engine` it takes rendered prompts for
models whose base it serves, and loads their adapters where it can. And it can be asked a prompt
as it came, for a model of its own whose tokenizer nobody knows here (`ask`).

A request is sent again only as long as nothing of its answer has come.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import httpx
import numpy as np

from codetune.errors import (
    BadRequestError,
    CodetuneError,
    ConfigError,
    OverloadedError,
    RegistryError,
    ServingError,
)
from codetune.serving.config import EngineOptions, ServingOptions
from codetune.serving.engine import Finish, Job, Passage, Piece, Servable
from codetune.serving.engines.events import TryAgainError, events_of, said_in, text_of
from codetune.serving.engines.generation import RemoteGeneration
from codetune.serving.engines.remote_adapters import RemoteAdapters
from codetune.serving.engines.remote_embeddings import Passages, ask_for_vectors, no_vectors
from codetune.serving.engines.wires import HEALTH, Asked, Event, Health, read_event, request_of
from codetune.serving.query import Text
from codetune.serving.stats import EngineStats
from codetune.serving.text import AnswerEnd

T = TypeVar("T")
_log = logging.getLogger(__name__)
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_PAUSE = 5.0  # seconds between attempts
_DOWN = 3.0  # seconds for which a server that could not be reached is not asked again


class RemoteEngine:
    """One remote server."""

    def __init__(self, options: EngineOptions, serving: ServingOptions) -> None:
        """Read the key.

        Raises:
            ConfigError: the environment variable that should hold it does not exist.
        """
        self.options, self._serving = options, serving
        self._headers = {"Accept": "text/event-stream, application/json"}
        self._key = ""
        if options.key_variable is not None:
            self._key = os.environ.get(options.key_variable, "")
            if not self._key:
                raise ConfigError(
                    f"serving.engines '{options.name}': the environment variable "
                    f"{options.key_variable} holds no key.",
                    advice=f"export {options.key_variable}=…, or leave key_variable out.",
                )
            self._headers["Authorization"] = f"Bearer {self._key}"
        # Connections belong to the event loop that made them, and are closed before it ends.
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._keepers: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        self._adapters = RemoteAdapters(options, self._call)
        self._under_way: set[RemoteGeneration] = set()
        self._stats = EngineStats()
        self._down_until = 0.0  # on the monotonic clock
        self._default_model = options.model
        self._closing = False

    # As an engine for models whose base it serves.

    def submit(self, jobs: Sequence[Job]) -> list[RemoteGeneration]:
        asked = []
        for job in jobs:
            text = job.decode(job.prompt) if self.options.kind == "ollama" else None
            asked.append(Asked(Text(list(job.prompt)), job.sampling, text))
        return self._start(asked, jobs[0].model if jobs else None, None, jobs[0].deadline)

    async def embed(self, model: Servable, passages: Sequence[Passage]) -> np.ndarray:
        raise no_vectors(self.options, model)

    def load(self, model: Servable) -> None:
        """Nothing to be done before the first request: the server has its weights."""

    def loaded(self) -> set[str]:
        return set()  # what is in its memory is its own affair

    def busy(self) -> dict[str, int]:
        return {"running": len(self._under_way), "waiting": 0}

    def stats(self) -> EngineStats:
        return replace(
            self._stats, running=len(self._under_way), adapters=self._adapters.count, models=1
        )

    def engines(self) -> dict[str, RemoteEngine]:
        return {self.options.name: self}

    def name_of(self, model: Servable) -> str:
        return self.options.name

    def close(self, drain: float = 0.0) -> None:
        self._closing = True
        until = time.monotonic() + drain
        while self._under_way and time.monotonic() < until:
            time.sleep(0.02)
        for generation in list(self._under_way):
            generation.break_off(ServingError("The server is shutting down."))
        for loop, keeper in list(self._keepers.items()):
            if loop.is_running():
                loop.call_soon_threadsafe(keeper.cancel)

    # For models of its own.

    def ask(self, asked: Sequence[Asked], model: str | None) -> list[RemoteGeneration]:
        """Ask the server's own `model`; None: the one that the options name, or its first.

        Raises:
            OverloadedError, ServingError: it has too much to do, or could just not be reached.
        """
        return self._start(asked, None, model, self._serving.deadline)

    async def vectors(self, texts: Passages, model: str | None) -> tuple[np.ndarray, int]:
        """The vectors that its own `model` makes, and their tokens; raises as `ask_for_vectors`."""
        name, _ = await self._target(None, model)
        vectors, tokens = await ask_for_vectors(self.options, self._call, name, texts)
        self._stats.embedded += len(texts)
        self._stats.embedded_tokens += tokens
        return vectors, tokens

    async def pull(self, model: str) -> AsyncGenerator[dict[str, Any]]:
        """Have an Ollama server fetch a model; what it says meanwhile, its errors included."""
        body = {"model": model, "stream": True}
        try:
            async for said in self._events(f"{self.options.root}/api/pull", body, dict):
                yield said
        except TryAgainError as failure:
            raise failure.error from failure

    async def health(self) -> Health:
        """Ask whether it is there; never raises."""
        try:
            if path := HEALTH.get(self.options.kind):
                await self._call("GET", f"{self.options.root}{path}")
            return Health(True, "", tuple(await self.models()))
        except CodetuneError as error:
            return Health(False, error.message)

    async def models(self) -> list[str]:
        """The models that it lists.

        Raises:
            ServingError: it cannot be reached or does not list them.
        """
        if self.options.kind == "ollama":
            listed = (await self._call("GET", f"{self.options.root}/api/tags")).get("models")
            field = "name"
        else:
            address = (
                self.options.url if self.options.kind == "openai" else self.options.root + "/v1"
            )
            listed = (await self._call("GET", f"{address}/models")).get("data")
            field = "id"
        if not isinstance(listed, list):
            raise self._failed("it does not list its models.")
        return [str(entry[field]) for entry in listed if isinstance(entry, dict) and field in entry]

    def _start(
        self,
        asked: Sequence[Asked],
        servable: Servable | None,
        model: str | None,
        deadline: float,
    ) -> list[RemoteGeneration]:
        if self._closing:
            raise ServingError("The server is shutting down.")
        if time.monotonic() < self._down_until:
            self._stats.submitted += len(asked)
            self._stats.failed += len(asked)
            raise self._failed("it could not be reached just now.")
        most = self._serving.max_running + self._serving.max_waiting
        if len(self._under_way) >= most:
            self._stats.submitted += len(asked)
            self._stats.refused += len(asked)
            raise OverloadedError(
                f"{len(self._under_way)} requests to '{self.options.name}' are under way.",
                retry_after=2,
                advice="Ask again a little later.",
            )
        generations = []
        for one in asked:
            pieces = self._pieces(one, servable, model)
            generation = RemoteGeneration(pieces, deadline, self._ended)
            self._under_way.add(generation)
            self._stats.submitted += 1
            generations.append(generation)
        return generations

    def _ended(self, generation: RemoteGeneration) -> None:
        self._under_way.discard(generation)
        self._stats.finished += generation.finish is not None
        self._stats.failed += generation.error is not None
        self._stats.cancelled += generation.finish is None and generation.error is None
        self._stats.answer_tokens += generation.generated
        if generation.finish is not None:
            self._stats.prompt_tokens += generation.finish.prompt_tokens or 0
            self._stats.answer_time.add(time.monotonic() - generation.started)

    async def _pieces(
        self, asked: Asked, servable: Servable | None, model: str | None
    ) -> AsyncGenerator[Piece]:
        """The answer; the first attempts that fail before its first piece are repeated."""
        started, pause = time.monotonic(), 0.25
        for attempt in range(self.options.retries + 1):
            begun = False
            try:
                async for piece in self._attempt(asked, servable, model):
                    if not begun:
                        self._stats.first_token.add(time.monotonic() - started)
                    begun = True
                    yield piece
                return
            except TryAgainError as failure:
                if begun or attempt == self.options.retries:
                    raise failure.error from failure
                wait = max(failure.after, pause * random.uniform(0.75, 1.25))
            await asyncio.sleep(min(wait, _LONGEST_PAUSE))
            pause *= 2

    async def _attempt(
        self, asked: Asked, servable: Servable | None, model: str | None
    ) -> AsyncGenerator[Piece]:
        name, stands_in = await self._target(servable, model)
        address, body = request_of(self.options, name, asked)
        # Some servers heed only the first few stops, and none knows of gaps.
        ending = AnswerEnd(asked.sampling.stops, asked.sampling.gap)
        end, chunks = Event(), 0
        events = self._events(address, body, read_event)
        try:
            async for event in events:
                chunks += bool(event.text)
                if text := ending.push(event.text):
                    yield Piece(text)
                end = Event(
                    "",
                    event.reason or end.reason,
                    event.prompt_tokens if event.prompt_tokens is not None else end.prompt_tokens,
                    event.tokens if event.tokens is not None else end.tokens,
                )
                if ending.stopped:
                    end = replace(end, reason="stop")
                    break
        except RegistryError:
            self._adapters.forget(name)  # the server was started anew
            raise
        finally:
            await events.aclose()
        if end.reason is None:
            raise self._failed("its answer broke off.")
        tokens = chunks if end.tokens is None else end.tokens
        finish = Finish(end.reason, tokens, end.prompt_tokens, stands_in, word=ending.word)
        rest = "" if ending.stopped else ending.end(unfinished=end.reason == "length")
        yield Piece(rest, finish)

    async def _target(self, servable: Servable | None, model: str | None) -> tuple[str, str | None]:
        """The model's name there, and who stands in for it if its adapter cannot be loaded."""
        if self._default_model is None:
            listed = await self.models()
            if not listed:
                raise self._failed("it has no models.")
            self._default_model = listed[0]
        base = self._default_model
        if servable is None or servable.kind == "base":
            return model or base, None
        try:
            return await self._adapters.load(servable), None
        except ServingError as error:
            if not self.options.fallback:
                raise
            _log.warning("'%s' answers for '%s': %s", base, servable.id, error.message)
            return base, servable.base.name

    async def _events(
        self, address: str, body: Mapping[str, Any], read: Callable[[dict[str, Any]], T]
    ) -> AsyncGenerator[T]:
        try:
            async with self._client().stream("POST", address, json=body) as response:
                if response.status_code != 200:
                    self._refuse(response.status_code, response.headers, await text_of(response))
                async for data in events_of(response):
                    yield read(data)
        except httpx.RequestError as error:
            raise self._broken(error) from error
        except ServingError as error:
            if type(error) is not ServingError:
                raise
            raise self._failed(error.message) from error

    async def _call(
        self, method: str, address: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A short request: the JSON object of its answer, {} where it is none.

        Raises:
            ServingError, RegistryError, BadRequestError: it was not answered with 200.
        """
        try:
            response = await self._client().request(method, address, json=body)
        except httpx.RequestError as error:
            raise self._broken(error).error from error
        try:
            if response.status_code != 200:
                self._refuse(response.status_code, response.headers, response.text)
        except TryAgainError as failure:
            raise failure.error from failure
        try:
            value = response.json()
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            options = self.options
            self._clients[loop] = httpx.AsyncClient(
                headers=self._headers,
                timeout=httpx.Timeout(options.timeout, connect=options.connect_timeout),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
                # A server on this machine is asked directly, whatever proxy is set.
                trust_env=not options.is_local,
                follow_redirects=False,
            )
            self._keepers[loop] = loop.create_task(self._keep(loop))
        return self._clients[loop]

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the loop's connections when it ends: it cancels all of its tasks then."""
        try:
            await loop.create_future()
        finally:
            self._keepers.pop(loop, None)
            await self._clients.pop(loop).aclose()

    # Foreign errors get their names here.

    def _failed(self, reason: str) -> ServingError:
        return ServingError(f"The engine '{self.options.name}' fails: {self._without_key(reason)}")

    def _broken(self, error: httpx.RequestError) -> TryAgainError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            self._down_until = time.monotonic() + _DOWN
            return TryAgainError(self._failed("it cannot be reached."))
        if isinstance(error, httpx.TimeoutException):
            # It may still be at work on it: once more would only be more work.
            failed = TryAgainError(self._failed(f"it was silent for {self.options.timeout:g} s."))
            failed.after = _LONGEST_PAUSE
            return failed
        if isinstance(error, httpx.DecodingError):
            return TryAgainError(self._failed("its answer cannot be decoded."))
        return TryAgainError(self._failed(f"the connection broke ({type(error).__name__})."))

    def _refuse(self, status: int, headers: Mapping[str, str], text: str) -> None:
        """Raise what an answer other than 200 means."""
        said = self._without_key(said_in(text))
        if status == 429:
            after = headers.get("retry-after", "")
            seconds = float(after) if after.isdigit() else 1.0
            busy = OverloadedError(
                f"The engine '{self.options.name}' has too much to do: {said}",
                retry_after=max(1, int(seconds)),
            )
            raise TryAgainError(busy, seconds)
        if status in _AGAIN:
            raise TryAgainError(self._failed(f"HTTP {status}: {said}"))
        if status in (400, 413, 422):
            raise BadRequestError(f"The engine '{self.options.name}' refuses this: {said}")
        if status == 404:
            raise RegistryError(f"The engine '{self.options.name}' does not have this: {said}")
        if status in (401, 403):
            _log.error("The engine '%s' refuses its key (HTTP %s).", self.options.name, status)
            raise self._failed("it refuses the key.")
        raise self._failed(f"HTTP {status}: {said}")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text
