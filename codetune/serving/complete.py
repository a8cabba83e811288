"""The verb of serving: a query becomes prompts that fit, and the answers to them.

What stands here is the same for every dialect and every engine: names, the one renderer,
windows, limits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from codetune.errors import (
    BadRequestError,
    ModelError,
    RegistryError,
    UnservableModelError,
    nearest,
)
from codetune.models.architecture import model_window
from codetune.models.load import read_json
from codetune.models.prompts import (
    Beginning,
    Fitted,
    GapEdges,
    Opening,
    Renderer,
    fit_context,
    fit_fim,
    transcode,
)
from codetune.models.prompts.healing import LONGEST
from codetune.serving.catalog import Catalog
from codetune.serving.config import EMBEDDED_ENGINE, ServingOptions
from codetune.serving.engine import Engine, Generation, Job, Sampling, Servable
from codetune.serving.engines.wires import Asked
from codetune.serving.line_ends import as_asked, as_learned
from codetune.serving.query import Chat, Fim, Prompt, Query, Text

if TYPE_CHECKING:
    from codetune.serving.engines.remote import RemoteEngine

REMOTE = "remote:"  # models of engines elsewhere are called remote:ENGINE or remote:ENGINE/MODEL
_QUICK = 20_000  # characters that are tokenised without leaving the event loop
_PATH = 32  # tokens that the path at the cursor takes when other files stand before it


@dataclass(frozen=True)
class Spent:
    """Tokens that answers took, whether they were finished or not."""

    prompt_tokens: int = 0
    tokens: int = 0
    first: float | None = None  # seconds to the first token of any of them


@dataclass(frozen=True)
class Answers:
    """The answers under way, prompt by prompt, `n` for each."""

    model: str
    kind: str  # of model: base, adapter, full or remote
    engine: str  # one of `Engine.engines`
    prompts: list[list[int]]  # empty where a remote model reads the text itself
    texts: Sequence[str | None]  # the prompts, for `echo`; None for those that are not plain text
    generations: list[Generation]
    renderer: Renderer  # of the model; of the base here where that runs elsewhere

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    def cancel(self) -> None:
        for generation in self.generations:
            generation.cancel()

    def spent(self) -> Spent:
        """What they have taken until now. A prompt counts once, when an answer to it began."""
        read, each = 0, len(self.generations) // len(self.prompts)
        for number, ids in enumerate(self.prompts):
            begun = [g for g in self.generations[number * each :][:each] if g.generated]
            counts = [g.prompt_tokens for g in begun if g.prompt_tokens is not None]
            read += (counts or [len(ids)])[0] if begun else 0
        return Spent(
            prompt_tokens=read,
            tokens=sum(generation.generated for generation in self.generations),
            first=min((g.first for g in self.generations if g.first is not None), default=None),
        )


@dataclass(frozen=True)
class Voice:
    """How to speak to one model: its renderer and its window in tokens.

    `turn` is the line with which another answer would begin, where text alone marks turns.
    """

    renderer: Renderer
    window: int
    turn: str | None = None


class Completer:
    """Answers queries with one engine and the models of one catalog."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        options: ServingOptions,
        remotes: Mapping[str, RemoteEngine] | None = None,
    ) -> None:
        self.engine, self.catalog, self.options = engine, catalog, options
        self.remotes = remotes or {}  # engines with models of their own, by their names
        self._voices: dict[str, Voice] = {}
        self._warm: set[str | None] = set()  # names whose base and tokenizer have been read
        self._lock = threading.Lock()

    async def start(
        self,
        query: Query,
        *,
        resolve: Callable[[str | None], Servable] | None = None,
    ) -> Answers:
        """Render the prompts and queue their answers.

        `resolve` finds the model that the query names; the catalog does by default.

        Raises:
            BadRequestError, RegistryError, OverloadedError, ModelError, UnservableModelError
        """
        query.check()
        if query.model is not None and query.model.startswith(REMOTE):
            return await self._start_remote(query, query.model)
        plain = as_learned(query)
        size = sum(_size(prompt) for prompt in plain.prompts)
        if size < _QUICK and query.model in self._warm and self.catalog.is_fresh():
            model, prepared = self._prepare(plain, resolve)
        else:
            model, prepared = await asyncio.to_thread(self._prepare, plain, resolve)
            self._warm.add(query.model)
        voice = self.voice(model)
        jobs = [
            Job(
                model=model,
                prompt=ids,
                # The answers to one prompt differ, and are the same ones each time.
                sampling=replace(sampling, seed=None if query.seed is None else query.seed + n),
                decode=voice.renderer.decode,
                decode_bytes=voice.renderer.decode_bytes,
                beginning=beginning,
                stream=query.stream,
                deadline=self.options.deadline,
                tenant=query.tenant,
            )
            for ids, beginning, sampling in prepared
            for n in range(query.n)
        ]
        generations = as_asked(query, self.engine.submit(jobs))
        prompts = [ids for ids, *_ in prepared]
        texts = [
            prompt.text if isinstance(prompt, Text) and isinstance(prompt.text, str) else None
            for prompt in query.prompts
        ]
        engine, renderer = self.engine.name_of(model), voice.renderer
        return Answers(model.id, model.kind, engine, prompts, texts, generations, renderer)

    async def _start_remote(self, query: Query, name: str) -> Answers:
        """Pass a query on as it came: nobody here knows that model's tokenizer."""
        engine, _, model = name.removeprefix(REMOTE).partition("/")
        if engine not in self.remotes:
            advice = nearest(engine, self.remotes)
            raise RegistryError(f"There is no engine '{engine}'.", advice=advice)
        most = self.options.max_new_tokens
        rules = Sampling(
            max_tokens=most if query.max_tokens is None else min(query.max_tokens, most),
            temperature=query.temperature,
            top_p=query.top_p,
            top_k=query.top_k,
            min_p=query.min_p,
            stops=tuple(query.stops),
            logprobs=query.logprobs,
        )
        asked = [
            Asked(prompt, replace(rules, seed=None if query.seed is None else query.seed + n))
            for prompt in query.prompts
            for n in range(query.n)
        ]
        base = await asyncio.to_thread(self.catalog.resolve, self.options.base)
        renderer = (await asyncio.to_thread(self.voice, base)).renderer
        generations: list[Generation] = [*self.remotes[engine].ask(asked, model or None)]
        texts = [
            prompt.text if isinstance(prompt, Text) and isinstance(prompt.text, str) else ""
            for prompt in query.prompts
        ]
        prompts: list[list[int]] = [[] for _ in query.prompts]
        return Answers(name, "remote", engine, prompts, texts, generations, renderer)

    def load(self, model: Servable | str | None) -> Servable:
        """Load a model before it is asked for; blocks."""
        if not isinstance(model, Servable):
            model = self.catalog.resolve(model)
        self.voice(model)
        self.engine.load(model)
        return model

    def _prepare(
        self, query: Query, resolve: Callable[[str | None], Servable] | None
    ) -> tuple[Servable, list[tuple[list[int], Beginning | None, Sampling]]]:
        model = (resolve or self.catalog.resolve)(query.model)
        voice = self.voice(model)
        try:
            return model, [self._render(prompt, query, voice, model) for prompt in query.prompts]
        except ModelError as error:
            # The renderer refuses what was asked: no FIM tokens, roles its template rejects.
            raise BadRequestError(error.message, param="prompt", advice=error.advice) from error

    def _render(
        self, prompt: Prompt, query: Query, voice: Voice, model: Servable
    ) -> tuple[list[int], Beginning | None, Sampling]:
        """The prompt's ids and the rules for its answer, within the model's window."""
        renderer = voice.renderer
        if renderer.fim and isinstance(prompt, Text):
            prompt = _understood(prompt)
        most = min(query.max_tokens or self.options.max_new_tokens, self.options.max_new_tokens)
        is_chat = isinstance(prompt, Chat)
        stops = renderer.chat_stops if is_chat else renderer.fim_stops
        gap = None
        if isinstance(prompt, Fim):
            gap = GapEdges.of(prompt.prefix + prompt.begun, prompt.suffix)
            most = max(1, min(most, voice.window // 2))
            opening = self._fim(prompt, most, voice, model)
            ids, beginning = opening.ids, opening.beginning
        else:
            ids, beginning = self._ids(prompt, renderer), None
            room = voice.window - len(ids)
            if room < 1:
                raise BadRequestError(
                    f"The prompt has {len(ids)} tokens; this model's window is {voice.window} "
                    "tokens, the answer included.",
                    param="messages" if isinstance(prompt, Chat) else "prompt",
                    advice="Send a shorter prompt.",
                )
            most = min(most, room)
        sampling = Sampling(
            max_tokens=most,
            temperature=query.temperature,
            top_p=query.top_p,
            top_k=query.top_k,
            min_p=query.min_p,
            stops=(*query.stops, *([voice.turn] if is_chat and voice.turn else [])),
            stop_ids=frozenset(stops),
            logprobs=query.logprobs,
            gap=gap,
        )
        return ids, beginning, sampling

    def _ids(self, prompt: Text | Chat, renderer: Renderer) -> list[int]:
        if isinstance(prompt, Chat):
            return renderer.chat(prompt.messages)
        if isinstance(prompt.text, str):
            ids = renderer.start(None, None) + renderer.plain(prompt.text)
            return ids or [renderer.eos_id]  # a model goes on from something
        ids = list(prompt.text)
        if not ids or not all(0 <= i < renderer.vocab_size for i in ids):
            raise BadRequestError(
                f"Token ids have to be 0 to {renderer.vocab_size - 1}, at least one.",
                param="prompt",
            )
        return ids

    def _fim(self, prompt: Fim, most: int, voice: Voice, model: Servable) -> Opening:
        renderer, window = voice.renderer, voice.window
        repo, path, prefix = prompt.repo or model.repository, prompt.path, prompt.prefix
        begun, ids = prompt.begun, renderer.plain(prompt.begun)
        if len(ids) > window // 8:
            prefix, begun, ids = prefix + begun, "", []
        # The word at the cursor may take other tokens than before when it is written again.
        most += len(ids) + min(LONGEST, window // 16) * (renderer.order != "psm")
        context: list[int] = []

        def fit() -> Fitted:
            return fit_fim(
                renderer, prefix, prompt.suffix, window, most, repo=repo, path=path, context=context
            )

        fitted = fit()
        if prompt.context:
            left = window - len(renderer.fim_prompt(*fitted, repo=repo, path=path)) - most
            context = fit_context(renderer, prompt.context, max(left, window // 4) - _PATH)
            fitted = fit()
        place: dict[str, Any] = {"repo": repo, "path": path, "context": context}
        if self.engine.name_of(model) != EMBEDDED_ENGINE:
            # Other engines cannot be told what an answer has to begin with.
            return Opening(renderer.fim_prompt(*fitted, **place) + ids)
        return renderer.fim_opening(*fitted, begun=begun, **place)

    def voice(self, model: Servable) -> Voice:
        """How to speak to `model`.

        Raises:
            UnservableModelError: its tokenizer or its config cannot be used.
        """
        if (known := self._voices.get(_key(model))) is not None:
            return known  # without waiting for another one to be read
        with self._lock:
            if (voice := self._voices.get(_key(model))) is None:
                weights = model.base.path if model.kind == "adapter" else model.folder
                try:
                    renderer = Renderer.from_folder(model.tokenizer_folder, model.template)
                    window = _window(read_json(weights / "config.json"))
                    voice = Voice(renderer, window, turn_line(renderer))
                except ModelError as error:
                    message = error.message.replace(f"{model.tokenizer_folder}/", "")
                    raise UnservableModelError(
                        f"'{model.id}' cannot be served: {message}"
                    ) from error
                self._voices[_key(model)] = voice
            return voice


def turn_line(renderer: Renderer) -> str | None:
    """The line that opens an answer; None where the template opens it with a control token.

    A small model may forget the token that ends its answer and hold a conversation with itself.
    """
    asked = [{"role": "user", "content": "x"}]
    try:
        before, whole = (
            renderer.decode(renderer.chat(asked, add_generation_prompt=more), keep_control=True)
            for more in (False, True)
        )
    except ModelError:  # who wants to chat is told so
        return None
    opening = whole.removeprefix(before)
    if opening == whole or not opening.strip() or any(name in opening for name in renderer.markup):
        return None
    return "\n" + opening.strip() + ("\n" if opening.endswith("\n") else "")


def _key(model: Servable) -> str:
    """Adapters speak as their base does, unless they learned another template."""
    as_base = model.kind == "adapter" and model.template is None
    return str(model.base.path) if as_base else model.key


def _understood(prompt: Text) -> Text | Fim:
    """Editors render FIM themselves, in the markup that they guess from the model's name."""
    foreign = transcode(prompt.text) if isinstance(prompt.text, str) else None
    if foreign is None:
        return prompt
    return Fim(foreign.prefix, foreign.suffix, foreign.path, foreign.repo, context=foreign.context)


def _window(config: dict[str, object]) -> int:
    window = model_window(config)
    if window is None:
        raise ModelError("config.json does not say how long the model's window is.")
    return window


def _size(prompt: Prompt) -> int:
    if isinstance(prompt, Fim):
        around = len(prompt.prefix) + len(prompt.begun) + len(prompt.suffix)
        return around + sum(len(file.text) for file in prompt.context)
    if isinstance(prompt, Chat):
        return sum(len(str(message.get("content", ""))) for message in prompt.messages)
    return len(prompt.text)
