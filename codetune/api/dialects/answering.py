"""Answers under way, collected or streamed, as long as somebody listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import JSONResponse, Response

from codetune.api.errors import Failure, failure_of
from codetune.api.stream import EventStream, while_connected
from codetune.api.watch import RequestRecord, record_of
from codetune.serving.complete import Answers
from codetune.serving.engine import Finish, Generation, Piece, TokenScore
from codetune.serving.query import Query


class Cut(Protocol):
    """Ends an answer by rules that only its dialect knows."""

    def push(self, text: str) -> tuple[str, bool]:
        """What of `text` belongs to the answer, and whether it ends here."""


class Unsaid:
    """A `Cut` for requests that only want the prompt to be read."""

    def push(self, text: str) -> tuple[str, bool]:
        return "", True


@dataclass
class Whole:
    """An answer as far as it has come; times are in seconds since the request."""

    texts: list[str] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    finish: Finish = field(default_factory=lambda: Finish("length", 0))
    first: float = 0.0  # when its first piece came
    last: float = 0.0  # when it was complete

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Run:
    """The answers to one request; what has come of each stands in `wholes`."""

    def __init__(self, answers: Answers, query: Query) -> None:
        self.asked_model, self.prompts, self.texts = answers.model, answers.prompts, answers.texts
        self.kind = answers.kind
        self.query = query
        self.created = int(time.time())
        self.cuts: Sequence[Cut] = ()  # one for each answer, or none at all
        self.wholes = [Whole() for _ in answers.generations]
        self._started = time.perf_counter()
        self._generations, self._renderer = answers.generations, answers.renderer

    @property
    def model(self) -> str:
        """Who answers: the model that was asked, unless an engine says otherwise."""
        said = (whole.finish.model for whole in self.wholes)
        return next((name for name in said if name), self.asked_model)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        counted = [whole.finish.prompt_tokens for whole in self.wholes[:: self.query.n]]
        pairs = zip(self.prompts, counted, strict=True)
        return sum(len(ids) if count is None else count for ids, count in pairs)

    @property
    def tokens(self) -> int:
        """Tokens of all answers that are complete."""
        return sum(whole.finish.tokens for whole in self.wholes)

    def prompt_text(self, index: int) -> str:
        """What answer `index` goes on from, as text."""
        text = self.texts[index // self.query.n]
        return self._renderer.decode(self.prompt(index)) if text is None else text

    def prompt(self, index: int) -> list[int]:
        """The ids that answer `index` goes on from."""
        return self.prompts[index // self.query.n]

    async def collect(self) -> list[Whole]:
        """All answers, complete."""
        await asyncio.gather(*(self._drain(index) for index in range(len(self.wholes))))
        return self.wholes

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """The pieces of all answers as they come, each with its answer's index."""
        if len(self.wholes) == 1:
            async for piece in self._pieces_of(0):
                yield 0, piece
            return
        queue: asyncio.Queue[tuple[int, Piece | BaseException]] = asyncio.Queue()

        async def forward(index: int) -> None:
            try:
                async for piece in self._pieces_of(index):
                    queue.put_nowait((index, piece))
            except Exception as error:
                queue.put_nowait((index, error))

        tasks = [asyncio.create_task(forward(index)) for index in range(len(self.wholes))]
        try:
            running = len(tasks)
            while running:
                index, event = await queue.get()
                if isinstance(event, BaseException):
                    raise event
                running -= event.finish is not None
                yield index, event
        finally:
            for task in tasks:
                task.cancel()

    def cancel(self) -> None:
        """Nobody listens any more: the places are free before the next step."""
        for generation in self._generations:
            generation.cancel()

    async def _drain(self, index: int) -> None:
        async for _ in self._pieces_of(index):
            pass

    async def _pieces_of(self, index: int) -> AsyncIterator[Piece]:
        whole = self.wholes[index]
        generation: Generation = self._generations[index]
        async for piece in generation:
            whole.last = time.perf_counter() - self._started
            known = piece.finish.first if piece.finish else None
            whole.first = min(known or whole.first or whole.last, whole.last)
            said = self._cut(index, piece) if self.cuts else piece
            whole.texts.append(said.text)
            whole.scores += said.scores
            if said.finish:
                whole.finish = said.finish
            yield said
            if said.finish:
                generation.cancel()
                return

    def _cut(self, index: int, piece: Piece) -> Piece:
        text, ended = self.cuts[index].push(piece.text)
        whole = self.wholes[index]
        if not ended:
            return Piece(text, piece.finish, piece.scores)
        tokens = len(self._renderer.plain(whole.text + text))
        reused = piece.finish.reused if piece.finish else 0
        return Piece(text, Finish("length", tokens, reused=reused), piece.scores)


class Shape(Protocol):
    """How a dialect words its answers."""

    media_type: str

    def whole(self, run: Run) -> Any:
        """The JSON of complete answers."""

    def opening(self, run: Run) -> list[bytes]:
        """What a stream begins with."""

    def piece(self, run: Run, index: int, piece: Piece) -> list[bytes]:
        """What a stream says of a piece."""

    def closing(self, run: Run) -> list[bytes]:
        """What a stream says when all answers are complete."""

    def broken(self, failure: Failure) -> list[bytes]:
        """What a stream says when it breaks off."""


async def respond(request: Request, run: Run, shape: Shape, *, stream: bool) -> Response:
    """Send the answers of `run` in the words of `shape`.

    Raises:
        ServingError, ModelError: before anything was sent.
        ClientGoneError: the client went away.
    """
    try:
        if not stream:
            await while_connected(request, run.collect())
            return JSONResponse(shape.whole(run))
        pieces = run.pieces()
        # An error before the first piece still gets its status.
        first = await while_connected(request, _next(pieces))
    except BaseException:
        run.cancel()
        raise
    record = record_of(request)
    return EventStream(_stream(run, shape, record, first, pieces), shape.media_type)


async def _stream(
    run: Run,
    shape: Shape,
    record: RequestRecord,
    first: tuple[int, Piece],
    rest: AsyncIterator[tuple[int, Piece]],
) -> AsyncIterator[bytes]:
    try:
        for event in shape.opening(run):
            yield event
        for event in shape.piece(run, *first):
            yield event
        async for index, piece in rest:
            for event in shape.piece(run, index, piece):
                yield event
        for event in shape.closing(run):
            yield event
    except Exception as error:
        failure = failure_of(error, record.id)
        record.error = failure.code or "failed"
        for event in shape.broken(failure):
            yield event
    finally:
        run.cancel()


async def _next(pieces: AsyncIterator[tuple[int, Piece]]) -> tuple[int, Piece]:
    return await anext(pieces)
